"""A source's sound made fit for a Stream: clean, at its rate, with its gaps counted in its samples.

    conditioner = Conditioner(source.sr, bundle.sr, source.faults)
    samples = conditioner.feed(block)

Time is counted in samples from the first one on, lost ones included, so that an event's time never drifts.
"""

import numpy as np

from runtime.audio import Gap, Resampler, sanitize
from runtime.faults import Faults

FULL_SCALE = 0.9999  # the highest 16-bit value is 0.99997
CLIPPED_RUN = 3  # samples at full scale in a row: one alone may be a recording's normalised peak
DC_BLOCK_S = 0.1
DC_MEMORY = 0.9  # per DC_BLOCK_S: the offset is followed within about a second, 0.2 Hz
MAX_GAIN_DB = 60.0


class Conditioner:
    """Counts clipping and broken values, applies gain, blocks DC if asked to, resamples.

    gain_db -60..60. dc_block: subtract the running mean, for microphones with an offset; holds sound back for 0.1 s.
    Raises AudioError where the rates differ and soxr is missing, ValueError for the gain.
    """

    def __init__(self, sr_in: int, sr_out: int, faults: Faults, gain_db: float = 0.0, dc_block: bool = False) -> None:
        if not abs(gain_db) <= MAX_GAIN_DB:
            raise ValueError(f"gain {gain_db} dB: choose {-MAX_GAIN_DB:.0f} to {MAX_GAIN_DB:.0f}")
        self.faults, self._sr_out = faults, sr_out
        self._gain = np.float32(10 ** (gain_db / 20))
        self._dc_block = dc_block
        self._is_bad = False
        self._start(sr_in, at=0)

    def _start(self, sr_in: int, at: int) -> None:
        self._sr_in, self._epoch = sr_in, at
        self._n_in, self._n_out = 0, at
        self._resampler = Resampler(sr_in, self._sr_out)
        self._restart()

    def _restart(self) -> None:
        self._dc = DcBlocker(self._sr_in) if self._dc_block else None

    def feed(self, block: np.ndarray) -> np.ndarray:
        """(any,) at sr_in -> (samples ready,) at sr_out, float32."""
        self._n_in += len(block)
        clean, n_bad = sanitize(block)
        self._count(clean, n_bad)
        if self._gain != 1:
            clean = clean * self._gain
        if self._dc:
            clean = self._dc.feed(clean)
        return self._out(self._resampler.feed(clean))

    def gap(self, gap: Gap) -> tuple[np.ndarray, int]:
        """-> (the samples still due before it,), and how many samples at sr_out the gap is long."""
        rest = self.flush()
        self._n_in += gap.n_samples
        here = self._epoch + round(self._n_in * self._sr_out / self._sr_in)
        n_skipped = max(0, here - self._n_out)
        self._n_out += n_skipped
        if gap.sr and gap.sr != self._sr_in:
            self._start(gap.sr, at=self._n_out)
        self._restart()
        return rest, n_skipped

    def flush(self) -> np.ndarray:
        """-> (samples still due,)"""
        rest = self._resampler.feed(self._dc.flush()) if self._dc else np.zeros(0, np.float32)
        return self._out(np.concatenate([rest, self._resampler.flush()]))

    def _out(self, samples: np.ndarray) -> np.ndarray:
        self._n_out += len(samples)
        return samples

    def _count(self, block: np.ndarray, n_bad: int) -> None:
        self.faults.bad_samples += n_bad
        self.faults.bad_bursts += bool(n_bad) and not self._is_bad
        self._is_bad = bool(n_bad)
        if len(block):
            high, low = block.max(), block.min()
            if high == low == 0:
                self.faults.silent_samples += len(block)
            self.faults.clipped_samples += self._n_clipped(block) if max(high, -low) >= FULL_SCALE else 0

    def _n_clipped(self, block: np.ndarray) -> int:
        """Samples in runs of CLIPPED_RUN and more at full scale."""
        edges = np.flatnonzero(np.diff(np.abs(block) >= FULL_SCALE, prepend=False, append=False))
        runs = edges[1::2] - edges[::2]
        return int(runs[runs >= CLIPPED_RUN].sum())


class DcBlocker:
    """Subtracts the running mean of the sound: flat within 0.1 dB from 2 Hz on. In blocks of 0.1 s on an absolute grid, so
    that the result does not depend on how the sound is cut; the mean goes from one to the next in a straight line."""

    def __init__(self, sr: int) -> None:
        self._n = max(1, round(DC_BLOCK_S * sr))
        self._ramp = (np.arange(self._n, dtype=np.float32) + 1) / np.float32(self._n)
        self._mean: float | None = None
        self._held = np.zeros(0, np.float32)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """(any,) float32 -> (whole blocks,): up to 0.1 s is held back."""
        held = np.concatenate([self._held, samples])
        n_whole = len(held) // self._n * self._n
        self._held = held[n_whole:]
        return np.concatenate([held[:0], *(self._block(block) for block in held[:n_whole].reshape(-1, self._n))])

    def flush(self) -> np.ndarray:
        """-> (the samples held back,); then starts anew."""
        rest = self._block(self._held) if len(self._held) else self._held
        self._mean, self._held = None, self._held[:0]
        return rest

    def _block(self, block: np.ndarray) -> np.ndarray:
        now = float(block.mean(dtype=np.float64))
        before = now if self._mean is None else self._mean
        self._mean = DC_MEMORY * before + (1 - DC_MEMORY) * now
        line = np.float32(before) + self._ramp[: len(block)] * np.float32(self._mean - before)
        return block - line
