"""Bundle: a folder of members and how to fuse them. The only owner of the format.

    python -m runtime.bundle BUNDLE --check     runs the golden window again, in every format that an engine here can run

A bundle holds bundle.json, the members' model files in each format, golden.npz and report.md. Nothing in it can run code.
"""

import argparse
import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtime import audio, command, engine, files, fusion
from runtime.frontend import DELTA_FRAMES, Frontend, FrontendStream, deltas, patches, spectrogram
from runtime.level import Levels
from runtime.rules import Rules

FORMAT = 1
BUNDLES = Path(__file__).parent / "bundles"
DEFAULT = BUNDLES / "esc10"
MAX_GOLDEN_BYTES = 32 << 20
MAX_NAME = 200  # characters of a label: they are printed, and must not steer a terminal
# Of a probability: engines round some int8 logits a step or two apart (tflite-runtime: 0.018); a wrong file is far off.
CHECK_BOUND = 0.06


class BundleError(ValueError):
    """A bundle that cannot be trusted or used: which file, what is wrong, what to do. One line, whatever it quotes."""

    def __init__(self, said: str) -> None:
        super().__init__(" ".join(said.split())[:1000])


class Member:
    """One net of a bundle and the front end that feeds it."""

    def __init__(self, folder: Path, values: Mapping[str, Any], patch: Mapping[str, int]) -> None:
        self.folder, self.name = folder, str(values["name"])
        self.frontend = Frontend.from_json(values["frontend"])
        self.n_frames, self.stride = _whole(patch, "n_frames", 4096), _whole(patch, "stride", 4096)
        self.temperature = _positive(values.get("temperature", 1.0), "temperature")
        self.mean = _plane_table(values["mean"], self.frontend.n_bands)
        self.std = np.maximum(_plane_table(values["std"], self.frontend.n_bands), np.float32(1e-6))
        self.files = _files(values["files"])
        self._model: engine.Model | None = None

    @property
    def n_static(self) -> int:
        """Static frames that one patch needs."""
        return self.n_frames + DELTA_FRAMES

    @property
    def min_samples(self) -> int:
        """The shortest recording that holds a patch; predict() loops a shorter one."""
        return (self.n_static - 1) * self.frontend.hop_length

    @cached_property
    def lookahead(self) -> int:
        """Samples behind a frame's centre that it depends on."""
        return FrontendStream(self.frontend).lookahead

    @property
    def stride_samples(self) -> int:
        return self.stride * self.frontend.hop_length

    def patch_end(self, index: int | np.ndarray) -> Any:
        """Samples that must have been heard before patch `index` is complete, look-ahead of its last frame included."""
        last_frame = index * self.stride + self.n_static - 1
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
        """(bands, frames) static, in dB -> (n, planes, n_frames, bands) patches, normalised as in training."""
        cut = patches(deltas(static), self.n_frames, self.stride)
        return (cut - self.mean[:, None]) / self.std[:, None]

    def log_p(self, normalised: np.ndarray) -> np.ndarray:
        """(n, planes, n_frames, bands) -> (n, classes) log probabilities."""
        assert self._model is not None, "Bundle.load opens the members"
        return fusion.log_softmax(self._model(normalised), self.temperature)


