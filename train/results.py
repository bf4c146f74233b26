"""What finished runs said about their test clips, named and grouped by fold: train.fuse and train.compare read runs so."""

import dataclasses
import inspect
from pathlib import Path

import numpy as np

from runtime.files import read_json
from runtime.frontend import PRESETS
from runtime.papers import PAPERS
from train.data import check_heard, split
from train.features import CACHE, Stack, features, frontend_from_json
from train.loop import clip_log_probabilities
from train.models import NETS
from train.run import load_run
from train.scores import PREDICTIONS, load_grouped_predictions
from train.systems import SYSTEMS

FUSION_NAMES = {"early": "EF", "middle": "MF", "late": "LF"}  # as P2 calls them
OF_INPUT = {"n_classes", "bands", "fusion", "n_features", "n_frames", "sr"}  # arguments that no name needs to tell


@dataclasses.dataclass(frozen=True)
class Result:
    """One run on the fold that it did not hear. truth: (clips,) class indices; log_p: (clips, classes)."""

    folder: Path
    system: str  # "cdnn small", "vgg EF SPSMT"
    spectrogram: str  # "p1_logmel", several joined by +
    data: str
    labels: tuple
    fold: int
    clips: tuple
    truth: np.ndarray
    log_p: np.ndarray
    seconds_per_epoch: float | None
    groups: tuple | None  # the recording that each clip was cut from; None: not kept by older runs


def load_results(folders, dataset=None, cache=CACHE):
    """Folders of runs -> their Results. Raises ValueError for runs that cannot stand in one table.

    dataset: what they were trained on; older runs, which kept no predictions or no groups, are scored on it again.
    """
    results = [_load(Path(folder), dataset, cache) for folder in folders]
    first = results[0]
    seen = {}
    for result in results:
        if (result.data, result.labels) != (first.data, first.labels):
            raise ValueError(f"{result.folder} knows other classes or data than {first.folder}: compare like with like")
        twin = seen.setdefault((result.system, result.spectrogram, result.fold), result)
        if twin is not result:
            raise ValueError(f"{twin.folder} and {result.folder} are the same system on fold {result.fold}: name one")
    return results


def by_member(results):
    """-> {(system, spectrogram): its Results, by fold}. Raises ValueError where they did not all hold out the same clips."""
    members = {}
    for result in sorted(results, key=lambda result: result.fold):
        members.setdefault((result.system, result.spectrogram), []).append(result)
    members = {member: members[member] for member in sorted(members)}
    reference = next(iter(members.values()))
    for mine in members.values():
        folds, wanted = ([result.fold for result in some] for some in (mine, reference))
        if folds != wanted:
            raise ValueError(
                f"{mine[0].folder} comes with folds {folds}, {reference[0].folder} with {wanted}: add the rest"
            )
        for a, b in zip(mine, reference):
            if a.clips != b.clips or not np.array_equal(a.truth, b.truth):
                raise ValueError(f"{a.folder} and {b.folder} were tested on different clips of fold {a.fold}")
    return members


def pooled(results):
    """-> truth (clips,), log_p (clips, classes) of all folds together."""
    return np.concatenate([r.truth for r in results]), np.concatenate([r.log_p for r in results])


def pooled_folds(results):
    """-> (clips,) the fold that each clip of `pooled` was tested in."""
    return np.concatenate([np.full(len(r.truth), r.fold) for r in results])


def pooled_groups(results):
    """-> (clips,) the recording of each clip of `pooled`, its own name where a run kept none; whether all were kept."""
    known = all(r.groups is not None for r in results)
    return np.concatenate([r.groups if known else r.clips for r in results]), known


def _load(folder, dataset=None, cache=CACHE):
    path = folder / "meta.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a finished training run: {path.name} is missing")
    meta = read_json(path)
    stored = load_grouped_predictions(folder) if dataset is None or (folder / PREDICTIONS).is_file() else None
    if dataset is not None and (stored is None or stored[3] is None):
        stored = _scored_again(folder, meta, dataset, cache)
    clips, truth, log_p, groups = stored
    try:
        system = _system_name(meta["model"], meta["kwargs"])
        spectrogram = _spectrogram_name(frontend_from_json(meta["frontend"]))
        labels, data, fold = tuple(meta["labels"]), meta["data"]["name"], meta["data"]["fold"]
        seconds = meta.get("seconds_per_epoch")
        if log_p.shape[1] != len(labels):
            raise ValueError(f"{len(labels)} labels, {log_p.shape[1]} predicted")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from error
    groups = None if groups is None else tuple(groups)
    return Result(folder, system, spectrogram, data, labels, fold, tuple(clips), truth, log_p, seconds, groups)


def _scored_again(folder, meta, dataset, cache):
    """-> what load_grouped_predictions gives, from the run's weights and the recordings it held out. Raises ValueError."""
    run, trained_on = load_run(folder), meta.get("data")
    if not isinstance(trained_on, dict) or not trained_on.get("fold"):
        raise ValueError(f"{folder} held no fold out, so nothing can score it: train it with --fold")
    if (dataset.name, dataset.labels) != (trained_on.get("name"), run.labels):
        raise ValueError(
            f"{folder} was trained on {trained_on.get('name')}, not on {dataset.name}: name that with --data"
        )
    check_heard(trained_on, dataset, trained_on["fold"], folder)
    _, test = split(dataset, trained_on["fold"])
    log_p = clip_log_probabilities(run, features(test, run.frontend, cache))
    truth = np.array([dataset.labels.index(clip.label) for clip in test])
    return [clip.path.name for clip in test], truth, log_p.astype(np.float64), [clip.group for clip in test]


def _system_name(model, kwargs):
    """The net, its shape where it is not the paper's full one, what --set changed of it, P2's options by their names."""
    if model == "strategies":
        parts = [_system_name(kwargs["net"], kwargs["kwargs"])]
        parts += [f"SPSMF {kwargs['n_sub_bands']}"] if kwargs["n_sub_bands"] > 1 else []
        return " ".join(parts + ["SPSMT"] * kwargs["frame_decisions"])
    # a net inside P2's options is stored with what was given alone
    defaults = {name: parameter.default for name, parameter in inspect.signature(NETS[model]).parameters.items()}
    kwargs = defaults | kwargs
    changes = {name: _changes(kwargs, defaults | shape) for name, shape in SYSTEMS[model].shapes.items()}
    shape = min(changes, key=lambda name: len(changes[name]))  # the first of equally close ones
    parts = [model] + ([] if shape == "full" else [shape]) + changes[shape]
    return " ".join(parts + ([FUSION_NAMES[kwargs["fusion"]]] if kwargs.get("bands") and "fusion" in kwargs else []))


def _changes(kwargs, wanted):
    """-> ["heads=4", ...]: where a net's arguments are not those of its shape."""
    names = [name for name in kwargs if name not in OF_INPUT and not _same(kwargs[name], wanted[name])]
    return [f"{name}={str(kwargs[name]).replace(' ', '')}" for name in names]


def _same(stored, value):
    return stored == (list(value) if isinstance(value, tuple) else value)


def _spectrogram_name(frontend):
    """As on the command line where it is one of those, whatever its hop."""
    if isinstance(frontend, Stack):
        return "+".join(_spectrogram_name(part) for part in frontend.frontends)
    for name, known in {**PRESETS, **PAPERS}.items():
        if dataclasses.replace(known, hop_length=frontend.hop_length) == frontend:
            return name
    return frontend.kind
