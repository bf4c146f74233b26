"""Trainings side by side, one process and one thread each: three use two cores better than one after the other."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch


def side_by_side(work, calls):
    """Yields work(*call) of each call as it ends, every call in a process of its own. A killed one ends with its parent.

    Ctrl-C ends all of them in silence: what they did must be on disk at any moment.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(calls), mp_context=context, initializer=_begin) as pool:
        # A terminal sends Ctrl-C to all processes: only this one listens, or each worker prints where it was.
        listening = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the workers, started by `submit`
        try:
            jobs = [pool.submit(work, *call) for call in calls]
        finally:
            signal.signal(signal.SIGINT, listening)
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            for worker in multiprocessing.active_children():  # what they did is on disk
                worker.terminate()
            raise


def _begin():
    """In a worker: end when the process that started it is gone, killed say, instead of training on for nobody."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
