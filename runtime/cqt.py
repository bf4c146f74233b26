"""Constant-Q transform: every octave as a matrix product with the samples around a frame, at the lowest rate that does."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from runtime import filterbanks
from runtime.spectrum import FLOOR_POWER, decibels
from runtime.tape import BATCH, Rows, Scratch, Tape, batch_grid, framed

if TYPE_CHECKING:
    from runtime.frontend import Frontend

STEP = 128  # samples of the upper rate between two rows of a decimation's matrix product
DECIMATED = 4096  # samples of the lower rate computed at once at most: more would leave the cache
DEEP = 8  # what the rate is divided by once more where the hop can no longer be halved
SIDE_LOBES = 60  # bands: what is farther from a kernel's centre it hears 116 dB below it
TAIL = 1e-9  # of a kernel's sum of magnitudes may be cut off


class CqtPlan:
    """Octave by octave: the lower an octave, the more often the recording is halved first (while the hop stays whole).

    That is librosa's plan, with librosa's filter: a kernel near the end of its rate hears how the filter ends. Octaves
    far enough below it are computed at a DEEP-th of the lowest such rate, if that saves half of the work. Frames lie
    between its samples then, and each of the phases has kernels of its own.

    octaves: (level, kernels), highest octave first; kernels (samples, 2 * bands), a band's real and imaginary part side
    by side, the middle row on the frame's centre; where there are phases, those of the first.
    """

    def __init__(self, frontends: Sequence["Frontend"]) -> None:
        (frontend,) = frontends
        self.hop, self.n_bands, self._log = frontend.hop_length, (frontend.n_bands,), frontend.log
        levels, n_halvings = _levels(frontend)
        self.decimators = [_halving()] * n_halvings + [_deep()] * (max(levels) - n_halvings)
        self.decimators = self.decimators[: max(levels)]
        # Samples of the recording per sample of each level.
        self.strides = [1, *itertools.accumulate((d.factor for d in self.decimators), int.__mul__)]
        self.phases = [_kernels(frontend, *octave, n_halvings) for octave in zip(_octaves(frontend), levels)]
        self.octaves = [(level, phases[0]) for level, phases in zip(levels, self.phases)]
        self._products = _products(levels, self.phases)
        # A decimated recording begins before its sample 0: the filter rings ahead of the first sample.
        self.first_samples = [0]
        reaches = [0]  # of all filters above a level, in samples of the recording
        for stride, decimator in zip(self.strides, self.decimators):
            self.first_samples.append((self.first_samples[-1] - decimator.reach) // decimator.factor)
            reaches.append(reaches[-1] + stride * decimator.reach)
        self.lookahead = max(reaches[at] + len(kernels) // 2 * self.strides[at] for at, kernels in self.octaves)
        self.lookback = self.lookahead + self.strides[-1] - math.gcd(self.strides[-1], self.hop)
        self._grid = batch_grid(phases[0] for _, _, phases in self._products)
        self._longest = [
            max((len(k) // 2 for at, k in self.octaves if at == i), default=0) for i in range(len(reaches))
        ]
        self._scratch = Scratch()

    @property
    def table_bytes(self) -> int:
        filters = {decimator.factor: decimator.matrix.nbytes for decimator in self.decimators}
        return sum(phases.nbytes for phases in self.phases) + sum(filters.values())

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
        for level, columns, phases in self._products:
            if self.hop % self.strides[level]:
                self._between_samples(tapes[level], self.strides[level], phases, response[:, columns], start)
            else:
                hop = self.hop // self.strides[level]
                self._on_samples(tapes[level], hop, phases[0], batches[..., columns], start, rows)
        np.square(response, out=response)
        power = response[:, ::2] + response[:, 1::2]
        return [decibels(power, FLOOR_POWER) if self._log else power]

    def _on_samples(self, tape: Tape, hop: int, kernels: np.ndarray, out: np.ndarray, start: int, rows: Rows) -> None:
        """The responses of the frames from `start` on into `out` (n_batches, BATCH, 2 * bands)."""
        length, first = len(kernels), start * hop - len(kernels) // 2
        samples = tape.read(first, first + (rows.n_used - 1) * hop + length)
        taken = self._scratch.array(length, rows.n_batches, BATCH, length)  # BLAS wants rows that do not overlap
        rows.of(taken)[:] = framed(samples, rows.n_used, length, hop)
        np.matmul(taken, kernels, out=out)

    def _between_samples(self, tape: Tape, stride: int, phases: np.ndarray, out: np.ndarray, start: int) -> None:
        """The responses of the frames from `start` on into `out` (frames, 2 * bands), one product per frame."""
        n_phases, length, n = *phases.shape[:2], len(out)
        period = self.hop * n_phases // stride  # samples between two frames of one phase
        for i in range(min(n_phases, n)):
            first, n_frames = (start + i) * self.hop // stride - length // 2, (n - 1 - i) // n_phases + 1
            samples = tape.read(first, first + (n_frames - 1) * period + length)
            frames = framed(samples, n_frames, length, period)[:, None]
            np.matmul(frames, phases[(start + i) % n_phases], out=out[i::n_phases, None])


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
        rows, length = Rows(first, last, self._grid), len(self.matrix)
        begin = self.first_read(start)
        samples = self._scratch.array("samples", (last - first - 1) * STEP + length)
        n = min(upper.stop - begin, len(samples))
        samples[:n] = upper.read(begin, begin + n)
        samples[n:] = 0
        taken = self._scratch.array("rows", rows.n_batches, BATCH, length)
        rows.of(taken)[:] = framed(samples, last - first, length, STEP)
        decimated = self._scratch.array("decimated", rows.n_batches, BATCH, self.run)
        np.matmul(taken, self.matrix, out=decimated)
        lower.append(rows.of(decimated).reshape(-1)[start - first * self.run : stop - first * self.run])


@lru_cache(maxsize=1)
def _halving() -> Decimator:
    return Decimator(filterbanks.halving_filter(), 2)


@lru_cache(maxsize=1)
def _deep() -> Decimator:
    return Decimator(filterbanks.decimation_filter(DEEP), DEEP)


def _octaves(frontend: "Frontend") -> list[slice]:
    """The bands of each octave, the highest octave first."""
    n, per_octave = frontend.n_bands, frontend.bins_per_octave
    return [slice(max(0, top - per_octave), top) for top in range(n, 0, -per_octave)]


def _levels(frontend: "Frontend") -> tuple[list[int], int]:
    """-> the level of each octave, 0 for the recording's own rate; and how many of them are halvings."""
    octaves, centers_hz = _octaves(frontend), frontend.centers_hz
    n_halvings = min(len(octaves) - 1, (frontend.hop_length & -frontend.hop_length).bit_length() - 1)
    heard = 1 + SIDE_LOBES / filterbanks.cqt_quality(frontend.bins_per_octave)
    nyquists_hz = [frontend.sr / 2 / 2**level for level in range(n_halvings + 1)]
    passbands_hz = [0.0, *(filterbanks.HALVING_PASSBAND * hz for hz in nyquists_hz[1:])]
    levels = []
    for i, bands in enumerate(octaves):
        lowest = max(level for level, hz in enumerate(passbands_hz) if not level or centers_hz[bands][-1] * heard <= hz)
        levels.append(max(min(i, n_halvings), lowest))
    deep_hz = filterbanks.DECIMATION_PASSBAND * nyquists_hz[-1] / DEEP
    deep = [n_halvings + 1 if centers_hz[bands][-1] * heard <= deep_hz else at for bands, at in zip(octaves, levels)]

    def work(levels: list[int]) -> float:
        """Up to a factor: multiplications per frame."""
        strides = [2.0 ** min(level, n_halvings) * (DEEP if level > n_halvings else 1) for level in levels]
        return sum(len(centers_hz[b]) / centers_hz[b][0] / stride for b, stride in zip(octaves, strides))

    return (deep if work(deep) < work(levels) / 2 else levels), n_halvings


