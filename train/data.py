"""Labelled recordings on disk -> clips with a label, a fold and a group.  load_dataset(path), split(dataset, fold)

The layout is recognised by what lies in the folder:

    ESC-50, ESC-10   meta/*.csv (filename, fold, target, category) beside audio/
    TAU Urban        meta.csv and evaluation_setup/fold1_train.csv, fold1_evaluate.csv, all separated by tabs
    your own         one folder of recordings per class
"""

import csv
import dataclasses
import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np

from runtime import audio

RECORDINGS = Path(__file__).parent / "recordings"  # the pack that ships: see train.pack
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
MAX_CSV_BYTES = 64 << 20  # TAU 2022 lists 230,000 clips in 20 MB
N_HASH_FOLDS = 5  # of a folder per class, which comes without folds
HASH_BYTES = 1 << 20  # of each recording: enough to tell them apart
TAU_TRAIN, TAU_TEST = 0, 1


class DataError(ValueError):
    """A data set that cannot be used as it lies there: which file, what was found, what to do."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording. Clips of one `group` come from one original and never face each other across a split.

    `fold` None: the data set names none. `device`: what it was recorded with, "" if unknown.
    """

    path: Path
    label: str
    fold: int | None
    group: str
    device: str = ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`labels` are sorted by name: their order is the order of a net's outputs."""

    name: str
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]

    @property
    def folds(self) -> tuple[int, ...]:
        """What split() can hold out."""
        folds = {clip.fold for clip in self.clips if clip.fold not in (None, TAU_TRAIN)}
        return tuple(sorted(fold for fold in folds if fold)) or tuple(range(1, N_HASH_FOLDS + 1))


def load_dataset(path: str | Path = RECORDINGS) -> Dataset:
    """A folder in one of the layouts above -> its Dataset, every file of which exists. Raises DataError."""
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give a data set's folder")
    tables = sorted((root / "meta").glob("*.csv"))
    if (root / "meta.csv").exists() or (root / "evaluation_setup").is_dir():
        name, clips = root.resolve().name, _tau_clips(root)
    elif len(tables) > 1:
        raise DataError(f"{root / 'meta'} holds {len(tables)} tables ({', '.join(t.name for t in tables)}): leave one")
    elif tables:
        name, clips = tables[0].stem, _esc_clips(root, tables[0])
    else:
        name, clips = root.resolve().name, _folder_clips(root)
    labels = tuple(sorted({clip.label for clip in clips}))
    _check_files(root, clips)
    return Dataset(name, tuple(clips), labels)


def split(dataset: Dataset, fold: int | None) -> tuple[list[Clip], list[Clip]]:
    """-> (training clips, test clips). Fold None or 0: everything trains, nothing is left to test.

    ESC: tests `fold`, trains on the others. TAU: fold 1 is the official split; clips in neither half are left out.
    A folder per class: one of five folds that stay the same as long as the recordings do.
    Raises DataError for a fold that is not there, or that leaves a class nothing to train on.
    """
    if not fold:
        return list(dataset.clips), []
    if fold not in dataset.folds:
        raise DataError(f"{dataset.name} has no fold {fold}: choose one of {', '.join(map(str, dataset.folds))}")
    has_folds = any(clip.fold is not None for clip in dataset.clips)
    folds = [clip.fold for clip in dataset.clips] if has_folds else _hash_folds(dataset.clips)
    train = [clip for clip, k in zip(dataset.clips, folds) if k not in (None, fold)]
    test = [clip for clip, k in zip(dataset.clips, folds) if k == fold]
    if untaught := set(dataset.labels) - {clip.label for clip in train}:
        raise DataError(f"{dataset.name}: fold {fold} leaves no {min(untaught)} to train on: record more of it")
    return train, test


def load_wave(path: Path, sr: int) -> np.ndarray:
    """A recording -> (samples,) float32 mono at `sr` Hz, finite. Raises runtime.audio.AudioError."""
    wave, file_sr = audio.read(path)
    wave, _ = audio.sanitize(audio.to_mono(wave))
    resampler = audio.Resampler(file_sr, sr)
    return np.concatenate([resampler.feed(wave), resampler.flush()])


