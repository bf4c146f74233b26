"""Trainings side by side, one process and one thread each: three use two cores better than one after the other."""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

MAX_JOBS = 64


def side_by_side(work, calls, n_jobs=None):
    """Yields work(*call) of each call as it ends, up to n_jobs at once (default: all). With one job everything happens here.

    `work` and its arguments must pickle. The first error, or Ctrl-C, ends all of them in silence: what they did must be on
    disk at any moment. A killed caller takes them with it. Raises ValueError for n_jobs not in 1..MAX_JOBS.
    """
    if n_jobs is None:
        n_jobs = len(calls)
    elif not 1 <= n_jobs <= MAX_JOBS:
        raise ValueError(f"{n_jobs} trainings side by side: choose 1 to {MAX_JOBS}")
    if n_jobs == 1 or len(calls) < 2:
        for call in calls:
            yield work(*call)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_jobs, len(calls)), mp_context=context, initializer=_begin) as pool:
        try:
            with _deaf_to_ctrl_c():
                jobs = [pool.submit(work, *call) for call in calls]
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():  # what they did is on disk
                worker.terminate()
            raise


@contextlib.contextmanager
def _deaf_to_ctrl_c():
    """Processes started within never hear it: a terminal sends it to all, and each would print where it was.

    Blocked and not ignored: a Ctrl-C of these moments reaches this process when they are over.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin():
    """In a worker: end when the process that started it is gone, killed say, instead of training on for nobody."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
