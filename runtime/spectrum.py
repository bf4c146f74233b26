"""Windowed FFT, a weight matrix, a logarithm: mel, gammatone, STFT and MFCC. Front ends of one framing share the FFT."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime import filterbanks
from runtime.tape import Tape, batches, framed, unbatched

if TYPE_CHECKING:
    from runtime.frontend import Frontend

FLOOR_POWER = 1e-10  # -100 dB: digital silence stays finite
FLOOR_GAMMATONE = 1e-12  # -120 dB: Ellis divides by n_fft, which takes quiet rooms to -100 dB
FFT_FRAMES = 16  # frames per FFT call: their spectra, 1 MB, stay in the cache


class SpectrumPlan:
    """Frames of one length and hop -> the bands of several front ends. Everything that can be computed before is."""

    first_samples = (0,)

    def __init__(self, frontends: Sequence["Frontend"]) -> None:
        first = frontends[0]
        self.hop, self._n_fft = first.hop_length, first.n_fft
        self._window = filterbanks.hann(first.win_length)
        self.n_bands = tuple(frontend.n_bands for frontend in frontends)
        self._heads = [_Head(frontend) for frontend in frontends]
        # librosa centres a short window in the FFT's frame; only the window's own samples matter, and an odd one
        # leans left.
        self.lookback = first.n_fft // 2 - (first.n_fft - first.win_length) // 2
        self.lookahead = first.win_length - self.lookback - 1

    @property
    def table_bytes(self) -> int:
        return self._window.nbytes + sum(head.table_bytes for head in self._heads)

    def descend(self, tapes: list[Tape]) -> None:
        """There is only the recording's own rate."""

    def forget(self, tapes: list[Tape], next_frame: int) -> None:
        tapes[0].forget(next_frame * self.hop - self.lookback)

    def block(self, tapes: list[Tape], start: int, stop: int) -> list[np.ndarray]:
        """Frames start..stop -> (stop - start, n_bands) for each front end."""
        power = np.empty((stop - start, 1 + self._n_fft // 2), np.float32)
        for at in range(start, stop, FFT_FRAMES):
            n = min(FFT_FRAMES, stop - at)
            first, length = at * self.hop - self.lookback, len(self._window)
            samples = tapes[0].read(first, first + (n - 1) * self.hop + length)
            spectra = np.fft.rfft(framed(samples, n, length, self.hop) * self._window, self._n_fft)
            power[at - start : at - start + n] = spectra.real**2 + spectra.imag**2
        power_rows = batches(power, start)
        needs_magnitude = any(head.takes_magnitude for head in self._heads)
        magnitude_rows = np.sqrt(power_rows) if needs_magnitude else power_rows
        rows = (magnitude_rows if head.takes_magnitude else power_rows for head in self._heads)
        return [unbatched(head(r), start, stop - start) for head, r in zip(self._heads, rows)]


class _Head:
    """(..., bins) power or magnitude -> (..., n_bands) of one front end."""

    def __init__(self, frontend: "Frontend") -> None:
        self._kind, self._log = frontend.kind, frontend.log
        self.takes_magnitude = frontend.kind == "gammatone"
        self._bands = _bands(frontend)
        self._dct: np.ndarray | None = None
        if frontend.kind == "mfcc":
            self._dct = np.ascontiguousarray(filterbanks.dct_matrix(frontend.n_bands, frontend.n_mels).T, np.float32)

    @property
    def table_bytes(self) -> int:
        return self._bands.table_bytes + (0 if self._dct is None else self._dct.nbytes)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        bands = self._bands(rows)
        if not self._log:
            return bands
        if self.takes_magnitude:
            return decibels(bands**2, FLOOR_GAMMATONE)
        level = decibels(bands, FLOOR_POWER)
        return level if self._dct is None else level @ self._dct


def band_weights(frontend: "Frontend") -> np.ndarray:
    """-> (bands, 1 + n_fft // 2): a power spectrum to mel bands (for mfcc its n_mels), or a magnitude one to gammatone's.

    Raises ValueError for a kind that has no such weights.
    """
    f = frontend
    if f.kind == "gammatone":
        return filterbanks.gammatone_weights(f.sr, f.n_fft, f.n_bands, f.fmin, f.top_hz) / f.n_fft
    if f.kind not in ("mel", "mfcc"):
        raise ValueError(f"{f.kind} has no band weights")
    n_mels = f.n_mels if f.kind == "mfcc" else f.n_bands
    return filterbanks.mel_weights(f.sr, f.n_fft, n_mels, f.fmin, f.top_hz, f.mel_scale)


def _bands(frontend: "Frontend") -> "BandProduct | SmoothProduct | BinMeans":
    if frontend.kind == "stft":
        return BinMeans(frontend.n_fft // 2 // frontend.n_bands)
    weights = band_weights(frontend)
    return SmoothProduct(weights, frontend.tolerance) if frontend.kind == "gammatone" else BandProduct(weights)


class BinMeans:
    """Mean power of every n_bins FFT bins, the last one (Nyquist) left out; n_bins 0: the bins themselves."""

    table_bytes = 0

    def __init__(self, n_bins: int) -> None:
        self._n_bins = n_bins

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if not self._n_bins:
            return rows
        whole = rows[..., : rows.shape[-1] - 1]
        return whole.reshape(*whole.shape[:-1], -1, self._n_bins).mean(axis=-1)


class BandProduct:
    """rows @ weights.T for bands that each cover a few neighbouring bins: `group` bands at a time, only their bins."""

    def __init__(self, weights: np.ndarray, group: int = 16) -> None:
        self._groups = []  # (bins, (n_bins, bands))
        for first in range(0, len(weights), group):
            bands = weights[first : first + group]
            covered = np.flatnonzero(bands.any(axis=0))
            bins = slice(covered[0], covered[-1] + 1) if len(covered) else slice(0, 1)
            self._groups.append((bins, np.ascontiguousarray(bands[:, bins].T, np.float32)))

    @property
    def table_bytes(self) -> int:
        return sum(matrix.nbytes for _, matrix in self._groups)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows[..., bins] @ matrix for bins, matrix in self._groups], axis=-1)


class SmoothProduct:
    """rows @ weights.T for dense weights that are smooth away from their peak: fewer numbers, and no band off by more

    than 20 log10(1 + tolerance) dB, since weights and rows are positive. See filterbanks.smooth_split.
    """

    SPAN = 64  # bins per run
    ORDERS = (5, 8)  # moments per run; the cheaper is taken: 8 at small tolerances, 5 at large ones

    def __init__(self, weights: np.ndarray, tolerance: float) -> None:
        choices = []
        for order in self.ORDERS:
            near, far, basis = filterbanks.smooth_split(weights, self.SPAN, order, tolerance)
            product = BandProduct(near, group=8)
            choices.append((product.table_bytes // 4 + far.size, order, product, far, basis))
        _, _, self._near, far, basis = min(choices, key=lambda choice: choice[:2])
        self._far = np.ascontiguousarray(far.T, np.float32)  # (moments and the bins behind the last whole run, n_bands)
        self._basis = np.ascontiguousarray(basis, np.float32)  # (SPAN, order)

    @property
    def table_bytes(self) -> int:
        return self._near.table_bytes + self._far.nbytes + self._basis.nbytes

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        n_whole = rows.shape[-1] // self.SPAN * self.SPAN
        runs = rows[..., :n_whole].reshape(len(rows), -1, self.SPAN)  # (n_batches, BATCH * runs, SPAN)
        moments = (runs @ self._basis).reshape(*rows.shape[:-1], -1)
        return self._near(rows) + np.concatenate([moments, rows[..., n_whole:]], axis=-1) @ self._far


def decibels(power: np.ndarray, floor: float) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, np.float32(floor)))
