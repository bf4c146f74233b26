"""Search for the CNN-7 that a spectrogram wants under a budget, with Optuna: cheap trials first, honest validation last.

A trial proposes proportions: of the six widths, DC or not in convolutions 2 to 6, bands, frames and hop of a patch, and how
much of the byte limit to fill. The widths are then scaled until the written files, the RAM or the MACs fill what is allowed
(compress.search.widest_within): hardly a proposal is spent on nets that do not fit. The net is trained for a few epochs and
scored by its log loss on part 1 of the training clips (train.data.inner_split); successive halving ends the poor ones
early. The best of them, and the shipped proportions, are then trained to the end once for each other part: the least
mean log loss wins. The fold that is held out is never looked at.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import socket
import warnings
from pathlib import Path

import numpy as np
import optuna
from sqlalchemy.exc import SQLAlchemyError

from compress.recipe import plain_recipe
from compress.search import HOP_LENGTH, Limits, Shape, costs, heard_by, widest_within
from runtime.files import write_atomic
from train import scores
from train.cnn7 import WIDTHS_DEPLOYED
from train.data import inner_split, load_dataset, split
from train.features import features
from train.loop import clip_log_probabilities, fit
from train.recipe import Recipe
from train.trainer import new_run

CHOICES = {
    "n_bands": (64, 96, 128),
    "n_frames": (32, 64, 96, 128, 192),
    "hop_length": (620, HOP_LENGTH, 1850),
    "win_length": (1024, 2048, 4096),
}
N_PARTS = 4  # of the training clips: trials are scored on the first, finalists on the others
N_FINALISTS = 3  # besides the shipped proportions
MAX_IN_VAIN = 100  # trials in a row that trained nothing
COLUMNS = ("trial", "state", "log_loss", "accuracy", "epochs", "seconds", "tflite", "onnx", "ram_bytes", "macs",
           "widths", "decomposed", "n_bands", "n_frames", "hop_length", "win_length", "why")  # fmt: skip
DONE, PRUNED, FAILED, RUNNING = (optuna.trial.TrialState[name] for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING"))


@dataclasses.dataclass(frozen=True)
class Task:
    """What one spectrogram's search is asked. hours: of trials, those of all calls and machines together.

    storage: file of an Optuna journal, or the URL of a database. folder: for logs and unfinished trainings.
    """

    name: str
    data: Path
    fold: int | None
    limits: Limits
    hours: float
    trial_epochs: int
    final_epochs: int
    seed: int
    storage: str
    folder: Path
    cache: Path


class Useless(Exception):
    """A trial that has nothing to tell."""


class TooBig(optuna.TrialPruned):
    """A proposal that no scaling brings within the limits: for the sampler the worst there is."""


def search(task, say=print):
    """Trials until the task's hours are over, then the finalists. -> the finalists, best first, as `_finalist` says.

    A killed search goes on: finished trials are kept, an unfinished one of this machine is taken up at its last epoch.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    dataset = load_dataset(task.data)
    clips, _ = split(dataset, task.fold)
    train, valid = inner_split(clips, 1, N_PARTS)
    study = open_study(task, [[clip.path.name, clip.label] for clip in clips])
    _take_up(study, task)
    in_vain = 0
    while spent_s(study) < task.hours * 3600:
        study.sampler = _sampler(task.seed, len(study.get_trials(deepcopy=False)))
        trial = study.ask()
        try:
            score = _try(trial, study, task, dataset.labels, train, valid, say)
            study.tell(trial, score["log_loss"])
            in_vain, said = 0, f"log loss {score['log_loss']:.3f}, accuracy {score['accuracy']:.1%}"
        except optuna.TrialPruned as why:
            study.tell(trial, state=PRUNED)
            in_vain, said = (in_vain + 1 if isinstance(why, TooBig) else 0), str(why)
        except Useless as why:
            study.tell(trial, state=FAILED)
            in_vain, said = in_vain + 1, str(why)
        write_log(study, task)
        shape = f"{_shape_of(trial)}: " if _shape_of(trial) else ""
        say(f"trial {trial.number}: {shape}{said}  {spent_s(study) / 60:.1f} of {task.hours * 60:.1f} min")
        if in_vain == MAX_IN_VAIN:
            raise ValueError(f"{task.name}: {MAX_IN_VAIN} trials in a row trained nothing, the last: {said}")
    return _finals(study, task, dataset.labels, clips, say)


def open_study(task, clips):
    """-> the task's optuna Study: another budget, fold or data, another study in the same storage."""
    facts = [
        clips, task.fold, dataclasses.asdict(task.limits), task.seed, N_PARTS,
        Recipe(epochs=task.trial_epochs, seed=task.seed).to_json(),
    ]  # fmt: skip
    name = f"{task.name}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"
    # Each trial that is not ended yet is judged after a sixth and after half of its epochs.
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, task.trial_epochs // 6), reduction_factor=3)
    try:
        study = optuna.create_study(
            storage=open_storage(task.storage),
            study_name=name,
            direction="minimize",
            pruner=pruner,
            load_if_exists=True,
        )
    except (SQLAlchemyError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"storage {task.storage} is damaged or cannot be used: {error}") from error
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_shipped(task), user_attrs={"shipped": True})
    return study


