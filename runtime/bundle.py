"""Bundle: a folder of members and how to fuse them. The only owner of the format.

    python -m runtime.bundle BUNDLE --check     runs the golden window again, in every format that an engine here can run

A bundle holds bundle.json, the members' model files in each format, golden.npz and report.md. Nothing in it can run code.
"""

import argparse
import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtime import audio, command, engine, files, fusion
from runtime.frontend import Frontend, FrontendStream, spectrograms
from runtime.level import Levels
from runtime.patches import PatchShape, looped
from runtime.rules import Rules
from runtime.stack import frontend_from_json

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
    """One net of a bundle, the front end or stack of them that feeds it, and the patches that it wants."""

    def __init__(self, folder: Path, values: Mapping[str, Any], patch: Mapping[str, Any]) -> None:
        self.folder, self.name = folder, str(values["name"])
        self.frontend = frontend_from_json(values["frontend"])
        self.patch = _patch_shape(values.get("patch", patch))
        if (self.patch.planes == "frames") != (self.frontend.kind == "frames"):
            raise ValueError(f"member {self.name}: {self.patch.planes} planes of a front end of {self.frontend.kind}")
        self.in_shape = self.patch.in_shape(self.frontend.n_bands)  # (planes, n_frames, bands)
        self.temperature = _positive(values.get("temperature", 1.0), "temperature")
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
        """(bands, frames) of a whole clip -> (classes,): log of the mean probability over its patches.

        A clip shorter than a patch is looped, frame by frame as in training, never padded with silence.
        """
        return fusion.mean(self.log_p(self.patches(looped(static, self.patch.n_static))))


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
    format: str = ""  # of the model files in use: "tflite" or "onnx"

    @classmethod
    def load(cls, path: str | Path = DEFAULT, fmt: str | None = None, threads: int = 1) -> "Bundle":
        """Read, check and open a bundle; fmt None takes a format that it holds and an installed engine runs.

        Raises BundleError for anything that is not a whole, unchanged bundle, ImportError without an engine.
        """
        folder = Path(path)
        values = _read_json(folder / "bundle.json")
        if values.get("format") != FORMAT:
            raise BundleError(f"{folder}: format {values.get('format')!r}, this reads {FORMAT}: update or export again")
        try:
            bundle = cls._from_json(folder, values)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise BundleError(f"{folder}/bundle.json is damaged: {_said(error)}") from error
        bundle.format = engine.choose(fmt, bundle.formats)
        for member in bundle.members:
            member.open(bundle.format, threads)
            _check_classes(member, len(bundle.labels))
        return bundle

    @classmethod
    def _from_json(cls, folder: Path, values: dict[str, Any]) -> "Bundle":
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
        bands = {m.name: m.frontend.n_bands for m in members if m.hears_level}
        levels = Levels.from_json(values["levels"], bands) if "levels" in values else None
        provenance = values["provenance"]
        bundle = cls(folder, tuple(labels), sr, window_s, hop_s, values["fuse"], members, provenance, rules, levels)
        if not bundle.formats:
            raise ValueError("its members have files in no common format")
        return bundle

    def fused(self, member_log_p: list[np.ndarray]) -> np.ndarray:
        """One (classes,) log probability per member -> (classes,) fused."""
        return fusion.FUSIONS[self.fuse](np.stack(member_log_p))

    @property
    def formats(self) -> list[str]:
        """In which every member has a file."""
        return [fmt for fmt in engine.FORMATS if all(fmt in member.files for member in self.members)]

    @property
    def frontends(self) -> list[Frontend]:
        """Of all members, one after the other: what runtime.frontend shall compute."""
        return [frontend for member in self.members for frontend in member.frontend.frontends]

    def by_member(self, each: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """What was computed for each of `frontends`, a list of them per member."""
        rest = iter(each)
        return [[next(rest) for _ in member.frontend.frontends] for member in self.members]

    def statics(self, wave: np.ndarray) -> list[np.ndarray]:
        """(samples,) mono at self.sr -> per member (bands, frames), those of a stack above each other."""
        return [np.concatenate(parts) for parts in self.by_member(spectrograms(wave, self.frontends))]

    def member_log_p(self, wave: np.ndarray) -> list[np.ndarray]:
        """(samples,) mono at self.sr -> per member (classes,), see Member.clip_log_p."""
        return [member.clip_log_p(static) for member, static in zip(self.members, self.statics(wave))]

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
    log_p, statics = bundle.member_log_p(samples), bundle.statics(samples)
    arrays = {"samples": samples.astype(np.float32), "p": np.exp(bundle.fused(log_p))}
    for member, p, static in zip(bundle.members, log_p, statics):
        arrays[f"p_{member.name}"] = np.exp(p)
        arrays[f"spectrogram_{member.name}"] = static.astype(np.float16)
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
    blank = np.zeros((1, *member.in_shape), np.float32)
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


def _patch_shape(values: Mapping[str, Any]) -> PatchShape:
    n_frames, stride = _whole(values, "n_frames", 4096), _whole(values, "stride", 4096)
    return PatchShape(n_frames, stride, values.get("planes", PatchShape.planes))


def _table(values: Any, n_planes: int, n_bands: int) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if table.shape != (n_planes, n_bands) or not (np.abs(table) < 1e6).all():  # NaN fails too
        raise ValueError(f"mean or std is not {n_planes} x {n_bands} numbers within a million")
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


def _described(bundle: Bundle) -> str:
    """What a bundle is, and the rules for each class, as lines."""
    names = ", ".join(f"{m.name} ({_heard(m)}, {m.files[bundle.format]['bytes']} bytes)" for m in bundle.members)
    lines = [
        f"{bundle.folder}: {names}; {bundle.fuse} of {len(bundle.labels)} classes; {bundle.sr} Hz, "
        f"window {bundle.window_s:g} s, hop {bundle.hop_s:g} s"
    ]
    for label in bundle.labels:
        known = label in bundle.rules.on
        on_off = f"on at {bundle.rules.on[label]:.3f}, off below {bundle.rules.off[label]:.3f}" if known else ""
        lines.append(f"  {label:<20} {on_off or 'never reported'}")
    spans = ("smooth_s", "min_s", "cooldown_s")
    return "\n".join([*lines, "  " + ", ".join(f"{name} {getattr(bundle.rules, name):g}" for name in spans)])


def _heard(member: Member) -> str:
    kinds = "+".join(frontend.kind for frontend in member.frontend.frontends)
    return kinds if member.patch.planes in ("deltas", "frames") else f"{kinds} {member.patch.planes}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.bundle", description="What a bundle is and whether it is whole."
    )
    parser.add_argument("bundle", type=Path, nargs="?", default=DEFAULT, help="folder (default: the bundle that ships)")
    parser.add_argument(
        "--check", action="store_true", help="run the golden window again in every format that can run here"
    )
    args = parser.parse_args(argv)
    bundle = Bundle.load(args.bundle)
    if not args.check:
        print(_described(bundle))
        return 0
    for fmt in (fmt for fmt in engine.available() if fmt in bundle.formats):
        bundle = Bundle.load(args.bundle, fmt)
        print(f"{bundle.folder} {fmt}: golden window within {bundle.check():.1e}, at most {CHECK_BOUND} allowed")
    return 0


if __name__ == "__main__":
    command.run(main)