def _kernels(frontend: "Frontend", bands: slice, level: int, n_halvings: int) -> np.ndarray:
    """-> (phases, samples, 2 * bands) float32: kernels of the frames 0, 1, ... phases - 1, and then again."""
    stride = 2 ** min(level, n_halvings)
    kernels = filterbanks.cqt_kernels(frontend.sr, frontend.centers_hz[bands], frontend.bins_per_octave, stride)
    phases = [kernels]
    if level > n_halvings:
        n_phases = stride * DEEP // math.gcd(stride * DEEP, frontend.hop_length)
        offsets = [t * frontend.hop_length // stride % DEEP for t in range(n_phases)]
        taps = _deep().taps
        phases = [filterbanks.decimated_kernels(kernels, taps, DEEP, offset) for offset in offsets]
    trimmed = np.split(filterbanks.trimmed(np.concatenate(phases, axis=1), TAIL), len(phases), axis=1)
    columns = np.stack([np.stack([kernels.real, kernels.imag], axis=-1) for kernels in trimmed])
    return np.ascontiguousarray(columns.reshape(len(phases), len(trimmed[0]), -1), np.float32)


def _products(levels: list[int], octaves: list[np.ndarray]) -> list[tuple[int, slice, np.ndarray]]:
    """-> (level, columns of all bands', kernels); octaves of one level and length are one product, for it costs less."""
    products, top = [], sum(phases.shape[2] for phases in octaves)
    for (level, _), group in itertools.groupby(zip(levels, octaves), lambda pair: (pair[0], pair[1].shape[1])):
        kernels = [phases for _, phases in group]
        n = sum(phases.shape[2] for phases in kernels)
        joined = kernels[0] if len(kernels) == 1 else np.concatenate(kernels[::-1], axis=2)
        products.append((level, slice(top - n, top), joined))
        top -= n
    return products