def open_storage(where):
    """A file's path or a database's URL -> an optuna storage that several processes and machines can share."""
    if "://" in where:
        return optuna.storages.RDBStorage(where)
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    journal = optuna.storages.journal
    lock = journal.JournalFileOpenLock(where) if os.name == "nt" else None  # Windows makes no links
    return optuna.storages.JournalStorage(journal.JournalFileBackend(where, lock))


def spent_s(study):
    """Seconds that the study's trials took, those of all processes together."""
    ended = study.get_trials(deepcopy=False, states=(DONE, PRUNED))
    return sum((trial.datetime_complete - trial.datetime_start).total_seconds() for trial in ended)


def _sampler(seed, n_trials):
    """Made anew for each trial, so that a search that was stopped goes on as it would have gone on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of optuna 4
        return optuna.samplers.TPESampler(
            seed=(seed * 100_003 + n_trials) % 2**32, multivariate=True, constant_liar=True
        )


def _take_up(study, task):
    """Trials that ended with their process, here: what they proposed is tried again, from their last epoch on."""
    for trial in study.get_trials(deepcopy=False, states=(RUNNING,)):
        host, pid = trial.user_attrs.get("worker", (None, None))
        if host == socket.gethostname() and not _is_alive(pid):
            study.tell(trial.number, state=FAILED)
            study.enqueue_trial(trial.params, user_attrs={k: v for k, v in trial.user_attrs.items() if k == "shipped"})


def _is_alive(pid):
    if os.name != "posix":
        return True  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _shipped(task):
    """The proportions that ship, as a proposal."""
    dc = {f"dc_{i}": True for i in range(2, 7)}
    shape = heard_by(Shape(WIDTHS_DEPLOYED, True))[task.name]
    heard = {name: getattr(shape, name) for name in _choices(task.name)}
    return {f"width_{i}": 1.0 for i in range(1, 7)} | dc | heard | {"filled": 1.0}


def _choices(name):
    """What a net of this spectrogram may hear; a CQT has no window."""
    return {field: values for field, values in CHOICES.items() if (name, field) != ("cqt", "win_length")}


def _propose(trial, task, n_classes):
    """-> the Shape that a trial's proportions make within the limits; None where none does."""
    factors = [trial.suggest_float(f"width_{i}", 0.5, 2.0, log=True) for i in range(1, 7)]
    dc = tuple(trial.suggest_categorical(f"dc_{i}", (True, False)) for i in range(2, 7))
    heard = {name: trial.suggest_categorical(name, values) for name, values in _choices(task.name).items()}
    filled = trial.suggest_float("filled", 0.4, 1.0)
    widths = tuple(width * factor for width, factor in zip(WIDTHS_DEPLOYED, factors))
    limits = dataclasses.replace(task.limits, file_bytes=int(filled * task.limits.file_bytes))
    return widest_within(limits, Shape(widths, dc, **heard), n_classes)


def _try(trial, study, task, labels, train, valid, say):
    """-> a trial's score on the clips of part 1. Raises TrialPruned, or Useless."""
    trial.set_user_attr("worker", [socket.gethostname(), os.getpid()])
    shape = _propose(trial, task, len(labels))
    if shape is None:
        trial.set_user_attr("why", "nothing of these proportions fits")
        raise TooBig("nothing of these proportions fits")
    trial.set_user_attr("shape", dataclasses.asdict(shape))
    trial.set_user_attr("costs", costs(shape, len(labels)))
    for other in study.get_trials(deepcopy=False, states=(DONE, PRUNED, RUNNING)):
        if other.number < trial.number and _shape_of(other) == shape:
            trial.set_user_attr("why", f"the same net as trial {other.number}")
            raise Useless(f"the same net as trial {other.number}")

    progress = _progress(say, f"trial {trial.number}", task.trial_epochs)

    def report(epoch, score):
        progress(epoch, score)
        trial.report(score["log_loss"], epoch)
        trial.set_user_attr("accuracy", score["accuracy"])
        if epoch < task.trial_epochs and trial.should_prune():
            shutil.rmtree(folder, ignore_errors=True)  # the first epoch has left nothing yet
            trial.set_user_attr("why", "given up")
            raise optuna.TrialPruned(f"given up after epoch {epoch}, log loss {score['log_loss']:.3f}")

    folder = task.folder / "trials" / f"{study.study_name}-{shape.digest}"
    recipe = plain_recipe(task.trial_epochs, task.seed)
    score = validated(shape, task, labels, train, valid, recipe, folder, report)
    trial.set_user_attr("accuracy", score["accuracy"])  # where all was trained before the process died, nobody said it
    shutil.rmtree(folder)  # its numbers are in the study
    return score


