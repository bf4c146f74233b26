"""Constant-Q transform: every octave as a matrix product with the samples around a frame, at the lowest rate that does."""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from runtime import filterbanks
from runtime.spectrum import FLOOR_POWER, decibels
from runtime.tape import BATCH, Rows, Scratch, Tape, batch_grid, framed

if TYPE_CHECKING:
    from runtime.frontend import Frontend

STEP = 128  # samples of the upper rate between two rows of a decimation's matrix product, or a few less
DECIMATED = 4096  # samples of the lower rate computed at once at most: more would leave the cache
SIDE_LOBES = 46  # bands: what is farther from a kernel's centre it hears 110 dB below it
TAIL = 1e-9  # of a kernel's sum of magnitudes may be cut off


class CqtPlan:
    """Octave by octave: the lower an octave, the more often the recording is halved first (while the hop stays whole).

    That is librosa's plan, with librosa's filter, and needed where a kernel hears how the filter ends. Octaves far
    below that are decimated once more, by an odd factor of the hop, if that saves half of the work.

    octaves: (level, kernels), highest octave first; kernels (samples, 2 * bands), a band's real and imaginary part side
    by side, the middle row on the frame's centre. strides: samples of the recording per sample of each level.
    """

    def __init__(self, frontends: Sequence["Frontend"]) -> None:
        (frontend,) = frontends
        self.hop, self.n_bands, self._log = frontend.hop_length, (frontend.n_bands,), frontend.log
        levels, n_halvings, factor = _levels(frontend)
        self.decimators = [_decimator(2)] * min(n_halvings, max(levels))
        if max(levels) > n_halvings:
            self.decimators.append(_decimator(factor))
        self.strides = [1, *itertools.accumulate((d.factor for d in self.decimators), int.__mul__)]
        self.octaves = []
        for bands, level in zip(_octaves(frontend), levels):
            self.octaves.append((level, _kernels(frontend, bands, min(level, n_halvings), self.decimators[:level])))
        self._products = _products(self.octaves)
        # A decimated recording begins before its sample 0: the filter rings ahead of the first sample.
        self.first_samples = [0]
        reaches = [0]  # of all filters above a level, in samples of the recording
        for stride, decimator in zip(self.strides, self.decimators):
            self.first_samples.append((self.first_samples[-1] - decimator.reach) // decimator.factor)
            reaches.append(reaches[-1] + stride * decimator.reach)
        self.lookahead = max(reaches[at] + len(kernels) // 2 * self.strides[at] for at, kernels in self.octaves)
        self.lookback = self.lookahead
        self._grid = batch_grid(kernels for _, _, kernels in self._products)
        self._longest = [
            max((len(k) // 2 for at, k in self.octaves if at == i), default=0) for i in range(len(reaches))
        ]
        self._scratch = Scratch()

    @property
    def table_bytes(self) -> int:
        filters = {decimator.factor: decimator.matrix.nbytes for decimator in self.decimators}
        return sum(kernels.nbytes for _, kernels in self.octaves) + sum(filters.values())

    def descend(self, tapes: list[Tape]) -> None:
        """Decimate each level into the next as far as its samples reach."""
        for decimator, (upper, lower) in zip(self.decimators, itertools.pairwise(tapes)):
            stop = (upper.stop - decimator.reach - 1) // decimator.factor + 1
            for start in range(lower.stop, stop, DECIMATED):
                decimator.decimate(upper, lower, start, min(start + DECIMATED, stop))

    def forget(self, tapes: list[Tape], next_frame: int) -> None:
        for level, tape in enumerate(tapes):
            before = next_frame * self.hop // self.strides[level] - self._longest[level]
            if level < len(self.decimators):
                before = min(before, self.decimators[level].first_read(tapes[level + 1].stop))
            tape.forget(before)

    def block(self, tapes: list[Tape], start: int, stop: int) -> list[np.ndarray]:
        """Frames start..stop -> [(stop - start, n_bands)]."""
        rows = Rows(start, stop, self._grid)
        batches = self._scratch.array("response", rows.n_batches, BATCH, 2 * self.n_bands[0])
        response = rows.of(batches)
        for level, columns, kernels in self._products:
            hop, length = self.hop // self.strides[level], len(kernels)
            first = start * hop - length // 2
            samples = tapes[level].read(first, first + (rows.n_used - 1) * hop + length)
            taken = self._scratch.array(length, rows.n_batches, BATCH, length)  # BLAS wants rows that do not overlap
            rows.of(taken)[:] = framed(samples, rows.n_used, length, hop)
            np.matmul(taken, kernels, out=batches[..., columns])
        np.square(response, out=response)
        power = response[:, ::2] + response[:, 1::2]
        return [decibels(power, FLOOR_POWER) if self._log else power]


class Decimator:
    """Every factor-th sample of a low-passed signal: `run` of them per row of a matrix product, on an absolute grid."""

    def __init__(self, taps: np.ndarray, factor: int) -> None:
        self.taps, self.factor, self.reach, self.run = taps, factor, len(taps) // 2, STEP // factor
        self.matrix = np.zeros((factor * (self.run - 1) + len(taps), self.run), np.float32)
        for m in range(self.run):
            self.matrix[factor * m : factor * m + len(taps), m] = taps
        self._grid = batch_grid([self.matrix])
        self._scratch = Scratch()

    def first_read(self, next_sample: int) -> int:
        """The first sample of the upper rate that is needed from `next_sample` of the lower rate on."""
        return self.factor * (next_sample // self.run * self.run) - self.reach

    def decimate(self, upper: Tape, lower: Tape, start: int, stop: int) -> None:
        """Append samples start..stop of the lower rate; sample m sits on sample factor * m of the upper one.

        The last row may reach past the end of `upper`: zeros do there, for they only meet samples behind `stop`.
        """
        first, last = start // self.run, -(-stop // self.run)
        rows, length, step = Rows(first, last, self._grid), len(self.matrix), self.factor * self.run
        begin = self.first_read(start)
        samples = self._scratch.array("samples", (last - first - 1) * step + length)
        n = min(upper.stop - begin, len(samples))
        samples[:n] = upper.read(begin, begin + n)
        samples[n:] = 0
        taken = self._scratch.array("rows", rows.n_batches, BATCH, length)
        rows.of(taken)[:] = framed(samples, last - first, length, step)
        decimated = self._scratch.array("decimated", rows.n_batches, BATCH, self.run)
        np.matmul(taken, self.matrix, out=decimated)
        lower.append(rows.of(decimated).reshape(-1)[start - first * self.run : stop - first * self.run])


@lru_cache
def _decimator(factor: int) -> Decimator:
    """librosa's halving, or a decimation by an odd factor."""
    taps = filterbanks.halving_filter() if factor == 2 else filterbanks.decimation_filter(factor)
    return Decimator(taps, factor)


def _octaves(frontend: "Frontend") -> list[slice]:
    """The bands of each octave, the highest octave first."""
    n, per_octave = frontend.n_bands, frontend.bins_per_octave
    return [slice(max(0, top - per_octave), top) for top in range(n, 0, -per_octave)]


def _levels(frontend: "Frontend") -> tuple[list[int], int, int]:
    """-> each octave's level, 0 for the recording's own rate; how many of them are halvings; the last one's odd factor."""
    octaves, centers_hz = _octaves(frontend), frontend.centers_hz
    n_halvings = min(len(octaves) - 1, (frontend.hop_length & -frontend.hop_length).bit_length() - 1)
    factor = next((f for f in (5, 7, 3) if (frontend.hop_length >> n_halvings) % f == 0), 0)
    nyquists_hz = [frontend.sr / 2 / 2**level for level in range(n_halvings + 1)]
    passbands_hz = [np.inf, *(filterbanks.HALVING_PASSBAND * hz for hz in nyquists_hz[1:])]
    heard_hz = [
        centers_hz[b][-1] * (1 + SIDE_LOBES / filterbanks.cqt_quality(frontend.bins_per_octave)) for b in octaves
    ]
    levels = []
    for i, hz in enumerate(heard_hz):
        levels.append(max(i, *(level for level, passband_hz in enumerate(passbands_hz) if hz <= passband_hz)))
    levels = [min(level, n_halvings) for level in levels]
    if not factor:
        return levels, n_halvings, factor
    passband_hz = filterbanks.DECIMATION_PASSBAND * nyquists_hz[-1] / factor
    deeper = [n_halvings + 1 if hz <= passband_hz else level for hz, level in zip(heard_hz, levels)]

    def work(levels: list[int]) -> float:
        """Up to a factor: multiplications per frame."""
        strides = [2.0 ** min(level, n_halvings) * (factor if level > n_halvings else 1) for level in levels]
        return sum(len(centers_hz[b]) / centers_hz[b][0] / stride for b, stride in zip(octaves, strides))

    return (deeper if work(deeper) < work(levels) / 2 else levels), n_halvings, factor


def _kernels(frontend: "Frontend", bands: slice, n_halvings: int, decimators: list[Decimator]) -> np.ndarray:
    """-> (samples, 2 * bands) float32 of an octave, behind all of these decimations."""
    kernels = filterbanks.cqt_kernels(
        frontend.sr, frontend.centers_hz[bands], frontend.bins_per_octave, decimation=2**n_halvings
    )
    for decimator in decimators[n_halvings:]:
        kernels = filterbanks.decimated_kernels(kernels, decimator.taps, decimator.factor)
    kernels = filterbanks.trimmed(kernels, TAIL)
    return np.stack([kernels.real, kernels.imag], axis=-1).reshape(len(kernels), -1).astype(np.float32)


def _products(octaves: list[tuple[int, np.ndarray]]) -> list[tuple[int, slice, np.ndarray]]:
    """-> (level, columns of all bands', kernels): octaves of one level and length are one product, for it costs less."""
    products, top = [], sum(kernels.shape[1] for _, kernels in octaves)
    for (level, _), group in itertools.groupby(octaves, lambda octave: (octave[0], len(octave[1]))):
        members = [kernels for _, kernels in group]
        kernels = members[0] if len(members) == 1 else np.concatenate(members[::-1], axis=1)
        products.append((level, slice(top - kernels.shape[1], top), kernels))
        top -= kernels.shape[1]
    return products
