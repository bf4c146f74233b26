"""Accuracy against bytes of trainings on disk: what `train`, `compress.cnn7` and `compress.folds` have left in a folder.

A training scores itself on clips that it had not heard (meta.json); compress.cnn7 also scores the deployed files
(evaluation.json). Folds of one recipe are pooled: every clip counts once. Bytes are those of the deployed files, or of
the trained parameters at the precision they are stored in.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.files import read_json
from runtime.values import is_number, is_whole

NUMBERS = {"float": "float parameters", "tflite": "tflite file", "onnx": "onnx file"}  # a table's column -> its bytes
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalization: not trained
_MAX_HEADER_BYTES = 8 << 20
_MAX_SCORES = 2000  # a folder of more trainings was not meant


@dataclass(frozen=True)
class Score:
    """One net, or all fused, of one recipe: bytes of `numbers`, the share of n clips that it gets right."""

    recipe: str
    net: str
    numbers: str  # key of NUMBERS
    bytes: int
    accuracy: float
    n: int


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy measured on n clips."""
    z = 1.96
    middle = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def scores(folder: Path, bundle: Path | None = None) -> list[Score]:
    """-> the scores below `folder`, folds pooled. Raises ValueError that names a damaged file, or that there are none.

    bundle: whose files stand for those of a training that has no bundle beside it, if its provenance says the same.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of trainings")
    found: list[Score] = []
    tables = {path.parent for path in folder.rglob("evaluation.json")}
    for path in sorted(folder.rglob("meta.json")):
        if path.parent.parent not in tables:
            found += _training(path, _recipe(folder, path.parent.parent), path.parent.name)
    for group in sorted(tables):
        found += _evaluation(group, _recipe(folder, group), bundle)
    if not found:
        raise ValueError(f"{folder} holds no training that was scored on held-out clips")
    if len(found) > _MAX_SCORES:
        raise ValueError(f"{folder} holds {len(found)} scores, more than the {_MAX_SCORES} shown: name a folder inside")
    return _pooled(found)


def _recipe(folder: Path, group: Path) -> str:
    """The group's path from `folder` on, its folds left out: those of one recipe share a name."""
    parts = [folder.resolve().name, *group.relative_to(folder).parts] if group != folder.parent else [group.name]
    return "/".join(part for part in parts if not re.fullmatch(r"fold\d+", part)) or folder.resolve().name


def _training(path: Path, recipe: str, net: str) -> list[Score]:
    """A training's own score; none where it held nothing out."""
    last = _part(read_json(path), "scores", path).get("last")
    return [_score(recipe, net, "float", _parameter_bytes(path.parent), last, path)] if last else []


def _evaluation(group: Path, recipe: str, bundle: Path | None) -> Iterator[Score]:
    """What compress.cnn7 wrote: a row per net and one for all, a column per kind of numbers."""
    path = group / "evaluation.json"
    table = read_json(path)
    nets = [net for net in table if (group / net / "meta.json").is_file()]
    n_bytes = {"float": {net: _parameter_bytes(group / net) for net in nets}}
    n_bytes |= _deployed(group, nets, bundle)
    for net in table:
        for numbers, sizes in n_bytes.items():
            score = _part(table, net, path).get(numbers)
            if score is not None and sizes:
                yield _score(recipe, net, numbers, sizes.get(net, sum(sizes.values())), score, path)


def _deployed(group: Path, nets: Sequence[str], bundle: Path | None) -> dict[str, dict[str, int]]:
    """Format -> net -> bytes, of the bundle beside these trainings or of the one that was made from them; {} for none."""
    beside = group / "bundle" / "bundle.json"
    if beside.is_file():
        return _file_bytes(read_json(beside), beside)
    if bundle is None:
        return {}
    values, path = read_json(bundle / "bundle.json"), bundle / "bundle.json"
    made_from = _part(_part(values, "provenance", path), "runs", path)
    metas = {net: read_json(group / net / "meta.json") for net in nets}
    same = all(
        _part(made_from, net, path).get(key) == metas[net].get(key) for net in nets for key in ("data", "recipe")
    )
    return _file_bytes(values, path) if same and made_from.keys() == metas.keys() else {}


def _file_bytes(values: Mapping[str, Any], path: Path) -> dict[str, dict[str, int]]:
    try:
        members = {member["name"]: member["files"] for member in values["members"]}
        formats = {fmt for files in members.values() for fmt in files}
        return {fmt: {name: int(files[fmt]["bytes"]) for name, files in members.items()} for fmt in sorted(formats)}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def _part(values: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    part = values.get(key, {})
    if not isinstance(part, dict):
        raise ValueError(f"{path} is damaged ({key} is no object)")
    return part


def _score(recipe: str, net: str, numbers: str, n_bytes: int, score: Any, path: Path) -> Score:
    accuracy, n = (score.get(key) if isinstance(score, dict) else None for key in ("accuracy", "n"))
    if not is_number(accuracy, 0, 1):
        raise ValueError(f"{path}: the accuracy of {net} is {str(accuracy)[:40]!r}, not a share from 0 to 1")
    if not is_whole(n, 1, 10**9 - 1):
        raise ValueError(f"{path}: {net} was scored on {str(n)[:40]!r} clips")
    return Score(recipe, net, numbers, n_bytes, float(accuracy), n)


def _parameter_bytes(folder: Path) -> int:
    """Trained parameters in model.safetensors, read from its header: 8 bytes of length, then JSON."""
    path = folder / "model.safetensors"
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        tensors = {name: entry["data_offsets"] for name, entry in header.items() if name.startswith("net.")}
        return sum(end - start for name, (start, end) in tensors.items() if not name.endswith(_STATISTICS))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a finished training run: {path.name} is missing") from None
    except (struct.error, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def _pooled(found: Sequence[Score]) -> list[Score]:
    """Folds of one recipe as one: accuracy over all their clips, bytes of the largest."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in found:
        groups.setdefault((score.recipe, score.net, score.numbers), []).append(score)
    pooled = []
    for (recipe, net, numbers), folds in groups.items():
        n = sum(fold.n for fold in folds)
        accuracy = sum(fold.accuracy * fold.n for fold in folds) / n
        pooled.append(Score(recipe, net, numbers, max(fold.bytes for fold in folds), accuracy, n))
    return pooled
