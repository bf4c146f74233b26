"""Labelled recordings on disk -> clips with a label, a fold and a group.  load_dataset(path), split(dataset, fold)

The layout is recognised by what lies in the folder: one of the published ones (train.layouts), or your own, one folder
of recordings per class.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import audio
from runtime.bundle import MAX_NAME, is_name
from train.layouts import SOURCES, Clip, Layout, Lists, read_layout
from train.tables import DataError, read_table
from train.tagging import is_chime_home

__all__ = [
    "RECORDINGS",
    "Clip",
    "DataError",
    "Dataset",
    "check_classes",
    "check_heard",
    "fingerprint",
    "inner_split",
    "load_dataset",
    "load_wave",
    "read_table",
    "split",
]

RECORDINGS = Path(__file__).parent / "recordings"  # the pack that ships: see train.pack
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
N_HASH_FOLDS = 5  # of a folder per class, which comes without folds
HASH_BYTES = 1 << 20  # of each recording: enough to tell them apart
NO_CLASSES = {"audio", "data_rouen", "chunks"}  # where published data sets keep their recordings of all classes


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`labels` are sorted by name: their order is the order of a net's outputs. `lists`: folds published as lists."""

    name: str
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]
    lists: Lists = dataclasses.field(default_factory=dict)

    @property
    def folds(self) -> tuple[int, ...]:
        """What split() can hold out."""
        folds = set(self.lists) or {clip.fold for clip in self.clips if clip.fold}
        return tuple(sorted(folds)) or tuple(range(1, N_HASH_FOLDS + 1))


def load_dataset(path: str | Path = RECORDINGS) -> Dataset:
    """A folder in one of the layouts above -> its Dataset, every file of which exists. Raises DataError."""
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give a data set's folder")
    if is_chime_home(root):
        raise DataError(f"{root} is CHiME-Home, whose recordings carry several labels each: use python -m train.tags")
    layout = read_layout(root) or Layout(root.resolve().name, _folder_clips(root), {}, "")
    _check_files(root, layout)
    labels = tuple(sorted({clip.label for clip in layout.clips}))
    for label in labels:  # as runtime.bundle will have it, before anything is trained
        if not is_name(label):
            raise DataError(
                f"{root}: class {label[:MAX_NAME]!r} is not 1 to {MAX_NAME} printable characters: rename it"
            )
    return Dataset(layout.name, tuple(layout.clips), labels, layout.lists)


def split(dataset: Dataset, fold: int | None) -> tuple[list[Clip], list[Clip]]:
    """-> (training clips, test clips). Fold None or 0: everything trains, nothing is left to test.

    Published lists (TUT, TAU, LITIS Rouen) are taken as they are; clips in neither half are left out. Numbered folds (ESC,
    UrbanSound8K): tests `fold`, trains on the others. A folder per class: one of five folds that stay the same as long
    as the recordings do. Raises DataError for a fold that is not there, or that leaves a class nothing to train on.
    """
    if not fold:
        return list(dataset.clips), []
    if fold not in dataset.folds:
        raise DataError(f"{dataset.name} has no fold {fold}: choose one of {', '.join(map(str, dataset.folds))}")
    if dataset.lists:
        train, test = ([clip for clip in dataset.clips if clip.path in part] for part in dataset.lists[fold])
    else:
        has_folds = any(clip.fold is not None for clip in dataset.clips)
        folds = [clip.fold for clip in dataset.clips] if has_folds else _hash_folds(dataset.clips)
        train = [clip for clip, k in zip(dataset.clips, folds) if k not in (None, fold)]
        test = [clip for clip, k in zip(dataset.clips, folds) if k == fold]
    if untaught := set(dataset.labels) - {clip.label for clip in train}:
        raise DataError(f"{dataset.name}: fold {fold} leaves no {min(untaught)} to train on: record more of it")
    return train, test


def fingerprint(clips: Sequence[Clip]) -> str:
    """What tells these clips, their classes and folds from others; of copies in another coding it is the same."""
    told = sorted(json.dumps([clip.path.stem, clip.label, clip.fold]) for clip in clips)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def check_classes(dataset: Dataset) -> None:
    """Raises DataError for a data set that no classifier can be trained on."""
    if len(dataset.labels) < 2:
        raise DataError(f"{dataset.name} holds one class ({dataset.labels[0]}): telling sounds apart takes two")


