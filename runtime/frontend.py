"""One front end for training, export and device: numbers -> spectrogram, offline and on a stream, bit for bit the same.

spectrogram(wave, MEL) is FrontendStream(MEL).feed(wave) and .flush() put together: there is one kernel, so there is
nothing to differ. A frame is the frame of the continuous recording: centred, zeros before the first and after the last
sample, a fixed dB reference.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from runtime import filterbanks

KINDS = ("mel", "gammatone", "cqt")
BATCH = (
    16  # frames per matrix product: a frame's row always sits at t % BATCH of a full batch, so its sums never change
)
FLOOR_POWER = 1e-10  # -100 dB: digital silence stays finite
FLOOR_GAMMATONE = 1e-12  # -120 dB: Ellis divides by n_fft, which takes quiet rooms to -100 dB
DELTA_FRAMES = 8  # two valid 5-tap deltas take four frames from either end


@dataclasses.dataclass(frozen=True)
class Frontend:
    """A spectrogram's parameters. Lengths in samples at `sr` Hz, frequencies in Hz; `fmax` None means sr / 2.

    mel        10 log10 of Slaney mel bands of the power spectrum (librosa.feature.melspectrogram)
    gammatone  20 log10 of Ellis' gammatone weights on the magnitude spectrum, divided by n_fft
    cqt        20 log10 |librosa.cqt| at tuning 0, sparsity 0; uses fmin and bins_per_octave, no n_fft, win_length, fmax

    Raises ValueError for a value that no such spectrogram can have.
    """

    kind: str
    sr: int = 44100
    hop_length: int = 620
    n_bands: int = 128
    fmin: float = 0.0
    fmax: float | None = None
    n_fft: int = 8192
    win_length: int = 4096
    bins_per_octave: int = 14

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_number(field.name, getattr(self, field.name))
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if self.kind != "mel" and self.fmin <= 0:
            raise ValueError(f"fmin {self.fmin} Hz: a {self.kind} needs a positive one")
        highest_hz = self.centers_hz[-1]
        if not self.fmin < self.top_hz <= self.sr / 2 or highest_hz > self.sr / 2:
            raise ValueError(f"bands from {self.fmin} to {max(self.top_hz, highest_hz):.0f} Hz do not fit sr {self.sr}")

    @property
    def top_hz(self) -> float:
        return self.sr / 2 if self.fmax is None else self.fmax

    @property
    def centers_hz(self) -> np.ndarray:
        """(n_bands,) centre frequency of each band, ascending."""
        if self.kind == "cqt":
            return filterbanks.cqt_centers(self.n_bands, self.fmin, self.bins_per_octave)
        centers = {"mel": filterbanks.mel_centers, "gammatone": filterbanks.gammatone_centers}[self.kind]
        return centers(self.n_bands, self.fmin, self.top_hz)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a recording: one centred on every hop_length-th sample, from the first on."""
        return 1 + n_samples // self.hop_length if n_samples else 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Frontend":
        """Inverse of `to_json`. Raises ValueError that names an unknown or missing parameter."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or "kind" not in values or set(values) - known:
            raise ValueError(f"a front end is an object with 'kind' and some of {sorted(known)}, not {values!r:.200}")
        return cls(**values)


_RANGES = {
    "sr": (4000, 384000),
    "hop_length": (1, 1 << 16),
    "n_bands": (2, 1024),
    "fmin": (0, 192000),
    "fmax": (0, 192000),
    "n_fft": (16, 1 << 16),
    "win_length": (4, 1 << 16),
    "bins_per_octave": (2, 96),
}


def _check_number(name: str, value: Any) -> None:
    if name == "kind" or (name == "fmax" and value is None):
        return
    low, high = _RANGES[name]
    kinds = (int, float) if name in ("fmin", "fmax") else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(f"{name} {value!r} is not a number from {low} to {high}")


# P3's front ends at its shortest time length; CQT is the `edge` preset (P1's own ends at 392 Hz, see CQT_SEED).
MEL = Frontend("mel")
GAMMATONE = Frontend("gammatone", fmin=50.0)
CQT = Frontend("cqt", fmin=32.703, bins_per_octave=14)
CQT_SEED = Frontend("cqt", fmin=10.0, bins_per_octave=24)
PRESETS = {"mel": MEL, "gam": GAMMATONE, "cqt": CQT}


def spectrogram(wave: np.ndarray, frontend: Frontend) -> np.ndarray:
    """(samples,) mono at frontend.sr -> (n_bands, 1 + samples // hop_length) float32 in dB, static frames only."""
    stream = FrontendStream(frontend)
    return np.concatenate([stream.feed(wave), stream.flush()], axis=1)


def deltas(static: np.ndarray) -> np.ndarray:
    """(bands, frames) -> (3, bands, frames - 8): static, delta, delta-delta; frame t of the result is frame t + 4.

    Delta: 5 taps (-2, -1, 0, 1, 2) / 10, no padding, applied twice, as P3's 712 -> 704 frames ask.
    """
    if static.shape[1] <= DELTA_FRAMES:
        return np.zeros((3, static.shape[0], 0), np.float32)
    first = _delta(static)
    return np.stack([static[:, 4:-4], first[:, 2:-2], _delta(first)])


def _delta(x: np.ndarray) -> np.ndarray:
    return ((2 * (x[:, 4:] - x[:, :-4]) + (x[:, 3:-1] - x[:, 1:-3])) / 10).astype(np.float32)


def patches(planes: np.ndarray, n_frames: int = 128, stride: int = 64) -> np.ndarray:
    """(planes, bands, frames) -> (n, planes, n_frames, bands): the net's inputs, every `stride` frames; time is the row.

    Rows are time so that a small device can run the net row by row while the sound comes in.
    """
    n = max(0, (planes.shape[2] - n_frames) // stride + 1)
    cut = [planes[:, :, i * stride : i * stride + n_frames].transpose(0, 2, 1) for i in range(n)]
    return np.stack(cut) if cut else np.zeros((0, planes.shape[0], n_frames, planes.shape[1]), np.float32)


class FrontendStream:
    """Samples in, frames out. Frame t is centred on sample t * hop_length and comes out `lookahead` samples later.

    `lookback` and `lookahead`: samples before and after its centre that a frame depends on.
    """

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        self._plan: StftPlan | CqtPlan = _plan(frontend)
        self.lookback, self.lookahead = self._plan.lookback, self._plan.lookahead
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is sample 0."""
        self._tapes = [_Tape(first) for first in self._plan.first_samples]
        self._n_samples = self._n_frames = 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """(any,) samples -> (n_bands, new frames), possibly none. The samples must be finite: see runtime.audio.

        Raises ValueError for anything but one channel.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise ValueError(f"samples of shape {samples.shape} are not one channel: mix down first")
        self._n_samples += len(samples)
        return self._frames(samples, limit=None)

    def flush(self) -> np.ndarray:
        """-> (n_bands, frames still due), computed with zeros after the last sample; then starts anew."""
        frames = self._frames(np.zeros(self.lookahead + 1, np.float32), limit=self.frontend.n_frames(self._n_samples))
        self.reset()
        return frames

    def _frames(self, samples: np.ndarray, limit: int | None) -> np.ndarray:
        hop = self.frontend.hop_length
        self._tapes[0].append(samples)
        self._plan.descend(self._tapes)
        ready = max(self._n_frames, (self._tapes[0].stop - self.lookahead - 1) // hop + 1)
        stop = ready if limit is None else limit
        blocks = [
            self._plan.block(self._tapes, start, min(stop, start - start % BATCH + BATCH))
            for start in _grid(self._n_frames, stop)
        ]
        self._n_frames = stop
        self._plan.forget(self._tapes, stop)
        return np.concatenate(blocks).T if blocks else np.zeros((self.frontend.n_bands, 0), np.float32)


def _grid(start: int, stop: int) -> list[int]:
    """Where the blocks of frames start..stop begin: at `start`, then at multiples of BATCH."""
    return [start, *range(start - start % BATCH + BATCH, stop, BATCH)] if start < stop else []


class _Tape:
    """The samples still needed of an endless signal, addressed by their absolute index from `first` on; zeros before."""

    def __init__(self, first: int) -> None:
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


def _framed(samples: np.ndarray, n: int, length: int, hop: int) -> np.ndarray:
    """(samples,) -> (n, length) view, a row every hop samples."""
    step = samples.strides[0]
    return np.lib.stride_tricks.as_strided(samples, (n, length), (hop * step, step), writeable=False)


def _product(rows: np.ndarray, matrix: np.ndarray, start: int) -> np.ndarray:
    """rows @ matrix, each row at place (t % BATCH) of a full batch: BLAS sums in another order for other shapes."""
    offset = start % BATCH
    batch = np.zeros((BATCH, rows.shape[1]), np.float32)
    batch[offset : offset + len(rows)] = rows
    return (batch @ matrix)[offset : offset + len(rows)]


class StftPlan:
    """Windowed FFT, a weight matrix, a logarithm: mel and gammatone."""

    first_samples = (0,)

    def __init__(self, frontend: Frontend) -> None:
        self._hop, self._n_fft, self._is_mel = frontend.hop_length, frontend.n_fft, frontend.kind == "mel"
        self._window = filterbanks.hann(frontend.win_length)
        bank = filterbanks.mel_weights if self._is_mel else filterbanks.gammatone_weights
        weights = bank(frontend.sr, frontend.n_fft, frontend.n_bands, frontend.fmin, frontend.top_hz)
        if not self._is_mel:
            weights = weights / frontend.n_fft
        self.weights = np.ascontiguousarray(weights.T, np.float32)  # (1 + n_fft // 2, n_bands)
        # librosa centres a short window in the FFT's frame; only the window's own samples matter, and an odd one
        # leans left.
        self.lookback = frontend.n_fft // 2 - (frontend.n_fft - frontend.win_length) // 2
        self.lookahead = frontend.win_length - self.lookback - 1

    def descend(self, tapes: list[_Tape]) -> None:
        """There is only the recording's own rate."""

    def forget(self, tapes: list[_Tape], next_frame: int) -> None:
        tapes[0].forget(next_frame * self._hop - self.lookback)

    def block(self, tapes: list[_Tape], start: int, stop: int) -> np.ndarray:
        """Frames start..stop -> (stop - start, n_bands) in dB; they lie in one batch."""
        length = len(self._window)
        first = start * self._hop - self.lookback
        samples = tapes[0].read(first, first + (stop - start - 1) * self._hop + length)
        spectra = _rfft(_framed(samples, stop - start, length, self._hop) * self._window, self._n_fft)
        power = (spectra.real**2 + spectra.imag**2).astype(np.float32)  # (frames, 1 + n_fft // 2)
        if self._is_mel:
            return _decibels(_product(power, self.weights, start), FLOOR_POWER)
        return _decibels(_product(np.sqrt(power), self.weights, start) ** 2, FLOOR_GAMMATONE)


class CqtPlan:
    """Octave by octave: the lower an octave, the more often the recording is halved first (while the hop stays whole)."""

    def __init__(self, frontend: Frontend) -> None:
        self._hop, n, per_octave = frontend.hop_length, frontend.n_bands, frontend.bins_per_octave
        self._taps = filterbanks.halving_filter().astype(np.float32)
        self._reach = len(self._taps) // 2
        n_octaves = -(-n // per_octave)
        n_halvings = min(n_octaves - 1, (self._hop & -self._hop).bit_length() - 1)
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

    def descend(self, tapes: list[_Tape]) -> None:
        """Halve each level into the next as far as its samples reach; a level keeps what the filter will need again."""
        for upper, lower in itertools.pairwise(tapes):
            stop = (upper.stop - self._reach - 1) // 2 + 1  # sample m of `lower` sits on sample 2 m of `upper`
            if stop > lower.stop:
                x = upper.read(2 * lower.stop - self._reach, 2 * (stop - 1) + self._reach + 1)
                lower.append(_halve(x, self._taps))

    def forget(self, tapes: list[_Tape], next_frame: int) -> None:
        for level, tape in enumerate(tapes):
            center = next_frame * self._hop // 2**level
            longest = max(len(kernels) // 2 for at, kernels in self.octaves if at == level)
            before = center - longest
            if level + 1 < len(tapes):
                before = min(before, 2 * tapes[level + 1].stop - self._reach)
            tape.forget(before)

    def block(self, tapes: list[_Tape], start: int, stop: int) -> np.ndarray:
        """Frames start..stop -> (stop - start, n_bands) in dB; they lie in one batch."""
        bands = []
        for level, kernels in reversed(self.octaves):
            hop, length = self._hop // 2**level, len(kernels)
            first = start * hop - length // 2
            samples = tapes[level].read(first, first + (stop - start - 1) * hop + length)
            response = _product(_framed(samples, stop - start, length, hop), kernels, start)
            real, imag = np.split(response, 2, axis=1)
            bands.append(real**2 + imag**2)
        return _decibels(np.concatenate(bands, axis=1), FLOOR_POWER)


def _halve(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Every second output of the filter, 'valid': even and odd samples apart, so that no output is thrown away."""
    n = (len(x) - len(taps)) // 2 + 1
    even, odd = x[::2], x[1::2]
    return np.correlate(even, taps[::2], "valid")[:n] + np.correlate(odd, taps[1::2], "valid")[:n]


def _decibels(power: np.ndarray, floor: float) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, np.float32(floor)))


def _rfft(frames: np.ndarray, n_fft: int) -> np.ndarray:
    return np.fft.rfft(frames, n_fft)


@lru_cache(maxsize=16)
def _plan(frontend: Frontend) -> StftPlan | CqtPlan:
    return CqtPlan(frontend) if frontend.kind == "cqt" else StftPlan(frontend)


def table_bytes(frontend: Frontend) -> int:
    """Bytes of the constants that a front end keeps in memory: window and weights, or kernels and filter."""
    plan = _plan(frontend)
    if isinstance(plan, CqtPlan):
        return sum(kernels.nbytes for _, kernels in plan.octaves) + plan._taps.nbytes
    return plan.weights.nbytes + plan._window.nbytes