@dataclasses.dataclass
class Bundle:
    """Members and how to fuse them. Made by Bundle.load; `predict` for whole clips, runtime.stream for sound as it comes."""

    folder: Path
    labels: tuple[str, ...]
    sr: int
    window_s: float
    hop_s: float
    fuse: str
    members: list[Member]
    provenance: dict[str, Any]
    rules: Rules
    levels: Levels | None  # None: nobody has learned them
    format: str  # of the model files in use: "tflite" or "onnx"

    @classmethod
    def load(cls, path: str | Path = DEFAULT, fmt: str | None = None, threads: int = 1) -> "Bundle":
        """Read, check and open a bundle; fmt None takes the format that an installed engine runs.

        Raises BundleError for anything that is not a whole, unchanged bundle, ImportError without an engine.
        """
        folder = Path(path)
        values = _read_json(folder / "bundle.json")
        if values.get("format") != FORMAT:
            raise BundleError(f"{folder}: format {values.get('format')!r}, this reads {FORMAT}: update or export again")
        fmt = engine.choose(fmt)
        try:
            bundle = cls._from_json(folder, values, fmt)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise BundleError(f"{folder}/bundle.json is damaged: {_said(error)}") from error
        for member in bundle.members:
            member.open(fmt, threads)
            _check_classes(member, len(bundle.labels))
        return bundle

    @classmethod
    def _from_json(cls, folder: Path, values: dict[str, Any], fmt: str) -> "Bundle":
        labels = values["labels"]
        named = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
        if not named or len(set(labels)) != len(labels):
            raise ValueError("labels are not a list of different names")
        names = [*labels, *(str(member["name"]) for member in values["members"])]
        if not all(1 <= len(name) <= MAX_NAME and name.isprintable() for name in names):
            raise ValueError(f"a label or a member's name is not 1 to {MAX_NAME} printable characters")
        if values["fuse"] not in fusion.FUSIONS:
            raise ValueError(f"fuse {values['fuse']!r} is not one of {', '.join(fusion.FUSIONS)}")
        members = [Member(folder, member, member.get("patch", values["patch"])) for member in values["members"]]
        sr = values["sr"]
        if not members or any(member.frontend.sr != sr for member in members):
            raise ValueError(f"no members, or one whose front end is not at {sr} Hz")
        if len({member.name for member in members}) != len(members):
            raise ValueError("two members have one name")
        window_s, hop_s = (_positive(values[key], key) for key in ("window_s", "hop_s"))
        sr = members[0].frontend.sr  # equal, and an int
        rules = Rules.from_json(values["rules"], labels) if "rules" in values else Rules.default(labels)
        bands = {member.name: member.frontend.n_bands for member in members}
        levels = Levels.from_json(values["levels"], bands) if "levels" in values else None
        provenance = values["provenance"]
        return cls(folder, tuple(labels), sr, window_s, hop_s, values["fuse"], members, provenance, rules, levels, fmt)

    def fused(self, member_log_p: list[np.ndarray]) -> np.ndarray:
        """One (classes,) log probability per member -> (classes,) fused."""
        return fusion.FUSIONS[self.fuse](np.stack(member_log_p))

    def member_log_p(self, wave: np.ndarray) -> list[np.ndarray]:
        """(samples,) mono at self.sr -> per member (classes,): log of the mean probability over the clip's patches."""
        longest = max(member.min_samples for member in self.members)
        if len(wave) < longest:
            wave = np.tile(wave, -(-longest // len(wave)))[:longest]  # looped, never padded with silence
        return [fusion.mean(m.log_p(m.patches(spectrogram(wave, m.frontend)))) for m in self.members]

    def predict(self, wave: np.ndarray, sr: int) -> np.ndarray:
        """A whole clip, (samples,) or (samples, channels) at `sr` Hz -> (classes,) probabilities.

        Other rates are resampled (extra `audio`); a clip shorter than a patch is looped. Raises ValueError if empty.
        """
        mono, _ = audio.sanitize(audio.to_mono(np.asarray(wave)))
        if not len(mono):
            raise ValueError("a clip without samples has no class")
        resampler = audio.Resampler(sr, self.sr)
        mono = np.concatenate([resampler.feed(mono), resampler.flush()])
        if not len(mono):
            raise ValueError(f"a clip too short to resample from {sr} to {self.sr} Hz has no class")
        return np.exp(self.fused(self.member_log_p(mono)))

    def check(self) -> float:
        """Run the golden window again -> the largest difference of a probability, at most CHECK_BOUND or BundleError."""
        golden = _read_golden(self.folder / "golden.npz", self.labels, [m.name for m in self.members])
        again = self.member_log_p(golden["samples"])
        differences = [np.abs(np.exp(p) - golden[f"p_{m.name}"]).max() for m, p in zip(self.members, again)]
        worst = float(max([*differences, np.abs(np.exp(self.fused(again)) - golden["p"]).max()]))
        if not worst <= CHECK_BOUND:
            raise BundleError(
                f"{self.folder}: the golden window comes out {worst:.3f} off ({self.format}): do not use it"
            )
        return worst


def golden_window(bundle: Bundle, samples: np.ndarray) -> dict[str, np.ndarray]:
    """What golden.npz holds: the samples, each member's spectrogram and probabilities, the fused ones."""
    log_p = bundle.member_log_p(samples)
    arrays = {"samples": samples.astype(np.float32), "p": np.exp(bundle.fused(log_p))}
    for member, p in zip(bundle.members, log_p):
        arrays[f"p_{member.name}"] = np.exp(p)
        arrays[f"spectrogram_{member.name}"] = spectrogram(samples, member.frontend).astype(np.float16)
    return arrays


def file_entry(path: Path, **facts: Any) -> dict[str, Any]:
    """What bundle.json says of a model file: its name, bytes, sha256 and the given facts."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path), **facts}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _said(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(f"{path.parent} is no bundle: {path.name} is missing (python -m export makes bundles)")
    try:
        return files.read_json(path)
    except ValueError as error:
        raise BundleError(f"{error}: copy the bundle again") from error


def _read_golden(path: Path, labels: tuple[str, ...], names: list[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BundleError(f"{path} is missing: copy the bundle again")
    try:
        with zipfile.ZipFile(path) as archive:  # sizes first: a small archive can unpack to a huge one
            if sum(item.file_size for item in archive.infolist()) > MAX_GOLDEN_BYTES:
                raise BundleError(f"{path} unpacks to more than {MAX_GOLDEN_BYTES >> 20} MB")
        with np.load(path, allow_pickle=False) as file:
            golden = {key: file[key] for key in ("samples", "p", *(f"p_{name}" for name in names))}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise BundleError(f"{path} is damaged ({error}): copy the bundle again") from error
    samples = golden["samples"]
    fits = all(p.shape == (len(labels),) for name, p in golden.items() if name != "samples")
    if not fits or samples.ndim != 1 or not len(samples) or any(a.dtype.kind != "f" for a in golden.values()):
        raise BundleError(f"{path} does not belong to this bundle")
    return golden


def _check_classes(member: Member, n_classes: int) -> None:
    blank = np.zeros((1, 3, member.n_frames, member.frontend.n_bands), np.float32)
    try:
        n = member.log_p(blank).shape[1]
    except ValueError as error:
        raise BundleError(f"{member.folder}: member {member.name}: {error}") from error
    if n != n_classes:
        raise BundleError(
            f"{member.folder}: member {member.name} tells {n} classes apart, the bundle names {n_classes}"
        )


def _files(values: Any) -> dict[str, dict[str, Any]]:
    """Format -> the entry that `file_entry` made."""
    for fmt, entry in values.items():
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "sha256")):
            raise ValueError(f"files: {fmt} does not name a file and its sha256")
        if "bytes" not in entry:
            raise ValueError(f"files: {fmt} does not say its bytes")
    return values


def _plane_table(values: Any, n_bands: int) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if table.shape != (3, n_bands) or not (np.abs(table) < 1e6).all():  # NaN fails too
        raise ValueError(f"mean or std is not 3 x {n_bands} numbers within a million")
    return table.astype(np.float32)


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-3 <= value < 1e6:
        raise ValueError(f"{name} {value!r} is not a number from 0.001 to 1e6")
    return float(value)


def _whole(values: Mapping[str, Any], name: str, most: int) -> int:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} {value!r} is not a whole number from 1 to {most}")
    return value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.bundle", description="What a bundle is and whether it is whole."
    )
    parser.add_argument("bundle", type=Path, nargs="?", default=DEFAULT, help="folder (default: the bundle that ships)")
    parser.add_argument(
        "--check", action="store_true", help="run the golden window again in every format that can run here"
    )
    args = parser.parse_args(argv)
    for fmt in engine.available() if args.check else [None]:
        bundle = Bundle.load(args.bundle, fmt)
        if args.check:
            print(f"{bundle.folder} {fmt}: golden window within {bundle.check():.1e}, at most {CHECK_BOUND} allowed")
        else:
            names = ", ".join(
                f"{m.name} ({m.frontend.kind}, {m.files[bundle.format]['bytes']} bytes)" for m in bundle.members
            )
            print(
                f"{bundle.folder}: {names}; {bundle.fuse} of {len(bundle.labels)} classes; {bundle.sr} Hz, "
                f"window {bundle.window_s:g} s, hop {bundle.hop_s:g} s"
            )
            for label in bundle.labels:
                known = label in bundle.rules.on
                print(
                    f"  {label:<20} on at {bundle.rules.on[label]:.3f}, off below {bundle.rules.off[label]:.3f}"
                    if known
                    else f"  {label:<20} never reported"
                )
            spans = ("smooth_s", "min_s", "cooldown_s")
            print("  " + ", ".join(f"{name} {getattr(bundle.rules, name):g}" for name in spans))
    return 0


if __name__ == "__main__":
    command.run(main)
