"""Windowed FFT, a weight matrix, a logarithm: mel, gammatone, STFT and MFCC. Front ends of one framing share the FFT."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime import filterbanks
from runtime.tape import BATCH, Rows, Scratch, Tape, batch_grid, framed

if TYPE_CHECKING:
    from runtime.frontend import Frontend

FLOOR_POWER = 1e-10  # -100 dB: digital silence stays finite
FLOOR_GAMMATONE = 1e-12  # -120 dB: Ellis divides by n_fft, which takes quiet rooms to -100 dB
FFT_FRAMES = 8  # frames per FFT call: frames and spectra, 1 MB, stay in the cache
# A float32 FFT's rounding is noise in all bins, 2^-24 of a frame's norm, and lines, 2^-24 of its highest peak. Where a
# band's mean magnitude is not this many times as much, the frame's FFT is made in float64. Sums of magnitudes keep the
# noise, sums of powers only the lines. With these factors no band of the sounds in benchmarks.frontend was off by more
# than 0.001 dB.
MARGIN_NORM, MARGIN_PEAK = 15000.0, 1000.0
_NONE = np.zeros(0, int)
JUDGED_DB = 81  # what lies farther below a frame's loudest band may be off


class SpectrumPlan:
    """Frames of one length and hop -> the bands of several front ends. Everything that can be computed before is."""

    first_samples = (0,)

    def __init__(self, frontends: Sequence["Frontend"]) -> None:
        first = frontends[0]
        self.hop, self._n_fft = first.hop_length, first.n_fft
        self._window = filterbanks.hann(first.win_length)
        self._window32 = self._window.astype(np.float32)
        self._rfft32 = None if any(frontend.kind == "stft" for frontend in frontends) else rfft32()
        self.n_bands = tuple(frontend.n_bands for frontend in frontends)
        self._heads = [_Head(frontend) for frontend in frontends]
        self._grid = batch_grid(matrix for head in self._heads for matrix in head.matrices)
        # librosa centres a short window in the FFT's frame; only the window's own samples matter, and an odd one
        # leans left.
        self.lookback = first.n_fft // 2 - (first.n_fft - first.win_length) // 2
        self.lookahead = first.win_length - self.lookback - 1
        self._scratch = Scratch()

    @property
    def table_bytes(self) -> int:
        matrices = [matrix.nbytes for head in self._heads for matrix in head.matrices]
        return self._window.nbytes + self._window32.nbytes + sum(matrices)

    def descend(self, tapes: list[Tape]) -> None:
        """There is only the recording's own rate."""

    def forget(self, tapes: list[Tape], next_frame: int) -> None:
        tapes[0].forget(next_frame * self.hop - self.lookback)

    def block(self, tapes: list[Tape], start: int, stop: int) -> list[np.ndarray]:
        """Frames start..stop -> (stop - start, n_bands) for each front end."""
        rows, n_bins = Rows(start, stop, self._grid), 1 + self._n_fft // 2
        magnitude = self._scratch.array("magnitude", rows.n_batches, BATCH, n_bins)
        norms = self._scratch.array("norms", rows.n_used)
        for at in range(0, rows.n_used, FFT_FRAMES):
            n = min(FFT_FRAMES, rows.n_used - at)
            self._magnitudes(tapes[0], start + at, rows.of(magnitude)[at : at + n], norms[at : at + n])
        power = magnitude
        if not all(head.takes_magnitude for head in self._heads):
            power = np.square(magnitude, out=self._scratch.array("power", *magnitude.shape))
        results = []
        for head in self._heads:
            bands = rows.of(head.bands(magnitude if head.takes_magnitude else power))
            if self._rfft32 is not None:
                doubtful = head.doubtful(bands, norms, rows.of(magnitude))
                if len(doubtful):
                    bands = bands.copy()
                    bands[doubtful] = self._exact_bands(head, tapes[0], start, rows, doubtful)
            results.append(head.level(bands, rows))
        return results

    def _magnitudes(self, tape: Tape, start: int, out: np.ndarray, norms: np.ndarray) -> None:
        """Magnitude spectra of the frames from `start` on into `out` (at most FFT_FRAMES, bins); the frames' norms."""
        if self._rfft32 is None:
            return self._exact_magnitudes(tape, start, out)
        # Always as many rows: scipy transforms four at once, and what is left of them in another way.
        padded = self._scratch.array("float32", FFT_FRAMES, self._n_fft)
        frames = padded[: len(out), : len(self._window)]
        np.multiply(self._samples(tape, start, len(out)), self._window32, out=frames)
        np.sqrt((frames[:, None] @ frames[:, :, None])[:, 0, 0], out=norms)
        np.abs(self._rfft32(padded)[: len(out)], out=out)

    def _exact_bands(self, head: "_Head", tape: Tape, start: int, rows: Rows, which: np.ndarray) -> np.ndarray:
        """`head`'s bands of the frames start + which, from float64 FFTs; a frame's row in its batch stays the same."""
        spectra = self._scratch.array("exact", rows.n_batches, BATCH, 1 + self._n_fft // 2)
        for i in which.tolist():
            row = rows.of(spectra)[i : i + 1]
            self._exact_magnitudes(tape, start + i, row)
            if not head.takes_magnitude:
                np.square(row, out=row)
        return rows.of(head.bands(spectra))[which]

    def _exact_magnitudes(self, tape: Tape, start: int, out: np.ndarray) -> None:
        """The same: float64 up to the FFT, float32 behind it."""
        padded = self._scratch.array("float64", len(out), self._n_fft, dtype=np.float64)
        frames = padded[:, : len(self._window)]  # what lies behind them stays zero
        frames[:] = self._samples(tape, start, len(out))
        frames *= self._window
        spectra = self._scratch.array("spectra", *out.shape, dtype=np.complex64)
        spectra[:] = _rfft(padded, self._scratch)
        np.abs(spectra, out=out)

    def _samples(self, tape: Tape, start: int, n: int) -> np.ndarray:
        """(n, win_length) view of the recording."""
        begin = start * self.hop - self.lookback
        return framed(tape.read(begin, begin + (n - 1) * self.hop + len(self._window)), n, len(self._window), self.hop)


def rfft32() -> Callable[[np.ndarray], np.ndarray] | None:
    """scipy's FFT in float32, twice as fast as numpy's, where the extra `fast` is installed."""
    try:
        from scipy.fft import rfft
    except ImportError:
        return None
    return rfft


def _rfft(frames: np.ndarray, scratch: Scratch) -> np.ndarray:
    """(n, n_fft) float64 -> (n, 1 + n_fft // 2) complex128."""
    if int(np.__version__.split(".")[0]) < 2:
        return np.fft.rfft(frames)
    return np.fft.rfft(frames, out=scratch.array("fft", len(frames), 1 + frames.shape[1] // 2, dtype=np.complex128))


class _Head:
    """(n_batches, BATCH, bins) power or magnitude -> bands -> dB or coefficients of one front end."""

    def __init__(self, frontend: "Frontend") -> None:
        self._log = frontend.log
        self.takes_magnitude = frontend.kind == "gammatone"
        self._dct: np.ndarray | None = None
        self._scratch = Scratch()
        if frontend.kind == "mfcc":
            self._dct = np.ascontiguousarray(filterbanks.dct_matrix(frontend.n_bands, frontend.n_mels).T, np.float32)
        if frontend.kind == "stft":
            self.bands: BandProduct | SmoothProduct | BinMeans = BinMeans(frontend.n_fft // 2 // frontend.n_bands)
            return
        weights = band_weights(frontend)
        self.bands = SmoothProduct(weights, frontend.tolerance) if self.takes_magnitude else BandProduct(weights)
        self._sums = weights.sum(axis=1).astype(np.float32)

    @property
    def matrices(self) -> list[np.ndarray]:
        return [*self.bands.matrices, *([] if self._dct is None else [self._dct])]

    def doubtful(self, bands: np.ndarray, norms: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
        """(frames, n_bands) from float32 FFTs -> which frames need a float64 one.

        norms (frames,): of the windowed samples; magnitudes (frames, bins).
        """
        if self.takes_magnitude:
            least, floor, decade_db = norms * (MARGIN_NORM * 2.0**-24), FLOOR_GAMMATONE**0.5, 20
        else:
            peaks = magnitudes.max(axis=1)
            least, floor, decade_db = (peaks * (MARGIN_PEAK * 2.0**-24)) ** 2, FLOOR_POWER, 10
        is_noisy = bands < np.multiply.outer(least, self._sums)
        if not is_noisy.any():
            return _NONE
        lowest = np.float32(floor)
        if self._dct is None:  # a coefficient hears the quietest band as well as the loudest
            lowest = np.maximum(lowest, bands.max(axis=1, keepdims=True) * 10 ** (-JUDGED_DB / decade_db))
        is_noisy &= bands > lowest
        return np.flatnonzero(is_noisy.any(axis=1))

    def level(self, bands: np.ndarray, rows: Rows) -> np.ndarray:
        """(frames, bands) -> (frames, n_bands)."""
        if not self._log:
            return bands.copy()
        if self.takes_magnitude:
            return decibels(bands, FLOOR_GAMMATONE**0.5, 20)
        level = decibels(bands, FLOOR_POWER)
        if self._dct is None:
            return level
        batches = self._scratch.array("level", rows.n_batches, BATCH, len(self._dct))
        rows.of(batches)[:] = level
        return rows.of(batches @ self._dct)


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


class BinMeans:
    """Mean power of every n_bins FFT bins, the last one (Nyquist) left out; n_bins 0: the bins themselves."""

    matrices: tuple[np.ndarray, ...] = ()

    def __init__(self, n_bins: int) -> None:
        self._n_bins = n_bins

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if not self._n_bins:
            return rows
        whole = rows[..., : rows.shape[-1] - 1]
        return whole.reshape(*rows.shape[:-1], -1, self._n_bins).mean(axis=-1)


class BandProduct:
    """rows @ weights.T where each band has weights at a few neighbouring bins only: `group` bands at a time."""

    def __init__(self, weights: np.ndarray, group: int = 16) -> None:
        self._n_bands = len(weights)
        self._groups = [_block(weights, slice(i, min(i + group, len(weights)))) for i in range(0, len(weights), group)]
        self._scratch = Scratch()

    @property
    def matrices(self) -> list[np.ndarray]:
        return [matrix for _, _, matrix in self._groups]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        out = self._scratch.array("bands", len(rows), BATCH, self._n_bands)
        for bands, bins, matrix in self._groups:
            np.matmul(rows[..., bins], matrix, out=out[..., bands])
        return out


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
            blocks = _near_blocks(near, self.SPAN)
            far = np.ascontiguousarray(far.T, np.float32)
            choices.append((sum(matrix.size for _, _, matrix in blocks) + far.size, order, blocks, far, basis))
        _, _, self._near, self._far, basis = min(choices, key=lambda choice: choice[:2])
        self._basis = np.ascontiguousarray(basis, np.float32)  # (SPAN, moments); _far (runs * moments, n_bands)
        self._scratch = Scratch()

    @property
    def matrices(self) -> list[np.ndarray]:
        return [self._basis, self._far, *(matrix for _, _, matrix in self._near)]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        n, n_runs = len(rows), rows.shape[2] // self.SPAN
        moments = self._scratch.array("moments", n, BATCH, n_runs, self._basis.shape[1])
        runs = rows[..., : n_runs * self.SPAN].reshape(n, BATCH, n_runs, self.SPAN)
        np.matmul(runs, self._basis, out=moments)
        out = self._scratch.array("bands", n, BATCH, self._far.shape[1])
        np.matmul(moments.reshape(n, BATCH, -1), self._far, out=out)
        for bands, bins, matrix in self._near:
            out[..., bands] += rows[..., bins] @ matrix
        return out


def _block(weights: np.ndarray, bands: slice) -> tuple[slice, slice, np.ndarray]:
    """-> bands, the bins that they cover, (bins, bands) float32."""
    covered = np.flatnonzero(weights[bands].any(axis=0))
    bins = slice(int(covered[0]), int(covered[-1]) + 1) if len(covered) else slice(0, 1)
    return bands, bins, np.ascontiguousarray(weights[bands, bins].T, np.float32)


def _near_blocks(near: np.ndarray, span: int, group: int = 16) -> list[tuple[slice, slice, np.ndarray]]:
    """The first and the last run of all bands; what lies between, `group` bands at a time."""
    n_bands, n_bins = near.shape
    last = max(0, (n_bins // span - 1) * span)
    ends = [slice(0, span), slice(last, n_bins)] if last else [slice(0, n_bins)]
    blocks = [(slice(0, n_bands), bins, near[:, bins].T.astype(np.float32)) for bins in ends]
    near[:, :span] = near[:, last:] = 0
    groups = [slice(i, min(i + group, n_bands)) for i in range(0, n_bands, group)]
    return [*blocks, *(_block(near, bands) for bands in groups if near[bands].any())]


def decibels(power: np.ndarray, floor: float, factor: float = 10) -> np.ndarray:
    """factor * log10 of what lies above the floor."""
    level = np.maximum(power, np.float32(floor))
    np.log10(level, out=level)
    level *= np.float32(factor)
    return level
