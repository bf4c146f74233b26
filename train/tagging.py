"""Recordings with several labels each, or none: CHiME-Home (DCASE 2016 task 4), and the equal error rate of taggers.

chime_home/      development_chunks_refined_crossval_dcase2016.csv, evaluation_chunks_refined.csv (no headers)
  chunks/        NAME.16kHz.wav, NAME.48kHz.wav and NAME.csv (key,value; `majorityvote` is a string of tags) per chunk
"""

import dataclasses
from pathlib import Path

import numpy as np

from train.tables import DataError, inside, read_rows, read_text

SOURCE = "https://archive.org/details/chime-home"
DEVELOPMENT = "development_chunks_refined_crossval_dcase2016.csv"  # number, chunk, fold 0..4
EVALUATION = "evaluation_chunks_refined.csv"  # number, chunk
TAGS = {
    "c": "child speech",
    "m": "adult male speech",
    "f": "adult female speech",
    "v": "video game or TV",
    "p": "percussive sound",
    "b": "broadband noise",
    "o": "other sound",
}
NO_TAG = "SU"  # silence and unidentifiable: a chunk without any of the seven


@dataclasses.dataclass(frozen=True)
class TaggedClip:
    """One recording and what is heard in it, maybe nothing. `fold` None: the evaluation set. `group`: as of Clip."""

    path: Path
    tags: frozenset[str]
    fold: int | None
    group: str


@dataclasses.dataclass(frozen=True)
class TaggedDataset:
    """`labels`: all tags, in the order of a net's outputs. `folds` can be held out; 0 is the evaluation set."""

    name: str
    clips: tuple[TaggedClip, ...]
    labels: tuple[str, ...]

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(sorted({0 if clip.fold is None else clip.fold for clip in self.clips}))


def is_chime_home(root: Path) -> bool:
    return any((root / name).exists() for name in (DEVELOPMENT, EVALUATION))


def load_tagged(path: str | Path, rate: str = "16kHz") -> TaggedDataset:
    """CHiME-Home's folder -> its refined chunks (the annotators agree), at "16kHz" mono or "48kHz". Raises DataError."""
    root = Path(path)
    if not is_chime_home(root):
        raise DataError(f"{root} has neither {DEVELOPMENT} nor {EVALUATION}: give chime_home's folder ({SOURCE})")
    if rate not in ("16kHz", "48kHz"):
        raise DataError(f"rate {rate!r}: CHiME-Home comes as 16kHz or 48kHz")
    clips = []
    if (root / DEVELOPMENT).exists():
        for row in read_rows(root / DEVELOPMENT, ("number", "chunk", "fold")):
            if not row["fold"].isdecimal():
                raise DataError(f"{root / DEVELOPMENT}: fold {row['fold']!r} of {row['chunk']} is not 0, 1, 2, ...")
            clips.append(_chunk(root, root / DEVELOPMENT, row["chunk"], int(row["fold"]) + 1, rate))
    if (root / EVALUATION).exists():
        clips += [
            _chunk(root, root / EVALUATION, row["chunk"], None, rate)
            for row in read_rows(root / EVALUATION, ("number", "chunk"))
        ]
    if missing := [clip.path for clip in clips if not clip.path.is_file()]:
        raise DataError(
            f"{root}: {len(missing)} of {len(clips)} chunks are missing, {missing[0]} first: fetch them ({SOURCE})"
        )
    return TaggedDataset("CHiME-Home", tuple(clips), tuple(TAGS.values()))


def _chunk(root: Path, table: Path, name: str, fold: int | None, rate: str) -> TaggedClip:
    chunks = root / "chunks"
    notes = inside(chunks, f"{name}.csv", table)
    rows = (line.partition(",") for line in read_text(notes).splitlines())
    votes = [value.strip() for key, _, value in rows if key == "majorityvote"]
    if len(votes) != 1 or not set(votes[0]) <= {*TAGS, *NO_TAG}:
        raise DataError(f"{notes}: its majorityvote is {votes!r:.80}, want some of {''.join(TAGS)}{NO_TAG}")
    tags = frozenset(TAGS[tag] for tag in votes[0] if tag in TAGS)
    group = name.split("_chunk")[0]  # five minutes of one recording; the sets were divided by these
    return TaggedClip(inside(chunks, f"{name}.{rate}.wav", table), tags, fold, group)


def split_tagged(dataset: TaggedDataset, fold: int) -> tuple[list[TaggedClip], list[TaggedClip]]:
    """-> (training clips, test clips). Fold 0: trains on all development chunks, tests the evaluation set."""
    if fold not in dataset.folds:
        raise DataError(f"{dataset.name} has no fold {fold}: choose one of {', '.join(map(str, dataset.folds))}")
    train = [clip for clip in dataset.clips if clip.fold not in (None, fold)]
    return train, [clip for clip in dataset.clips if (clip.fold or 0) == fold]


def targets(clips: list[TaggedClip], labels: tuple[str, ...]) -> np.ndarray:
    """-> (clips, labels) float32 of 0 and 1."""
    return np.array([[label in clip.tags for label in labels] for clip in clips], np.float32)


def equal_error_rate(scores: np.ndarray, truth: np.ndarray) -> float:
    """(n,) scores, the higher the more likely, (n,) 0 or 1 -> the rate at which misses equal false alarms, 0..1.

    Between two thresholds the rates are joined by a line; equal scores are decided alike. NaN where one kind lacks.
    """
    truth = np.asarray(truth, bool)
    if truth.all() or not truth.any():
        return float("nan")
    thresholds, at = np.unique(scores, return_inverse=True)
    n = len(thresholds)
    misses = np.append(0, np.cumsum(np.bincount(at[truth], minlength=n))) / truth.sum()
    alarms = 1 - np.append(0, np.cumsum(np.bincount(at[~truth], minlength=n))) / (~truth).sum()
    gap = misses - alarms  # from -1, everything is called present, to 1
    i = int(np.argmax(gap >= 0))
    share = gap[i] / (gap[i] - gap[i - 1])
    return float(misses[i] + share * (misses[i - 1] - misses[i]))


def equal_error_rates(scores: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> dict[str, float]:
    """(clips, labels) scores and 0 or 1 -> {label: rate}; the mean over the labels that can be judged as "mean"."""
    rates = {label: equal_error_rate(scores[:, i], truth[:, i]) for i, label in enumerate(labels)}
    known = [rate for rate in rates.values() if rate == rate]
    return rates | {"mean": float(np.mean(known)) if known else float("nan")}
