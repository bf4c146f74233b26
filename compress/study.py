"""Search for the CNN-7 that a spectrogram wants under a budget, with Optuna: cheap trials first, honest validation last.

A trial proposes proportions: of the six widths, DC or not in convolutions 2 to 6, bands, frames and hop of a patch, and how
much of the byte limit to fill. The widths are then scaled until the written files, the RAM or the MACs fill what is allowed
(compress.shapes.widest_within): hardly a proposal is spent on nets that do not fit. The net is trained for a few epochs and
scored by its log loss on part 1 of the training clips (train.data.inner_split); successive halving ends the poor ones
early. The best of them, and the shipped proportions, are then trained to the end once for each other part: the least
mean log loss wins. The fold that is held out is never looked at.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import socket
import warnings
from pathlib import Path

import optuna
from sqlalchemy.exc import SQLAlchemyError

from compress.finals import N_PARTS, finals, progress_of, validated
from compress.proposals import propose, shipped
from compress.recipe import plain_recipe
from compress.shapes import CERTAINTY, QUIETEST_DB, Limits, costs
from compress.trials import DONE, FAILED, PRUNED, RUNNING, rows, shape_of, spent_s, write_log
from train.data import inner_split, load_dataset, split
from train.loop import Diverged
from train.recipe import Recipe

MAX_IN_VAIN = 100  # trials in a row that trained nothing


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
    """Trials until the task's hours are over, then the finalists. -> the finalists, best first (compress.finals).

    A killed search goes on: finished trials are kept, an unfinished one of this machine is taken up at its last epoch.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    dataset = load_dataset(task.data)
    clips, _ = split(dataset, task.fold)
    for part in range(2, N_PARTS + 1):  # those of the finalists: can they be made, before hours of trials
        inner_split(clips, part, N_PARTS)
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
        shape = f"{shape_of(trial)}: " if shape_of(trial) else ""
        say(f"trial {trial.number}: {shape}{said}  {spent_s(study) / 60:.1f} of {task.hours * 60:.1f} min")
        if in_vain == MAX_IN_VAIN:
            raise ValueError(f"{task.name}: {MAX_IN_VAIN} trials in a row trained nothing, the last: {said}")
    return finals(study, task, dataset.labels, clips, say)


def open_study(task, clips):
    """-> the task's optuna Study: another budget, fold or data, another study in the same storage."""
    facts = [
        clips, task.fold, dataclasses.asdict(task.limits), task.seed, N_PARTS,
        Recipe(epochs=task.trial_epochs, seed=task.seed).to_json(), QUIETEST_DB[task.name], CERTAINTY,
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
    except (SQLAlchemyError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"storage {task.storage} is damaged or cannot be used: {error}") from error
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(shipped(task.name), user_attrs={"shipped": True})
    return study


def open_storage(where):
    """A file's path or a database's URL -> an optuna storage that several processes and machines can share."""
    if "://" in where:
        return optuna.storages.RDBStorage(where)
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    journal = optuna.storages.journal
    _check_journal(Path(where))
    lock = journal.JournalFileOpenLock(where) if os.name == "nt" else None  # Windows makes no links
    return optuna.storages.JournalStorage(journal.JournalFileBackend(where, lock))


def _check_journal(path):
    """Raises ValueError that says which line of a journal is damaged: a full disk leaves half of one."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            whole = isinstance(json.loads(line)["op_code"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise ValueError(
                f"storage {path} cannot be used: line {number} is damaged, take it and all behind it away "
                f"(head -n {number - 1}), or delete the file to search anew"
            )


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
        if host == socket.gethostname() and (pid == os.getpid() or not _is_alive(pid)):  # ours: a container's first
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


def _try(trial, study, task, labels, train, valid, say):
    """-> a trial's score on the clips of part 1. Raises TrialPruned, or Useless."""
    trial.set_user_attr("worker", [socket.gethostname(), os.getpid()])
    shape = propose(trial, task.name, task.limits, len(labels))
    if shape is None:
        trial.set_user_attr("why", "nothing of these proportions fits")
        raise TooBig("nothing of these proportions fits")
    trial.set_user_attr("shape", dataclasses.asdict(shape))
    trial.set_user_attr("costs", costs(shape, len(labels)))
    for other in study.get_trials(deepcopy=False, states=(DONE, PRUNED, RUNNING)):
        if other.number < trial.number and shape_of(other) == shape:
            trial.set_user_attr("why", f"the same net as trial {other.number}")
            raise Useless(f"the same net as trial {other.number}")

    progress = progress_of(say, f"trial {trial.number}", task.trial_epochs)

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
    try:
        score = validated(shape, task, labels, train, valid, recipe, folder, report)
    except Diverged as why:
        shutil.rmtree(folder, ignore_errors=True)
        trial.set_user_attr("why", str(why))
        raise Useless(str(why)) from why
    trial.set_user_attr("accuracy", score["accuracy"])  # where all was trained before the process died, nobody said it
    shutil.rmtree(folder)  # its numbers are in the study
    return score


def searched(task):
    """`search` for compress.workers: -> name, finalists, rows of all trials."""
    finalists = search(task, functools.partial(_say, task.name))
    clips, _ = split(load_dataset(task.data), task.fold)
    return task.name, finalists, rows(open_study(task, [[clip.path.name, clip.label] for clip in clips]))


def _say(name, line):
    print(f"{name}: {line}", flush=True)
