"""Constant-Q transform: every octave as a matrix product with the samples around a frame, at the lowest rate that does."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime import filterbanks
from runtime.spectrum import FLOOR_POWER, decibels
from runtime.tape import BATCH, Tape, batches, framed, grid, unbatched

if TYPE_CHECKING:
    from runtime.frontend import Frontend

RUN = 64  # halved samples per row of the halving's matrix product


class CqtPlan:
    """Octave by octave: the lower an octave, the more often the recording is halved first (while the hop stays whole)."""

    def __init__(self, frontends: Sequence["Frontend"]) -> None:
        (frontend,) = frontends
        self.hop, n, per_octave = frontend.hop_length, frontend.n_bands, frontend.bins_per_octave
        self.n_bands, self._log = (n,), frontend.log
        self._halving, self._reach = _halving_matrix()
        n_octaves = -(-n // per_octave)
        n_halvings = min(n_octaves - 1, (self.hop & -self.hop).bit_length() - 1)
        # A halved recording begins before its sample 0: the filter rings ahead of the first sample.
        self.first_samples = [0]
        for _ in range(n_halvings):
            self.first_samples.append((self.first_samples[-1] - self._reach) // 2)
        self.octaves = []  # (level, kernels), highest octave first
        for octave in range(n_octaves):
            bands = slice(max(0, n - (octave + 1) * per_octave), n - octave * per_octave)
            level = min(octave, n_halvings)
            kernels = filterbanks.cqt_kernels(frontend.sr, frontend.centers_hz[bands], per_octave, 2**level)
            self.octaves.append((level, np.ascontiguousarray(kernels, np.float32)))
        # In samples of the recording: half a kernel at its level's rate, and half a filter for each halving above it.
        self.lookahead = max(
            len(kernels) // 2 * 2**level + self._reach * (2**level - 1) for level, kernels in self.octaves
        )
        self.lookback = self.lookahead

    @property
    def table_bytes(self) -> int:
        halving = self._halving.nbytes if len(self.first_samples) > 1 else 0
        return sum(kernels.nbytes for _, kernels in self.octaves) + halving

    def descend(self, tapes: list[Tape]) -> None:
        """Halve each level into the next as far as its samples reach; a level keeps what the filter will need again."""
        for upper, lower in itertools.pairwise(tapes):
            stop = (upper.stop - self._reach - 1) // 2 + 1  # sample m of `lower` sits on sample 2 m of `upper`
            for first, last in grid(lower.stop, stop, BATCH * RUN):
                lower.append(self._halved(upper, first, last))

    def _halved(self, upper: Tape, start: int, stop: int) -> np.ndarray:
        """Samples start..stop of the lower rate, RUN of them per row on an absolute grid.

        The last row may reach past the end of `upper`: zeros do there, for they only meet samples behind `stop`.
        """
        first, last = start // RUN, -(-stop // RUN)
        begin = 2 * first * RUN - self._reach
        end = 2 * (last - 1) * RUN - self._reach + len(self._halving)
        samples = upper.read(begin, min(end, upper.stop))
        samples = np.concatenate([samples, np.zeros(end - begin - len(samples), np.float32)])
        rows = framed(samples, last - first, len(self._halving), 2 * RUN)
        halved = unbatched(batches(rows, first) @ self._halving, first, last - first).ravel()
        return halved[start - first * RUN : stop - first * RUN]

    def forget(self, tapes: list[Tape], next_frame: int) -> None:
        for level, tape in enumerate(tapes):
            center = next_frame * self.hop // 2**level
            longest = max(len(kernels) // 2 for at, kernels in self.octaves if at == level)
            before = center - longest
            if level + 1 < len(tapes):
                before = min(before, 2 * (tapes[level + 1].stop // RUN * RUN) - self._reach)
            tape.forget(before)

    def block(self, tapes: list[Tape], start: int, stop: int) -> list[np.ndarray]:
        """Frames start..stop -> [(stop - start, n_bands)]."""
        bands = []
        for level, kernels in reversed(self.octaves):
            hop, length = self.hop // 2**level, len(kernels)
            first = start * hop - length // 2
            samples = tapes[level].read(first, first + (stop - start - 1) * hop + length)
            rows = framed(samples, stop - start, length, hop)
            response = unbatched(batches(rows, start) @ kernels, start, stop - start)
            real, imag = np.split(response, 2, axis=1)
            bands.append(real**2 + imag**2)
        power = np.concatenate(bands, axis=1)
        return [decibels(power, FLOOR_POWER) if self._log else power]


def _halving_matrix() -> tuple[np.ndarray, int]:
    """-> (samples, RUN): a low-pass before every second sample is left out, as a matrix; and half the filter's length."""
    taps = filterbanks.halving_filter()
    matrix = np.zeros((2 * (RUN - 1) + len(taps), RUN), np.float32)
    for m in range(RUN):
        matrix[2 * m : 2 * m + len(taps), m] = taps
    return matrix, len(taps) // 2