def _progress(say, what, epochs):
    """-> a `report` that says so thrice."""

    def report(epoch, score):
        if epoch < epochs and epoch % max(1, epochs // 3) == 0:
            say(f"{what}, epoch {epoch}/{epochs}: log loss {score['log_loss']:.3f}")

    return report


def validated(shape, task, labels, train, valid, recipe, folder, report):
    """Train a net of this shape on some clips, score it on others. -> {"accuracy", "log_loss", "n"} of the last epoch.

    report: called with the number of an epoch and its score, about ten times; what it raises ends the training. Resumable.
    """
    frontend, patch = shape.frontend(task.name), shape.patch
    train_statics, valid_statics = (features(clips, frontend, task.cache) for clips in (train, valid))
    run = new_run("cnn7", shape.kwargs, frontend, patch, labels, train_statics, recipe)
    truth = np.array([labels.index(clip.label) for clip in valid])

    def score():
        return scores.accuracy_and_loss(truth, clip_log_probabilities(run, valid_statics))

    def evaluate(history):
        now = score()
        report(len(history) + 1, now)
        return now["accuracy"]

    names = [[clip.path.name, clip.label] for clip in train]
    fit(
        run, train_statics, [labels.index(clip.label) for clip in train], recipe, folder,
        identity=[frontend.to_json(), patch.to_json(), names], evaluate=evaluate, say=lambda line: None,
    )  # fmt: skip
    return score()


def _finals(study, task, labels, clips, say):
    """The best trials and the shipped proportions, trained to the end and validated where no trial looked. Best first."""
    done = sorted(study.get_trials(deepcopy=False, states=(DONE,)), key=lambda trial: trial.value)
    if not done:
        raise ValueError(f"{task.name}: no trial came to its end: search longer, or loosen the limits")
    finalists = {_shape_of(t): t for t in done[:N_FINALISTS] + [t for t in done if t.user_attrs.get("shipped")]}
    found = []
    for shape, trial in finalists.items():
        parts = []
        for part in range(2, N_PARTS + 1):
            train, valid = inner_split(clips, part, N_PARTS)
            recipe = plain_recipe(task.final_epochs, task.seed)
            folder = task.folder / "finalists" / f"{study.study_name}-{shape.digest}" / f"part{part}"
            what = f"finalist {shape}, part {part}"
            report = _progress(say, what, task.final_epochs)
            parts.append(validated(shape, task, labels, train, valid, recipe, folder, report))
            say(f"{what}: log loss {parts[-1]['log_loss']:.3f}, accuracy {parts[-1]['accuracy']:.1%}")
        found.append(_finalist(shape, trial, parts, len(labels)))
    return sorted(found, key=lambda finalist: finalist["log_loss"])


def _finalist(shape, trial, parts, n_classes):
    """-> {"shape", "trial", "shipped", "costs", "log_loss", "accuracy", "parts"}: means over the clips of all parts."""
    n = sum(part["n"] for part in parts)
    means = {key: sum(part[key] * part["n"] for part in parts) / n for key in ("log_loss", "accuracy")}
    return {
        "shape": dataclasses.asdict(shape),
        "trial": trial.number,
        "shipped": bool(trial.user_attrs.get("shipped")),
        "costs": costs(shape, n_classes),
        **means,
        "parts": parts,
    }


def _shape_of(trial):
    values = trial.user_attrs.get("shape")
    return Shape.from_json(values) if values else None


def rows(study):
    """Every trial as a dict of COLUMNS."""
    return [_row(trial) for trial in study.get_trials(deepcopy=False)]


def _row(trial):
    ended = trial.datetime_start and trial.datetime_complete
    steps = trial.intermediate_values
    values = {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "log_loss": trial.value if trial.state == DONE else steps[max(steps)] if steps else None,
        "accuracy": trial.user_attrs.get("accuracy"),
        "epochs": max(steps, default=0),
        "seconds": round((trial.datetime_complete - trial.datetime_start).total_seconds(), 1) if ended else None,
        "why": trial.user_attrs.get("why"),
    }
    values |= trial.user_attrs.get("costs", {}) | trial.user_attrs.get("shape", {})
    return {column: values.get(column) for column in COLUMNS}


def write_log(study, task):
    """trials-mel.csv: every trial so far, those of other machines too."""

    def write(path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows(study):
                writer.writerow(
                    {k: "/".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()}
                )

    task.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(task.folder / f"trials-{task.name}.csv", write)


def searched(task):
    """`search` for compress.workers: -> name, finalists, rows of all trials."""
    finalists = search(task, functools.partial(_say, task.name))
    clips, _ = split(load_dataset(task.data), task.fold)
    return task.name, finalists, rows(open_study(task, [[clip.path.name, clip.label] for clip in clips]))


def _say(name, line):
    print(f"{name}: {line}", flush=True)
