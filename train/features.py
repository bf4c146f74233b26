"""Spectrograms of a data set, computed once by runtime.frontend and kept on disk, keyed by front end and file."""

import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from runtime.frontend import DELTA_FRAMES, deltas, patches, spectrogram
from train.data import load_wave

CACHE = Path(".cache/features")
# A net that ends in global pooling cannot tell which bands it hears. The normalised last plane, delta-delta, rises from
# -POSITION at the lowest band to POSITION at the highest, and says so at no cost on the device. Measured in LOG.md.
POSITION = 2.0
VERSION = 3  # raise it when runtime.frontend computes other numbers


@dataclasses.dataclass(frozen=True)
class PatchShape:
    """A net's input: `n_frames` delta frames, one patch every `stride` frames."""

    n_frames: int = 128
    stride: int = 32

    def __post_init__(self):
        if not 8 <= self.n_frames <= 4096 or not 1 <= self.stride <= 4096:
            raise ValueError(
                f"patches of {self.n_frames} frames every {self.stride}: choose 8 to 4096, every 1 to 4096"
            )

    @property
    def n_static(self):
        """Static frames that one patch needs."""
        return self.n_frames + DELTA_FRAMES


def features(clips, frontend, cache=CACHE):
    """-> list of (n_bands, frames) float32 static spectrograms, one per clip, in dB. Progress on stderr."""
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


def cut(static, frontend, patch):
    """(bands, frames) -> (n, planes, frames, bands), a clip's patches, one every patch.stride frames.

    A net that learns its filters gets one plane of raw frames, and the frames that its own deltas will take.
    """
    static = looped(static, patch.n_static)
    if frontend.kind == "frames":
        return patches(static[None], patch.n_static, patch.stride)
    return patches(deltas(static), patch.n_frames, patch.stride)


def unchanged(frontend):
    """-> mean, std of a front end whose net normalises by itself: (1, bands) of 0, of 1."""
    return np.zeros((1, frontend.n_bands), np.float32), np.ones((1, frontend.n_bands), np.float32)


def normalisation(statics, deltas):
    """-> mean, std (planes, bands) float32 over all frames: each plane and band reaches the net with variance 1.

    The last plane's mean also carries a ramp over the bands: see POSITION.
    """
    planes = np.concatenate([deltas(s) for s in statics], axis=2)  # (3, bands, frames)
    mean, std = planes.mean(axis=2, dtype=np.float64).astype(np.float32), np.maximum(planes.std(axis=2), 1e-3)
    mean[-1] -= std[-1] * np.linspace(-POSITION, POSITION, mean.shape[1], dtype=np.float32)
    return mean, std