def read_table(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file with a header, as {column: value}; those in `columns` are filled in every row.

    Line ends may be CRLF, the last one may lack. Raises DataError.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CSV_BYTES + 1)
        if len(raw) > MAX_CSV_BYTES:
            raise DataError(f"{path} is larger than {MAX_CSV_BYTES >> 20} MB: that is no list of clips")
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), delimiter=delimiter)
        rows = list(reader)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{path} is no table ({error}): save it as CSV") from error
    found = reader.fieldnames or []
    for column in columns:
        if column not in found:
            kind = "tabs" if delimiter == "\t" else "commas"
            raise DataError(f"{path} has no column {column!r} (by {kind}: {', '.join(map(repr, found))[:200]})")
    if not rows:
        raise DataError(f"{path} lists nothing: it has a header and no rows")
    for line, row in enumerate(rows, start=2):
        empty = [column for column in columns if not row[column]]
        if empty or None in row:
            raise DataError(f"{path} line {line}: {f'no {empty[0]}' if empty else 'more values than columns'}")
    return rows


def _esc_clips(root: Path, table: Path) -> list[Clip]:
    clips = []
    for row in read_table(table, ("filename", "fold", "target", "category")):
        if not row["fold"].isdecimal() or not int(row["fold"]):
            raise DataError(f"{table}: fold {row['fold']!r} of {row['filename']} is not 1, 2, 3, ...")
        # our pack and the official table call the Freesound recording by different names
        group = row.get("clip_id") or row.get("src_file") or row["filename"]
        clips.append(Clip(_inside(root / "audio", row["filename"], table), row["category"], int(row["fold"]), group))
    return clips


def _tau_clips(root: Path) -> list[Clip]:
    if not (root / "meta.csv").exists():
        raise DataError(f"{root} has no meta.csv: TAU's evaluation sets carry no labels, take the development set")
    rows = read_table(root / "meta.csv", ("filename", "scene_label", "identifier", "source_label"), "\t")
    scenes = {row["filename"]: row["scene_label"] for row in rows}
    folds: dict[str, int] = {}
    for fold, part in ((TAU_TRAIN, "fold1_train.csv"), (TAU_TEST, "fold1_evaluate.csv")):
        table = root / "evaluation_setup" / part
        for row in read_table(table, ("filename", "scene_label"), "\t"):
            name, scene = row["filename"], row["scene_label"]
            if scenes.get(name) != scene:
                raise DataError(f"{table}: {name} is {scene!r} here and {scenes.get(name)!r} in meta.csv")
            if name in folds:
                raise DataError(f"{table}: {name} is listed twice in fold 1: training on test clips proves nothing")
            folds[name] = fold
    return [
        Clip(
            _inside(root, row["filename"], root / "meta.csv"),
            row["scene_label"],
            folds.get(row["filename"]),
            row["identifier"],
            row["source_label"],
        )
        for row in rows
    ]


def _folder_clips(root: Path) -> list[Clip]:
    clips = []
    for folder in sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith((".", "_"))):
        paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
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


def _inside(folder: Path, name: str, table: Path) -> Path:
    """folder / name, unless a table that somebody sent us points elsewhere."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in name or "\0" in name:
        raise DataError(f"{table}: {name!r} points outside {folder}: list the files within it")
    return folder.joinpath(*parts)


def _check_files(root: Path, clips: list[Clip]) -> None:
    """Raises DataError for clips that are listed twice, or listed and not there."""
    path, n_listed = Counter(clip.path for clip in clips).most_common(1)[0]
    if n_listed > 1:
        raise DataError(f"{root} lists {path.name} {n_listed} times: keep one of them")
    if missing := [clip.path for clip in clips if not clip.path.is_file()]:
        raise DataError(f"{root}: {len(missing)} of {len(clips)} files are missing, {missing[0]} first: fetch them")
