"""Trainings side by side, one process and one thread each: three use two cores better than one after the other."""

from concurrent.futures import as_completed

import torch

from train.workers import deaf_to_ctrl_c, processes

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
    with processes(min(n_jobs, len(calls)), _one_thread) as pool:
        with deaf_to_ctrl_c():
            jobs = [pool.submit(work, *call) for call in calls]
        for job in as_completed(jobs):
            yield job.result()


def _one_thread():
    torch.set_num_threads(1)