def check_heard(facts: Any, dataset: Dataset, fold: int | None, who: object) -> None:
    """Raises DataError where a net has heard other clips than this fold leaves to train on: it may know what is tested.

    facts: "data" of its run or of a bundle's provenance, as train.trainer writes it; those of before name no clips.
    Fold None or 0 tests nothing: any net will do.
    """
    if not fold:
        return
    facts = facts if isinstance(facts, dict) else {}
    own = fingerprint(split(dataset, fold)[0])
    if facts.get("fold") != fold or facts.get("clips", own) != own:
        raise DataError(
            f"{who} held out fold {facts.get('fold') or 0} of {facts.get('name')} as it was then, not fold {fold} of "
            f"{dataset.name} as it is: train it anew with the same --data and --fold"
        )


def inner_split(clips: Sequence[Clip], part: int, n_parts: int = 4, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """Training clips, dealt out once more -> (clips to train on, clips of `part` 1..n_parts to validate on).

    For whatever is chosen or fitted without a look at the test fold. Clips of one group stay together: takes of one
    recording, a place's recordings. Each class is dealt out as evenly as its groups allow. Another seed, another deal.
    Raises DataError for a part that is not there, has nothing to validate on, or leaves a class nothing to train on.
    """
    if not 1 <= part <= n_parts or n_parts < 2:
        raise DataError(f"part {part} of {n_parts}: choose part 1 to n_parts, of at least 2")
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    filled: Counter[tuple[str, int]] = Counter()  # (label, part) -> clips dealt so far
    part_of: dict[str, int] = {}
    for group in sorted(groups, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest()):
        label = groups[group][0].label
        part_of[group] = min(range(1, n_parts + 1), key=lambda k: filled[label, k])
        filled[label, part_of[group]] += len(groups[group])
    train = [clip for clip in clips if part_of[clip.group] != part]
    valid = [clip for clip in clips if part_of[clip.group] == part]
    if untaught := {clip.label for clip in clips} - {clip.label for clip in train}:
        raise DataError(f"{min(untaught)} comes from one original: none is left to validate on, record more of it")
    if not valid:
        raise DataError(f"{len(groups)} originals do not make {n_parts} parts: record more")
    return train, valid


def load_wave(path: Path, sr: int) -> np.ndarray:
    """A recording -> (samples,) float32 mono at `sr` Hz, finite. Raises runtime.audio.AudioError."""
    wave, file_sr = audio.read(path)
    wave, _ = audio.sanitize(audio.to_mono(wave))
    resampler = audio.Resampler(file_sr, sr)
    return np.concatenate([resampler.feed(wave), resampler.flush()])


def _folder_clips(root: Path) -> list[Clip]:
    clips = []
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith((".", "_")))
    if folders and {folder.name for folder in folders} <= NO_CLASSES:
        where = ", ".join(f"{name}: {url}" for name, url in SOURCES.items())
        raise DataError(
            f"{root} holds {folders[0].name}/ and no table of what is in it: fetch the data set's lists too ({where})"
        )
    for folder in folders:
        paths = [
            p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()
        ]
        if not paths:
            raise DataError(f"{folder} holds no recordings ({', '.join(SUFFIXES)}): convert them or take it away")
        clips += [Clip(path, folder.name, None, _digest(path)) for path in paths]
    if not clips:
        raise DataError(f"{root} is no data set: it has no meta/*.csv, no meta.csv and no folder per class")
    return clips


def _digest(path: Path) -> str:
    """Copies of a recording have the same, whatever they are called."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(HASH_BYTES)).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _hash_folds(clips: tuple[Clip, ...]) -> list[int | None]:
    """A fold 1..5 per clip: each class dealt out evenly, in the order of its groups' hashes."""
    first_label: dict[str, str] = {}
    for clip in clips:
        first_label.setdefault(clip.group, clip.label)  # a copy under another label still stays with its group
    dealt: Counter[str] = Counter()
    folds: dict[str, int] = {}
    for group in sorted(first_label):
        label = first_label[group]
        folds[group] = dealt[label] % N_HASH_FOLDS + 1
        dealt[label] += 1
    return [folds[clip.group] for clip in clips]


def _check_files(root: Path, layout: Layout) -> None:
    """Raises DataError for clips that are listed twice, or listed and not there."""
    clips = layout.clips
    path, n_listed = Counter(clip.path for clip in clips).most_common(1)[0]
    if n_listed > 1:
        raise DataError(f"{root} lists {path.name} {n_listed} times: keep one of them")
    if missing := [clip.path for clip in clips if not clip.path.is_file()]:
        fetch = f"fetch them ({layout.source})" if layout.source else "fetch them"
        raise DataError(f"{root}: {len(missing)} of {len(clips)} files are missing, {missing[0]} first: {fetch}")
