"""Spectrograms of a data set, computed once by runtime.frontend and kept on disk, keyed by front end and file."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from runtime.frontend import spectrogram
from runtime.patches import PLANES, PatchShape, looped
from runtime.stack import Stack, frontend_from_json
from train.data import load_wave

__all__ = [
    "CACHE", "PLANES", "POSITION", "PatchShape", "Stack", "features", "frontend_from_json", "looped", "normalisation",
    "unchanged",
]  # fmt: skip

CACHE = Path(".cache/features")
# A net that ends in global pooling cannot tell which bands it hears. The normalised last plane, delta-delta, rises from
# -POSITION at the lowest band to POSITION at the highest, and says so at no cost on the device. Measured in LOG.md.
POSITION = 2.0
VERSION = 4  # raise it when runtime.frontend computes other numbers


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
