"""The published data sets as they lie on disk, one reader each; names of files and columns as their authors wrote them.

    ESC-50, ESC-10   meta/*.csv (filename, fold, target, category) beside audio/
    UrbanSound8K     metadata/UrbanSound8K.csv (slice_file_name, fsID, ..., fold, classID, class) beside audio/fold1..10/
    TUT 2016, 2017   meta.txt and evaluation_setup/fold1_train.txt, fold1_evaluate.txt, ... by tabs, without headers
    TUT 2018         meta.csv by tabs, with a header; evaluation_setup/fold1_train.txt, fold1_evaluate.txt without
    TAU 2019..2022   meta.csv and evaluation_setup/fold1_train.csv, fold1_evaluate.csv, all by tabs, with headers
    LITIS Rouen      relation_wav_examples.txt, fold3026-matrices_Learn.txt and _Test.txt (20 folds) beside data_rouen/

CHiME-Home's recordings carry several labels each: train.tagging.
"""

import dataclasses
import re
from collections import Counter
from pathlib import Path

from train.tables import DataError, has_header, inside, read_rows, read_table, read_text

SOURCES = {
    "ESC": "https://github.com/karolpiczak/ESC-50",
    "UrbanSound8K": "https://urbansounddataset.weebly.com/urbansound8k.html",
    "TUT 2016": "https://zenodo.org/record/45739",
    "TUT 2017": "https://zenodo.org/record/400515",
    "TUT 2018 and TAU": "https://dcase.community/challenge2018/task-acoustic-scene-classification, 2020, 2022 likewise",
    "LITIS Rouen": "https://sites.google.com/site/alainrakotomamonjy/home/audio-scene",
}
N_URBAN_FOLDS = 10
LITIS_NAMES, LITIS_TRAIN, LITIS_TEST = (
    "relation_wav_examples.txt",
    "fold3026-matrices_Learn.txt",
    "fold3026-matrices_Test.txt",
)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording. Clips of one `group` come from one original: a place, a Freesound recording.

    `fold`: in which fold it is tested; None where the data set publishes lists or nothing. `device`: what it was
    recorded with, "" if unknown.
    """

    path: Path
    label: str
    fold: int | None
    group: str
    device: str = ""


Lists = dict[int, tuple[frozenset[Path], frozenset[Path]]]  # fold -> (training files, test files), as published


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a reader found. `source`: where the data set comes from, for whoever misses a part of it."""

    name: str
    clips: list[Clip]
    lists: Lists
    source: str


def read_layout(root: Path) -> Layout | None:
    """The data set in `root`, whatever published layout it has; None for none of them. Raises DataError."""
    tables = sorted((root / "meta").glob("*.csv"))
    if (root / "metadata" / "UrbanSound8K.csv").exists():
        return _urban(root)
    if any((root / name).exists() for name in (LITIS_NAMES, LITIS_TRAIN, LITIS_TEST)):
        return _litis(root)
    if (root / "meta.csv").exists() or (root / "meta.txt").exists() or (root / "evaluation_setup").is_dir():
        return _scenes(root)
    if len(tables) > 1:
        raise DataError(f"{root / 'meta'} holds {len(tables)} tables ({', '.join(t.name for t in tables)}): leave one")
    return _esc(root, tables[0]) if tables else None


def _esc(root: Path, table: Path) -> Layout:
    clips = []
    for row in read_table(table, ("filename", "fold", "target", "category")):
        fold = _fold(row["fold"], row["filename"], table)
        # our pack and the official table call the Freesound recording by different names
        group = row.get("clip_id") or row.get("src_file") or row["filename"]
        clips.append(Clip(inside(root / "audio", row["filename"], table), row["category"], fold, group))
    _check_groups(clips, table)
    return Layout(table.stem, clips, {}, SOURCES["ESC"])


def _urban(root: Path) -> Layout:
    table = root / "metadata" / "UrbanSound8K.csv"
    clips = []
    for row in read_table(table, ("slice_file_name", "fsID", "fold", "class")):
        fold = _fold(row["fold"], row["slice_file_name"], table)
        if fold > N_URBAN_FOLDS:
            raise DataError(f"{table}: fold {fold} of {row['slice_file_name']}: UrbanSound8K has {N_URBAN_FOLDS}")
        path = inside(root / "audio" / f"fold{fold}", row["slice_file_name"], table)
        clips.append(Clip(path, row["class"], fold, row["fsID"]))
    _check_groups(clips, table)
    return Layout("UrbanSound8K", clips, {}, SOURCES["UrbanSound8K"])


def _fold(text: str, name: str, table: Path) -> int:
    if not text.isdecimal() or not int(text):
        raise DataError(f"{table}: fold {text!r} of {name} is not 1, 2, 3, ...")
    return int(text)


def _check_groups(clips: list[Clip], table: Path) -> None:
    """Raises DataError for an original recording whose parts lie in two folds: a test would have been trained on."""
    folds: dict[str, int | None] = {}
    for clip in clips:
        if folds.setdefault(clip.group, clip.fold) != clip.fold:
            both = f"folds {folds[clip.group]} and {clip.fold}"
            raise DataError(f"{table}: parts of recording {clip.group} lie in {both}: keep them together")


