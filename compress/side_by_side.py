"""Trainings in processes of one thread each, side by side: they use the cores better than one training with many."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed

MAX_JOBS = 64


def side_by_side(function, calls, n_jobs):
    """Call function(*call) for each of `calls`, up to n_jobs at once; yields results as they come.

    function and its arguments must pickle. With one job everything happens here. The first error, or Ctrl-C, ends them
    all: what they did up to there is in their checkpoints.
    """
    if not 1 <= n_jobs <= MAX_JOBS:
        raise ValueError(f"{n_jobs} trainings side by side: choose 1 to {MAX_JOBS}")
    if n_jobs == 1 or len(calls) < 2:
        for call in calls:
            yield function(*call)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_jobs, len(calls)), mp_context=context, initializer=_end_with_parent) as pool:
        # A terminal sends Ctrl-C to all processes: only this one listens, or each worker prints where it was.
        listening = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the workers, started by `submit`
        try:
            jobs = [pool.submit(function, *call) for call in calls]
        finally:
            signal.signal(signal.SIGINT, listening)
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _end_with_parent():
    """In a worker: end when the process that started it is gone, killed say, instead of training on for nobody."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
