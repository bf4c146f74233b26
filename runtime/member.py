"""Member: one net of a bundle, what it hears and its file in each format."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtime import engine, fusion
from runtime.frontend import FrontendStream
from runtime.patches import PatchShape, looped
from runtime.stack import frontend_from_json
from runtime.values import number, whole

POSITIVE = 1e-3, 1e6  # seconds, temperatures


class BundleError(ValueError):
    """A bundle that cannot be trusted or used: which file, what is wrong, what to do. One line, whatever it quotes."""

    def __init__(self, said: str) -> None:
        super().__init__(" ".join(said.split())[:1000])


class Member:
    """One net of a bundle, the front end or stack of them that feeds it, and the patches that it wants."""

    def __init__(self, folder: Path, values: Mapping[str, Any], patch: Mapping[str, Any]) -> None:
        self.folder, self.name = folder, str(values["name"])
        self.frontend = frontend_from_json(values["frontend"])
        self.patch = _patch_shape(values.get("patch", patch))
        if (self.patch.planes == "frames") != (self.frontend.kind == "frames"):
            raise ValueError(f"member {self.name}: {self.patch.planes} planes of a front end of {self.frontend.kind}")
        if self.patch.quietest_db is not None and not all(f.is_level for f in self.frontend.frontends):
            raise ValueError(f"member {self.name}: quietest_db of {self.frontend.kind}, which is no level")
        self.in_shape = self.patch.in_shape(self.frontend.n_bands)  # (planes, n_frames, bands)
        self.temperature = float(number("temperature", values.get("temperature", 1.0), *POSITIVE))
        n_planes, _, n_bands = self.in_shape
        raw = self.patch.planes == "frames"  # their net normalises by itself, and the bundle holds no tables for it
        self.mean = np.zeros((1, n_bands), np.float32) if raw else _table(values["mean"], n_planes, n_bands)
        std = np.ones((1, n_bands), np.float32) if raw else _table(values["std"], n_planes, n_bands)
        self.std = np.maximum(std, np.float32(1e-6))
        self.files = _files(values["files"])
        self._model: engine.Model | None = None

    @property
    def hears_level(self) -> bool:
        """Whether it is fed one spectrogram in dB, whose bands runtime.level can watch."""
        frontends = self.frontend.frontends
        return len(frontends) == 1 and frontends[0].is_level

    @cached_property
    def lookahead(self) -> int:
        """Samples behind a frame's centre that it depends on."""
        return max(FrontendStream(frontend).lookahead for frontend in self.frontend.frontends)

    @property
    def stride_samples(self) -> int:
        return self.patch.stride * self.frontend.hop_length

    def patch_end(self, index: int | np.ndarray) -> Any:
        """Samples that must have been heard before patch `index` is complete, look-ahead of its last frame included."""
        last_frame = index * self.patch.stride + self.patch.n_static - 1
        return last_frame * self.frontend.hop_length + self.lookahead + 1

    def path(self, fmt: str) -> Path:
        return self.folder / self.files[fmt]["file"]

    def verify(self, fmt: str) -> None:
        """Raises BundleError unless the file is there, of the size and sha256 that bundle.json says."""
        entry = self.files.get(fmt)
        if entry is None:
            raise BundleError(f"{self.folder}: member {self.name} has no {fmt} file, only {', '.join(self.files)}")
        path = self.path(fmt)
        if Path(entry["file"]).name != entry["file"] or path.suffix != f".{fmt}":
            raise BundleError(f"{self.folder}: {entry['file']!r} is no plain name of a .{fmt} file")
        if not path.is_file():
            raise BundleError(f"{path} is missing: the bundle is incomplete, copy it again")
        if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
            raise BundleError(f"{path} is not the file that bundle.json describes: it was changed, copy it again")

    def open(self, fmt: str, threads: int = 1) -> None:
        self.verify(fmt)
        self._model = engine.open_model(self.path(fmt), threads)

    def patches(self, static: np.ndarray) -> np.ndarray:
        """(bands, frames) static -> (n, planes, n_frames, bands) patches, normalised as in training; perhaps none."""
        return (self.patch.whole(static) - self.mean[:, None]) / self.std[:, None]

    def log_p(self, normalised: np.ndarray) -> np.ndarray:
        """(n, planes, n_frames, bands) -> (n, classes) log probabilities."""
        assert self._model is not None, "Bundle.load opens the members"
        return fusion.patch_log_p(self._model(normalised), self.temperature)

    def clip_log_p(self, static: np.ndarray) -> np.ndarray:
        """(bands, frames) of a whole clip -> (classes,): the opinions on its patches, as one.

        A clip shorter than a patch is looped, frame by frame as in training, never padded with silence.
        """
        return self.over_patches(self.log_p(self.patches(looped(static, self.patch.n_static))))

    def over_patches(self, log_p: np.ndarray) -> np.ndarray:
        """(n, classes) log probabilities of patches -> (classes,): runtime.fusion.over_patches, at this net's certainty."""
        return fusion.over_patches(log_p, self.patch.certainty)


def file_entry(path: Path, **facts: Any) -> dict[str, Any]:
    """What bundle.json says of a model file: its name, bytes, sha256 and the given facts."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path), **facts}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(values: Any) -> dict[str, dict[str, Any]]:
    """Format -> the entry that `file_entry` made."""
    for fmt, entry in values.items():
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "sha256")):
            raise ValueError(f"files: {fmt} does not name a file and its sha256")
        if "bytes" not in entry:
            raise ValueError(f"files: {fmt} does not say its bytes")
    return values


def _patch_shape(values: Mapping[str, Any]) -> PatchShape:
    n_frames, stride = (whole(name, values[name], 1, 4096) for name in ("n_frames", "stride"))
    later = {name: values[name] for name in ("planes", "quietest_db", "certainty") if name in values}
    return PatchShape(n_frames, stride, **later)


def _table(values: Any, n_planes: int, n_bands: int) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if table.shape != (n_planes, n_bands) or not (np.abs(table) < 1e6).all():  # NaN fails too
        raise ValueError(f"mean or std is not {n_planes} x {n_bands} numbers within a million")
    return table.astype(np.float32)
