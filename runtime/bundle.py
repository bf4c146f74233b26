"""Bundle: a folder of members and how to fuse them. The only owner of the format.

    python -m runtime.bundle BUNDLE --check     runs the golden window again, in every format that an engine here can run

A bundle holds bundle.json, the members' model files in each format, golden.npz and report.md. Nothing in it can run code.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import audio, command, engine, files, fusion, golden
from runtime.frontend import Frontend, spectrograms
from runtime.level import Levels
from runtime.member import POSITIVE, BundleError, Member
from runtime.rules import Rules
from runtime.values import number

FORMAT = 1
BUNDLES = Path(__file__).parent / "bundles"
DEFAULT = BUNDLES / "esc10"
MAX_NAME = 200  # characters of a label: they are printed, and must not steer a terminal
# Of a probability: engines round some int8 logits a step or two apart (tflite-runtime: 0.018); a wrong file is far off.
CHECK_BOUND = 0.06


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
    highest_hz: float  # that its nets have learned from: of their front ends, or less where the recordings held less
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
        if not all(map(is_name, names)):
            raise ValueError(f"a label or a member's name is not 1 to {MAX_NAME} printable characters")
        if values["fuse"] not in fusion.FUSIONS:
            raise ValueError(f"fuse {values['fuse']!r} is not one of {', '.join(fusion.FUSIONS)}")
        members = [Member(folder, member, member.get("patch", values["patch"])) for member in values["members"]]
        sr = values["sr"]
        if not members or any(member.frontend.sr != sr for member in members):
            raise ValueError(f"no members, or one whose front end is not at {sr} Hz")
        if len({member.name for member in members}) != len(members):
            raise ValueError("two members have one name")
        window_s, hop_s = (float(number(key, values[key], *POSITIVE)) for key in ("window_s", "hop_s"))
        sr = members[0].frontend.sr  # equal, and an int
        rules = Rules.from_json(values["rules"], labels) if "rules" in values else Rules.default(labels)
        bands = {m.name: m.frontend.n_bands for m in members if m.hears_level}
        levels = Levels.from_json(values["levels"], bands) if "levels" in values else None
        heard_hz = float(number("highest_hz", values.get("highest_hz", sr / 2), 1, sr / 2))
        highest_hz = min(heard_hz, max(f.highest_hz for member in members for f in member.frontend.frontends))
        bundle = cls(
            folder, tuple(labels), sr, window_s, hop_s, values["fuse"], members, values["provenance"], rules, levels,
            highest_hz,
        )  # fmt: skip
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
        known = golden.read(self.folder / "golden.npz", len(self.labels), [m.name for m in self.members])
        again = self.member_log_p(known["samples"])
        differences = [np.abs(np.exp(p) - known[f"p_{m.name}"]).max() for m, p in zip(self.members, again)]
        worst = float(max([*differences, np.abs(np.exp(self.fused(again)) - known["p"]).max()]))
        if not worst <= CHECK_BOUND:
            raise BundleError(
                f"{self.folder}: the golden window comes out {worst:.3f} off ({self.format}): do not use it"
            )
        return worst


def is_name(text: str) -> bool:
    """Whether a bundle can name a class or a member so."""
    return 1 <= len(text) <= MAX_NAME and text.isprintable()


def _said(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(f"{path.parent} is no bundle: {path.name} is missing (python -m export makes bundles)")
    try:
        return files.read_json(path)
    except ValueError as error:
        raise BundleError(f"{error}: copy the bundle again") from error


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
