"""What every front end needs to give on a stream, bit for bit, what it gives offline: absolute indices, fixed batches."""

import itertools

import numpy as np

BATCH = (
    16  # rows per matrix product: frame t is always row t % BATCH, because BLAS sums in another order for other shapes
)
BLOCK = 4 * BATCH  # frames computed at once at most: more would leave the cache


class Tape:
    """The samples still needed of an endless signal, addressed by their absolute index from `first` on; zeros before."""

    def __init__(self, first: int = 0) -> None:
        self._samples = np.zeros(0, np.float32)
        self._first = self._start = first

    @property
    def stop(self) -> int:
        return self._start + len(self._samples)

    def append(self, samples: np.ndarray) -> None:
        self._samples = np.concatenate([self._samples, samples])

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) samples."""
        if start < self._first:
            silence = np.zeros(min(stop, self._first) - start, np.float32)
            return np.concatenate([silence, self.read(self._first, max(stop, self._first))])
        assert self._start <= start and stop <= self.stop, (self._start, start, stop, self.stop)
        return self._samples[start - self._start : stop - self._start]

    def forget(self, before: int) -> None:
        if before > self._start:
            self._samples = self._samples[before - self._start :]
            self._start = before


def grid(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """start..stop cut at the multiples of `size`."""
    cuts = [start, *range(start - start % size + size, stop, size), stop]
    return list(itertools.pairwise(cuts)) if start < stop else []


def framed(samples: np.ndarray, n: int, length: int, hop: int) -> np.ndarray:
    """(samples,) -> (n, length) view, a row every `hop` samples."""
    step = samples.strides[0]
    return np.lib.stride_tricks.as_strided(samples, (n, length), (hop * step, step), writeable=False)


def batches(rows: np.ndarray, start: int) -> np.ndarray:
    """(n, length), the rows from index `start` on -> (n_batches, BATCH, length), zeros where other rows would lie."""
    before = start % BATCH
    after = -(before + len(rows)) % BATCH
    if before or after:
        padded = np.zeros((before + len(rows) + after, rows.shape[1]), rows.dtype)
        padded[before : before + len(rows)] = rows
        rows = padded
    return rows.reshape(-1, BATCH, rows.shape[1])  # a copy where rows overlap: BLAS wants them apart


def unbatched(products: np.ndarray, start: int, n: int) -> np.ndarray:
    """(n_batches, BATCH, length) -> (n, length): inverse of `batches`."""
    return products.reshape(-1, products.shape[-1])[start % BATCH : start % BATCH + n]
