"""What every front end needs to give on a stream, bit for bit, what it gives offline: absolute indices, fixed shapes."""

import threading
from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import DTypeLike

BATCH = (
    8  # rows per matrix product: frame t is always row t % BATCH, because BLAS sums in another order for other shapes
)
BLOCK = 64  # frames computed at once at most: more would leave the cache


class Tape:
    """The samples still needed of an endless signal, addressed by their absolute index from `first` on; zeros before."""

    def __init__(self, first: int = 0) -> None:
        self._buffer = np.zeros(0, np.float32)
        self._begin = self._end = 0  # what is held of the buffer
        self._first = self._start = first

    @property
    def stop(self) -> int:
        return self._start + self.n_held

    @property
    def n_held(self) -> int:
        """Samples held."""
        return self._end - self._begin

    def append(self, samples: np.ndarray) -> None:
        self.extend(len(samples))[:] = samples

    def extend(self, n: int) -> np.ndarray:
        """-> (n,) view to be filled in: the samples from `stop` on."""
        if self._end + n > len(self._buffer):
            held = self._buffer[self._begin : self._end]
            if self.n_held + n > len(self._buffer):
                self._buffer = np.empty(self.n_held + 2 * n, np.float32)
            self._buffer[: len(held)] = held
            self._begin, self._end = 0, len(held)
        self._end += n
        return self._buffer[self._end - n : self._end]

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) samples, a view that lives until the next `append`."""
        if start < self._first:
            silence = np.zeros(min(stop, self._first) - start, np.float32)
            return np.concatenate([silence, self.read(self._first, max(stop, self._first))])
        shift = self._begin - self._start
        assert self._start <= start and stop + shift <= self._end, (self._start, start, stop, self.stop)
        return self._buffer[start + shift : stop + shift]

    def forget(self, before: int) -> None:
        n = min(before, self.stop) - self._start
        if n > 0:
            self._begin += n
            self._start += n


class Scratch(threading.local):
    """Arrays used again and again, a set per thread: fresh ones of a megabyte cost as much as what is computed in them."""

    def __init__(self) -> None:
        self._arrays: dict[Hashable, np.ndarray] = {}

    def array(self, name: Hashable, n: int, *shape: int, dtype: DTypeLike = np.float32) -> np.ndarray:
        """-> (n, *shape), as it was left; zeros at first. `shape` and `dtype` are those of the first call of that name."""
        array = self._arrays.get(name)
        if array is None or len(array) < n:
            array = self._arrays[name] = np.zeros((n, *shape), dtype)
        return array[:n]


def framed(samples: np.ndarray, n: int, length: int, hop: int) -> np.ndarray:
    """(samples,) in one piece -> (n, length) view, a row every `hop` samples. Read it only: rows overlap."""
    step = samples.itemsize
    return np.ndarray((n, length), samples.dtype, samples, 0, (hop * step, step))  # as_strided takes ten times as long


class Rows:
    """Where the rows of start..stop lie in batches of BATCH; `grid`, BATCH or 1, is what batch_grid said."""

    def __init__(self, start: int, stop: int, grid: int) -> None:
        before = start % grid
        self.n_used = stop - start
        self.n_batches = -(-(before + self.n_used) // BATCH)
        self.used = slice(before, before + self.n_used)

    def of(self, batches: np.ndarray) -> np.ndarray:
        """(n_batches, BATCH, length) in one piece -> (n_used, length) view."""
        return batches.reshape(-1, batches.shape[2])[self.used]


def batch_grid(matrices: Iterable[np.ndarray]) -> int:
    """1 if a product of BATCH rows with these gives a row the same numbers wherever it lies; BATCH if it must stay.

    BLAS computes rows in groups, and may sum in another order in the last one. Asked of the BLAS at hand: equal rows in,
    equal rows out.
    """
    rng = np.random.default_rng(0)
    for matrix in matrices:
        product = np.tile(rng.standard_normal(len(matrix), dtype=np.float32), (BATCH, 1)) @ matrix
        if not np.array_equal(product, np.broadcast_to(product[0], product.shape)):
            return BATCH
    return 1
