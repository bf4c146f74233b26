"""Spectrograms of a data set, computed once by runtime.frontend and kept on disk, keyed by front end and file."""

import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from runtime.frontend import DELTA_FRAMES, Frontend, deltas, patches, spectrogram, with_delta
from train.data import load_wave

CACHE = Path(".cache/features")
# A net that ends in global pooling cannot tell which bands it hears. The normalised last plane, delta-delta, rises from
# -POSITION at the lowest band to POSITION at the highest, and says so at no cost on the device. Measured in LOG.md.
POSITION = 2.0
VERSION = 4  # raise it when runtime.frontend computes other numbers
# What a net sees of a spectrogram -> how many of its frames that costs at both ends together.
PLANES = {"deltas": DELTA_FRAMES, "static": 0, "stacked": 2, "frames": 0}


@dataclasses.dataclass(frozen=True)
class Stack:
    """Several front ends of one rate and hop, their bands above each other: what P2's early, middle and late fusion hear.

    It stands where a Frontend stands in training; no bundle holds it. Raises ValueError.
    """

    frontends: tuple
    kind = "stack"

    def __post_init__(self):
        if len({(f.sr, f.hop_length) for f in self.frontends}) != 1:
            hops = ", ".join(f"{f.kind} {f.hop_length} at {f.sr} Hz" for f in self.frontends)
            raise ValueError(f"hops of {hops}: front ends that one net hears together need the same, see --hop-length")

    @property
    def n_bands(self):
        return sum(self.bands)

    @property
    def bands(self):
        return [f.n_bands for f in self.frontends]

    @property
    def hop_length(self):
        return self.frontends[0].hop_length

    @property
    def sr(self):
        return self.frontends[0].sr

    def to_json(self):
        return {"stack": [f.to_json() for f in self.frontends]}


def frontend_from_json(values):
    """Inverse of to_json of a Frontend or a Stack. Raises ValueError."""
    if isinstance(values, dict) and set(values) == {"stack"}:
        return Stack(tuple(Frontend.from_json(f) for f in values["stack"]))
    return Frontend.from_json(values)


@dataclasses.dataclass(frozen=True)
class PatchShape:
    """A net's input: `n_frames` frames, one patch every `stride` frames, and in them `planes`:

    deltas    the spectrogram, its delta and its delta-delta, a plane each (P3)
    static    the spectrogram alone (P1, P2)
    stacked   the spectrogram and, as further bands, its delta over one frame either way: P1's MFCC, eq. (9)
    frames    raw frames, samples in place of bands, for nets that learn their filters and take deltas themselves (P4)
    """

    n_frames: int = 128
    stride: int = 32
    planes: str = "deltas"

    def __post_init__(self):
        if self.planes not in PLANES:
            raise ValueError(f"planes {self.planes!r}: choose {', '.join(PLANES)}")
        if not 8 <= self.n_frames <= 4096 or not 1 <= self.stride <= 4096:
            raise ValueError(
                f"patches of {self.n_frames} frames every {self.stride}: choose 8 to 4096, every 1 to 4096"
            )

    @property
    def n_static(self):
        """Static frames that one patch needs."""
        return self.n_frames + PLANES[self.planes]

    def planes_of(self, static):
        """(bands, frames) -> (planes, bands', fewer frames)."""
        if self.planes == "deltas":
            return deltas(static)
        return (with_delta(static) if self.planes == "stacked" else static)[None]

    def cut(self, static):
        """(bands, frames) -> (n, planes, n_frames, bands'), at least one: a clip too short is repeated."""
        return patches(self.planes_of(looped(static, self.n_static)), self.n_frames, self.stride)

    def to_json(self):
        """What trained runs are known by: `planes` came later and is left out at its default."""
        values = dataclasses.asdict(self)
        return values if self.planes != "deltas" else {k: v for k, v in values.items() if k != "planes"}


def features(clips, frontend, cache=CACHE):
    """-> list of (n_bands, frames) float32 static spectrograms, one per clip, in dB. Progress on stderr."""
    if isinstance(frontend, Stack):
        return [np.concatenate(parts) for parts in zip(*(features(clips, f, cache) for f in frontend.frontends))]
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    started, n_new, out = time.monotonic(), 0, []
    for i, clip in enumerate(clips, 1):
        path = cache / f"{_key(clip.path, frontend)}.npy"
        static = _load(path)
        if static is None:
            n_new += 1
            static = spectrogram(load_wave(clip.path, frontend.sr), frontend)
            _save(path, static)
            if n_new % 20 == 0 or i == len(clips):
                took = time.monotonic() - started
                print(f"\r{frontend.kind} features {i}/{len(clips)}  {took:.0f} s", end="", file=sys.stderr, flush=True)
        out.append(static)
    if n_new:
        print(file=sys.stderr)
    return out


def _load(path):
    """A cached array; None where there is none, or a damaged one."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _key(path, frontend):
    """Name of a cached file: changes with the front end, the recording's place, size or time of change."""
    stat = Path(path).stat()
    text = json.dumps([VERSION, frontend.to_json(), str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _save(path, array):
    """Atomic: a killed run leaves no half of a file, and two runs may write the same one."""
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(partial, path)


def looped(static, n_frames):
    """(bands, frames) -> (bands, at least n_frames): a short clip is repeated, never padded with silence."""
    repeats = -(-n_frames // static.shape[1])
    return np.tile(static, (1, repeats)) if repeats > 1 else static


def unchanged(frontend):
    """-> mean, std for raw frames, whose net normalises by itself: (1, samples) of 0, of 1."""
    return np.zeros((1, frontend.n_bands), np.float32), np.ones((1, frontend.n_bands), np.float32)


def normalisation(statics, planes_of):
    """-> mean, std (planes, bands) float32 over all frames: each plane and band reaches the net with variance 1.

    Where there are deltas, the last plane's mean also carries a ramp over the bands: see POSITION. A static plane alone
    stays as the papers have it.
    """
    planes = np.concatenate([planes_of(s) for s in statics], axis=2)  # (planes, bands, frames)
    mean, std = planes.mean(axis=2, dtype=np.float64).astype(np.float32), np.maximum(planes.std(axis=2), 1e-3)
    if len(mean) > 1:
        mean[-1] -= std[-1] * np.linspace(-POSITION, POSITION, mean.shape[1], dtype=np.float32)
    return mean, std