def _scenes(root: Path) -> Layout:
    """TUT and TAU, 2016 to 2022."""
    source = ", ".join(f"{name}: {SOURCES[name]}" for name in ("TUT 2016", "TUT 2017", "TUT 2018 and TAU"))
    meta = root / "meta.csv"
    if meta.exists():
        rows = read_table(meta, ("filename", "scene_label", "identifier", "source_label"), "\t")
    else:
        meta = root / "meta.txt"
        if not meta.exists():
            raise DataError(
                f"{root} has no meta.csv or meta.txt: evaluation sets carry no labels, take the development set ({source})"
            )
        rows = read_rows(meta, ("filename", "scene_label", "identifier"), "\t", optional=1)
    scenes = {row["filename"]: row["scene_label"] for row in rows}
    clips = [
        Clip(
            inside(root, row["filename"], meta),
            row["scene_label"],
            None,
            row.get("identifier") or _recording_of(row["filename"]),
            row.get("source_label", ""),
        )
        for row in rows
    ]
    return Layout(root.resolve().name, clips, _scene_lists(root, scenes, meta.name, source), source)


def _recording_of(name: str) -> str:
    """TUT 2016: audio/a001_30_60.wav was cut from recording a001."""
    return Path(name).stem.split("_")[0]


def _scene_lists(root: Path, scenes: dict[str, str], meta: str, source: str) -> Lists:
    folder = root / "evaluation_setup"
    found = {path.name.split("_")[0]: path for path in sorted(folder.glob("fold[0-9]*_train.*"))}
    if not found:
        raise DataError(
            f"{folder} holds no fold1_train.csv or .txt: unpack the data set's .meta archive too ({source})"
        )
    lists = {}
    for name, train in found.items():
        number = _fold(name.removeprefix("fold"), train.name, folder)
        names = [
            _listed(path, scenes, meta) for path in (train, train.with_name(train.name.replace("train", "evaluate")))
        ]
        if both := names[0] & names[1]:
            raise DataError(
                f"{train}: {min(both)} is listed twice in fold {number}: training on test clips proves nothing"
            )
        parts = [frozenset(inside(root, name, train) for name in part) for part in names]
        lists[number] = (parts[0], parts[1])
    return lists


def _listed(table: Path, scenes: dict[str, str], meta: str) -> set[str]:
    """The files that a list of a fold names, each with the scene that the whole set's table gives it."""
    columns = ("filename", "scene_label")
    rows = read_table(table, columns, "\t") if has_header(table, "filename", "\t") else read_rows(table, columns, "\t")
    for row in rows:
        name, scene = row["filename"], row["scene_label"]
        if scenes.get(name) != scene:
            raise DataError(f"{table}: {name} is {scene!r} here and {scenes.get(name)!r} in {meta}")
    name, n_listed = Counter(row["filename"] for row in rows).most_common(1)[0]
    if n_listed > 1:
        raise DataError(f"{table}: {name} is listed {n_listed} times: keep one of the rows")
    return {row["filename"] for row in rows}


def _litis(root: Path) -> Layout:
    """Each line of the two fold files holds the numbers of one of 20 trainings or tests, printed as floats."""
    source = SOURCES["LITIS Rouen"]
    missing = [name for name in (LITIS_NAMES, LITIS_TRAIN, LITIS_TEST) if not (root / name).exists()]
    if missing:
        raise DataError(f"{root} has no {missing[0]}: fetch it beside data_rouen/ ({source})")
    paths, clips = {}, []
    for line, text in enumerate(read_text(root / LITIS_NAMES).splitlines(), start=1):
        name, number = text.split() if len(text.split()) == 2 else ("", "")
        label = re.split(r"\d", Path(name).stem)[0].rstrip("-_")
        if not number.isdecimal() or not label:
            raise DataError(f"{root / LITIS_NAMES} line {line}: {text!r:.80} is not a scene's file and its number")
        path = paths[int(number)] = inside(root / "data_rouen", name, root / LITIS_NAMES)
        # nothing says which of the 30 s examples came from one recording: the published folds keep them together
        clips.append(Clip(path, label, None, name))
    train, test = (_numbers(root / name, paths) for name in (LITIS_TRAIN, LITIS_TEST))
    if len(train) != len(test):
        raise DataError(
            f"{root}: {LITIS_TRAIN} has {len(train)} folds, {LITIS_TEST} {len(test)}: fetch both ({source})"
        )
    for fold, (one, other) in enumerate(zip(train, test), start=1):
        if both := one & other:
            raise DataError(f"{root}: fold {fold} trains on {min(both).name} and tests it: fetch both lists ({source})")
    return Layout("LITIS Rouen", clips, dict(enumerate(zip(train, test), start=1)), source)


def _numbers(path: Path, files: dict[int, Path]) -> list[frozenset[Path]]:
    folds = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if text.strip():
            try:
                folds.append(frozenset(files[int(float(number))] for number in text.split()))
            except (ValueError, KeyError, OverflowError) as error:
                raise DataError(f"{path} line {line}: {error} is no number of an example of {LITIS_NAMES}") from error
    if not folds:
        raise DataError(f"{path} lists nothing: it is empty")
    return folds
