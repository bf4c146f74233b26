"""Spectrograms of a data set, computed once by runtime.frontend and kept on disk, keyed by front end and file."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.files import write_atomic
from runtime.frontend import spectrogram
from runtime.patches import PLANES, PatchShape, looped
from runtime.stack import Stack, frontend_from_json
from train.data import load_wave
from train.workers import counted

__all__ = [
    "CACHE", "PLANES", "POSITION", "PatchShape", "Stack", "features", "frontend_from_json", "key", "load_array", "looped",
    "normalisation", "save_array", "unchanged",
]  # fmt: skip

CACHE = Path(".cache/features")
# A net that ends in global pooling cannot tell which bands it hears. The normalised last plane, delta-delta, rises from
# -POSITION at the lowest band to POSITION at the highest, and says so at no cost on the device. Measured in LOG.md.
POSITION = 2.0
BANDS_AT_ONCE = 16  # whose frames are in memory together: all bands of 14,000 clips of 10 s take 20 GB
VERSION = 4  # raise it when runtime.frontend computes other numbers


def features(clips, frontend, cache=CACHE, starmap=itertools.starmap):
    """-> sequence of (n_bands, frames) float32 static spectrograms, one per clip, in dB. Progress on stderr.

    starmap: who computes what is not in the cache yet, see train.workers.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    kept = Kept([[(clip.path, f, cache / f"{key(clip.path, f)}.npy") for f in frontend.frontends] for clip in clips])
    missing = [file for files in kept.files for file in files if not file[2].exists()]
    for _ in counted(starmap(_keep, missing), len(missing), f"{frontend.kind} features"):
        pass
    return kept


class Kept(Sequence):
    """Spectrograms on disk, each read anew when it is asked for: the page cache holds what memory has room for.

    It does so once for all processes. A file that was damaged or deleted is computed again.
    """

    def __init__(self, files):
        """files: for each clip, and in it for each front end: recording, Frontend, path of the spectrogram."""
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        statics = [_kept(*file) for file in self.files[i]]
        return statics[0] if len(statics) == 1 else np.concatenate(statics)


def _keep(recording, frontend, path):
    save_array(path, spectrogram(load_wave(recording, frontend.sr), frontend))


def _kept(recording, frontend, path):
    static = load_array(path, (frontend.n_bands, None))
    if static is None:
        _keep(recording, frontend, path)
        static = np.load(path, allow_pickle=False)
    return static


def load_array(path, shape):
    """An array of numbers kept on disk; None where there is none, or not of this shape.

    shape: None stands for any length.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except Exception:  # whatever the damage makes numpy's reader of headers, or zipfile, raise
        return None
    fits = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == len(shape)
    fits = fits and all(want in (None, has) for want, has in zip(shape, array.shape))
    return array if fits and np.isfinite(array).all() else None


def key(path, frontend):
    """Name of a cached file: changes with the front end, the recording's place, size or time of change."""
    stat = Path(path).stat()
    text = json.dumps([VERSION, frontend.to_json(), str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def save_array(path, array):
    """Atomic: a killed run leaves no half of a file, and two runs may write the same one."""

    def write(partial):
        with open(partial, "wb") as file:  # given a name, numpy would add a suffix
            np.save(file, array, allow_pickle=False)

    write_atomic(path, write)


def unchanged(frontend):
    """-> mean, std for raw frames, whose net normalises by itself: (1, samples) of 0, of 1."""
    return np.zeros((1, frontend.n_bands), np.float32), np.ones((1, frontend.n_bands), np.float32)


def normalisation(statics, patch):
    """-> mean, std (planes, bands) float32 over all frames: each plane and band reaches the net with variance 1.

    Where a patch's dB are relative, those of each recording are relative to its loudest frame here: nearly the same.

    Where there are deltas, the last plane's mean also carries a ramp over the bands: see POSITION. A static plane alone
    stays as the papers have it.
    """
    n_bands = len(statics[0])
    groups = np.array_split(np.arange(n_bands), max(1, n_bands // BANDS_AT_ONCE))
    absolute = patch.quietest_db is None
    references_db = [0.0] * len(statics) if absolute else [patch.reference_db(static) for static in statics]
    parts = (_mean_and_std(statics, references_db, patch, slice(bands[0], bands[-1] + 1)) for bands in groups)
    parts = list(counted(parts, len(groups), "statistics, group of bands"))
    mean, std = (np.concatenate(rows, axis=2).reshape(len(rows[0]), -1) for rows in zip(*parts))
    mean, std = mean.astype(np.float32), np.maximum(std, 1e-3)
    if len(mean) > 1:
        mean[-1] -= std[-1] * np.linspace(-POSITION, POSITION, mean.shape[1], dtype=np.float32)
    return mean, std


def _mean_and_std(statics, references_db, patch, bands):
    """-> float64, float32 (planes, rows that a band becomes, bands), over all frames."""
    heard = (patch.relative(static[bands], db) for static, db in zip(statics, references_db))
    planes = np.concatenate([patch.planes_of(static) for static in heard], axis=2)
    planes = planes.reshape(len(planes), -1, bands.stop - bands.start, planes.shape[2])
    return planes.mean(axis=3, dtype=np.float64), planes.std(axis=3)
