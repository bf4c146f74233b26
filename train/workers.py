"""Processes that compute ahead of whoever needs it: spectrograms of recordings and of their variations.

with workers(2) as starmap:
    for static in starmap(spectrogram, [(wave, frontend), ...]):  # in order, begun at once
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

MAX_WORKERS = 64
SAY_EVERY_S = 2.0


def check_n(n):
    """Raises ValueError for n not in 0..MAX_WORKERS."""
    if not 0 <= n <= MAX_WORKERS:
        raise ValueError(f"{n} workers: choose 0 to {MAX_WORKERS}")


@contextlib.contextmanager
def workers(n):
    """-> as itertools.starmap, for functions and arguments that pickle; n processes work on all calls from the start.

    With n = 0 it is itertools.starmap: each call happens here, when its result is asked for. The results are the same.
    Raises ValueError for n not in 0..MAX_WORKERS.
    """
    check_n(n)
    if n == 0:
        yield itertools.starmap
        return
    with processes(n) as pool:

        def starmap(work, calls):
            with deaf_to_ctrl_c():
                jobs = [pool.submit(work, *call) for call in calls]
            return _results(jobs)

        yield starmap


def _results(jobs):
    """Yields the results in order; keeps none of them."""
    jobs.reverse()
    while jobs:
        yield jobs.pop().result()


def counted(results, n, what):
    """Yields the results, and says on stderr how many of n there are where that takes long."""
    started = said = time.monotonic()
    for i, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if now - said > SAY_EVERY_S or (i == n and said > started):
            said = now
            end = "\n" if i == n else ""
            print(f"\r{what} {i}/{n}  {now - started:.0f} s", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def processes(n, begin=None):
    """-> a ProcessPoolExecutor of n processes of one thread each, which first call `begin`.

    An error, or Ctrl-C, ends all of them in silence: what they did must be on disk at any moment, or of no use. A killed
    caller takes them with it. Submit within `deaf_to_ctrl_c`. Raises ChildProcessError where one was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, mp_context=context, initializer=_begin, initargs=(begin,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process at work was killed, perhaps for want of memory: let fewer of them work at once"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


@contextlib.contextmanager
def deaf_to_ctrl_c():
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


def _begin(begin):
    """In a process: end when the one that started it is gone, killed say, instead of working on for nobody."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if begin:
        begin()
