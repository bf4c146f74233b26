"""One front end for training, export and device: numbers -> spectrogram, offline and on a stream, bit for bit the same.

spectrogram(wave, MEL) is FrontendStream(MEL).feed(wave) and .flush() put together: there is one kernel, so there is
nothing to differ. A frame is the frame of the continuous recording: centred, zeros before the first and after the last
sample, a fixed dB reference. Several front ends on one recording share what they can: `spectrograms`, `SharedStream`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from runtime import filterbanks
from runtime.audio import sanitize
from runtime.cqt import CqtPlan
from runtime.frames import FramesPlan
from runtime.spectrum import SpectrumPlan, rfft32
from runtime.tape import BLOCK, Tape
from runtime.values import number, whole

KINDS = ("mel", "gammatone", "cqt", "stft", "mfcc", "frames")
PIECE = 1 << 18  # samples that `spectrograms` feeds at once: memory does not grow with the recording


@dataclasses.dataclass(frozen=True)
class Frontend:
    """A spectrogram's parameters. Lengths in samples at `sr` Hz, frequencies in Hz; `fmax` None means sr / 2.

    mel        10 log10 of Slaney mel bands of the power spectrum (librosa.feature.melspectrogram)
    gammatone  20 log10 of Ellis' gammatone weights on the magnitude spectrum, divided by n_fft
    cqt        20 log10 |librosa.cqt| at tuning 0, sparsity 0; uses fmin and bins_per_octave, no n_fft, win_length, fmax
    stft       10 log10 of the power spectrum (librosa.stft); with n_bands = n_fft // 2 / k, means of k neighbouring bins
    mfcc       orthonormal DCT-II of log-mel: n_bands coefficients of n_mels bands (librosa.feature.mfcc, top_db=None)
    frames     the win_length = n_bands samples themselves, no window: for front ends that are learned

    `log` False leaves out the logarithm: power for mel, cqt and stft, magnitude for gammatone. `tolerance`: relative
    error allowed in the gammatone's weights, see filterbanks.smooth_split; 1e-3 is 0.009 dB from half the bytes.

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
    n_mels: int = 128
    mel_scale: str = "slaney"
    log: bool = True
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_number(field.name, getattr(self, field.name))
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.mel_scale not in ("slaney", "htk"):
            raise ValueError(f"mel_scale {self.mel_scale!r} is not slaney or htk")
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if not self.log and self.kind in ("mfcc", "frames"):
            raise ValueError(f"log False: {self.kind} have no logarithm to leave out")
        self._check_n_bands()
        if self.kind in ("gammatone", "cqt") and self.fmin <= 0:
            raise ValueError(f"fmin {self.fmin} Hz: a {self.kind} needs a positive one")
        highest_hz = max(self.top_hz, self.highest_hz)
        if not self.fmin < self.top_hz <= self.sr / 2 or highest_hz > self.sr / 2:
            raise ValueError(f"bands from {self.fmin} to {highest_hz:.0f} Hz do not fit sr {self.sr}")

    def _check_n_bands(self) -> None:
        n, half = self.n_bands, self.n_fft // 2
        if self.kind == "stft" and n != half + 1 and half % n:
            raise ValueError(f"n_bands {n} of an stft is neither {half + 1} nor a divisor of {half}")
        if self.kind == "frames" and n != self.win_length:
            raise ValueError(f"n_bands {n} of frames is not their win_length {self.win_length}")
        if self.kind == "mfcc" and n > self.n_mels:
            raise ValueError(f"n_bands {n} of an mfcc is more than n_mels {self.n_mels}")
        if self.kind in ("mel", "gammatone", "cqt", "mfcc") and n > MAX_BANDS:
            raise ValueError(f"n_bands {n} is not a number from 2 to {MAX_BANDS}")

    @property
    def frontends(self) -> tuple["Frontend", ...]:
        """Itself: a runtime.stack.Stack has several."""
        return (self,)

    @property
    def top_hz(self) -> float:
        return self.sr / 2 if self.fmax is None else self.fmax

    @property
    def is_level(self) -> bool:
        """Whether its numbers are levels in dB, band by band: not a cepstrum's, not samples, not powers."""
        return self.log and self.kind not in ("mfcc", "frames")

    @property
    def highest_hz(self) -> float:
        """What it hears up to: its highest centre, or top_hz where its rows are not frequencies."""
        return self.top_hz if self.kind in ("mfcc", "frames") else float(self.centers_hz[-1])

    @property
    def centers_hz(self) -> np.ndarray:
        """(n_bands,) centre frequency of each band, ascending. Raises ValueError for mfcc and frames: they have none."""
        if self.kind == "cqt":
            return filterbanks.cqt_centers(self.n_bands, self.fmin, self.bins_per_octave)
        if self.kind == "mel":
            return filterbanks.mel_centers(self.n_bands, self.fmin, self.top_hz, self.mel_scale)
        if self.kind == "gammatone":
            return filterbanks.gammatone_centers(self.n_bands, self.fmin, self.top_hz)
        if self.kind == "stft":
            n_bins = max(1, self.n_fft // 2 // self.n_bands)
            return (np.arange(self.n_bands) * n_bins + (n_bins - 1) / 2) * self.sr / self.n_fft
        raise ValueError(f"{self.kind}: its rows are not frequencies")

    def n_above(self, source_sr: int) -> int:
        """How many of the bands lie above what a source of `source_sr` Hz can hold: they hear only how it was resampled.

        Raises ValueError for mfcc and frames, as `centers_hz`.
        """
        return int((self.centers_hz > source_sr / 2).sum())

    def n_frames(self, n_samples: int) -> int:
        """Frames of a recording: one centred on every hop_length-th sample, from the first on."""
        return 1 + n_samples // self.hop_length if n_samples else 0

    def to_json(self) -> dict[str, Any]:
        """What tells this front end apart; parameters of LATER only where they are not at their default."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Frontend":
        """Inverse of `to_json`. Raises ValueError that names an unknown or missing parameter."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or "kind" not in values or set(values) - known:
            raise ValueError(f"a front end is an object with 'kind' and some of {sorted(known)}, not {values!r:.200}")
        return cls(**values)


MAX_BANDS = 1024
_RANGES: dict[str, tuple[float, float]] = {
    "sr": (4000, 384000),
    "hop_length": (1, 1 << 16),
    "n_bands": (2, 1 << 16),
    "fmin": (0, 192000),
    "fmax": (0, 192000),
    "n_fft": (16, 1 << 16),
    "win_length": (4, 1 << 16),
    "bins_per_octave": (2, 96),
    "n_mels": (2, MAX_BANDS),
    "tolerance": (0, 0.1),
}
# Trained runs and bundles are known by the JSON of their front end: what came later must not change it.
LATER = {field.name: field.default for field in dataclasses.fields(Frontend)[9:]}


def _check_number(name: str, value: Any) -> None:
    if name in ("kind", "mel_scale") or (name == "fmax" and value is None):
        return
    if name == "log":
        if not isinstance(value, bool):
            raise ValueError(f"log {value!r} is not true or false")
        return
    low, high = _RANGES[name]
    (number if name in ("fmin", "fmax", "tolerance") else whole)(name, value, low, high)


# P3's front ends at its shortest time length; CQT is the `edge` preset (P1's own ends at 392 Hz, see CQT_SEED).
MEL = Frontend("mel")
GAMMATONE = Frontend("gammatone", fmin=50.0)
CQT = Frontend("cqt", fmin=32.703, bins_per_octave=14)
CQT_SEED = Frontend("cqt", fmin=10.0, bins_per_octave=24)
PRESETS = {"mel": MEL, "gam": GAMMATONE, "cqt": CQT}


def spectrogram(wave: np.ndarray, frontend: Frontend) -> np.ndarray:
    """(samples,) mono at frontend.sr -> (n_bands, 1 + samples // hop_length) float32 in dB, static frames only."""
    return spectrograms(wave, [frontend])[0]


def spectrograms(wave: np.ndarray, frontends: Sequence[Frontend]) -> list[np.ndarray]:
    """`spectrogram` of each front end; mel, gammatone and mfcc of one framing share their FFT, without scipy stft, too."""
    stream = SharedStream(frontends)
    wave = np.asarray(wave)
    last = max(0, len(wave) - 1) // PIECE * PIECE
    pieces = [stream.feed(wave[start : start + PIECE]) for start in range(0, last, PIECE)]
    pieces.append(stream.finish(wave[last:]))
    return [np.concatenate(parts, axis=1) for parts in zip(*pieces)]


class SharedStream:
    """Samples in, frames of several front ends out, each bit for bit what its own FrontendStream gives.

    n_bad: samples that were NaN, infinite or absurd (see runtime.audio.sanitize) and were replaced, since reset().
    """

    def __init__(self, frontends: Sequence[Frontend]) -> None:
        self.frontends = tuple(frontends)
        families: dict[Any, list[int]] = {}
        for i, frontend in enumerate(self.frontends):
            families.setdefault(_family(frontend) or i, []).append(i)
        self._tracks = [_Track(_plan(tuple(self.frontends[i] for i in family))) for family in families.values()]
        self._order = np.argsort([i for family in families.values() for i in family])
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is sample 0."""
        self.n_bad = 0
        for track in self._tracks:
            track.reset()

    def feed(self, samples: np.ndarray) -> list[np.ndarray]:
        """(any,) samples -> (n_bands, new frames) of each front end, possibly none.

        Raises ValueError for anything but one channel.
        """
        samples = self._clean(samples)
        return self._sorted([track.feed(samples) for track in self._tracks])

    def flush(self) -> list[np.ndarray]:
        """-> (n_bands, frames still due) of each, computed with zeros after the last sample; then starts anew."""
        return self.finish(np.zeros(0, np.float32))

    def finish(self, samples: np.ndarray) -> list[np.ndarray]:
        """`feed` and `flush` in one: the last samples of a recording -> all frames still due."""
        samples = self._clean(samples)
        return self._sorted([track.finish(samples) for track in self._tracks])

    def _clean(self, samples: np.ndarray) -> np.ndarray:
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"samples of shape {samples.shape} are not one channel: mix down first")
        samples, n_bad = sanitize(samples)
        self.n_bad += n_bad
        return samples

    def _sorted(self, families: list[list[np.ndarray]]) -> list[np.ndarray]:
        frames = [frames for family in families for frames in family]
        return [frames[i] for i in self._order]


class FrontendStream:
    """Samples in, frames out. Frame t is centred on sample t * hop_length and comes out `lookahead` samples later.

    `lookback` and `lookahead`: samples before and after its centre that a frame depends on. What is held between two
    calls is about their sum, for ever; indices are whole numbers and never wrap.
    """

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        self._stream = SharedStream([frontend])
        plan = _plan((frontend,))
        self.lookback, self.lookahead = plan.lookback, plan.lookahead

    @property
    def lookahead_s(self) -> float:
        return self.lookahead / self.frontend.sr

    @property
    def n_bad(self) -> int:
        return self._stream.n_bad

    @property
    def n_held(self) -> int:
        """Samples kept between two calls, of all rates together."""
        return sum(tape.n_held for track in self._stream._tracks for tape in track.tapes)

    def reset(self) -> None:
        """Forget everything: the next sample is sample 0."""
        self._stream.reset()

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """(any,) samples -> (n_bands, new frames), possibly none. NaN and infinities become 0 and count in `n_bad`.

        Raises ValueError for anything but one channel.
        """
        return self._stream.feed(samples)[0]

    def flush(self) -> np.ndarray:
        """-> (n_bands, frames still due), computed with zeros after the last sample; then starts anew."""
        return self._stream.flush()[0]


class _Track:
    """A plan at work on one recording: its tapes, and how far it came."""

    def __init__(self, plan: SpectrumPlan | CqtPlan | FramesPlan) -> None:
        self.plan = plan
        self.reset()

    def reset(self) -> None:
        self.tapes = [Tape(first) for first in self.plan.first_samples]
        self._n_samples = self._n_frames = 0

    def feed(self, samples: np.ndarray) -> list[np.ndarray]:
        self._n_samples += len(samples)
        self.tapes[0].append(samples)
        return self._frames(max(self._n_frames, (self._n_samples - self.plan.lookahead - 1) // self.plan.hop + 1))

    def finish(self, samples: np.ndarray) -> list[np.ndarray]:
        self._n_samples += len(samples)
        self.tapes[0].append(samples)
        self.tapes[0].extend(self.plan.lookahead + 1)[:] = 0
        frames = self._frames(1 + self._n_samples // self.plan.hop if self._n_samples else 0)
        self.reset()
        return frames

    def _frames(self, stop: int) -> list[np.ndarray]:
        """The frames from the next one up to `stop`, of each front end."""
        plan, tapes, start = self.plan, self.tapes, self._n_frames
        plan.descend(tapes)
        if start == stop:
            return [np.zeros((n, 0), np.float32) for n in plan.n_bands]
        blocks = [plan.block(tapes, at, min(at + BLOCK, stop)) for at in range(start, stop, BLOCK)]
        self._n_frames = stop
        plan.forget(tapes, stop)
        return [parts[0].T if len(parts) == 1 else np.concatenate(parts).T for parts in zip(*blocks)]


def _family(frontend: Frontend) -> tuple[int, ...] | None:
    """Front ends of one family begin with the same FFT and share a plan; None: it shares nothing."""
    if frontend.kind in ("cqt", "frames"):
        return None
    is_exact = frontend.kind == "stft" and rfft32() is not None  # single bins are below a float32 FFT's noise
    return frontend.sr, frontend.hop_length, frontend.n_fft, frontend.win_length, is_exact


@lru_cache(maxsize=16)
def _plan(frontends: tuple[Frontend, ...]) -> SpectrumPlan | CqtPlan | FramesPlan:
    if frontends[0].kind == "cqt":
        return CqtPlan(frontends)
    return FramesPlan(frontends) if frontends[0].kind == "frames" else SpectrumPlan(frontends)


def table_bytes(frontend: Frontend) -> int:
    """Bytes of the constants that a front end keeps in memory: window and weights, or kernels and filters."""
    return _plan((frontend,)).table_bytes
