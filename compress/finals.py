"""Honest validation: a shape trained on some of the training clips, scored on the others; finalists on several parts."""

import dataclasses

import numpy as np

from compress.recipe import plain_recipe
from compress.shapes import costs
from compress.trials import DONE, shape_of
from train import scores
from train.data import inner_split
from train.features import features
from train.loop import Diverged, clip_log_probabilities, fit
from train.trainer import new_run

N_PARTS = 4  # of the training clips: trials are scored on the first, finalists on the others
N_FINALISTS = 3  # besides the shipped proportions


def progress_of(say, what, epochs):
    """-> a `report` of `validated` that says how far it is."""

    def report(epoch, score):
        if epoch < epochs:
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


def finals(study, task, labels, clips, say):
    """The best trials and the shipped proportions, trained to the end and validated where no trial looked. Best first."""
    done = sorted(study.get_trials(deepcopy=False, states=(DONE,)), key=lambda trial: trial.value)
    if not done:
        raise ValueError(f"{task.name}: no trial came to its end: search longer, or loosen the limits")
    finalists = {shape_of(t): t for t in done[:N_FINALISTS] + [t for t in done if t.user_attrs.get("shipped")]}
    found = []
    for shape, trial in finalists.items():
        parts = []
        for part in range(2, N_PARTS + 1):
            train, valid = inner_split(clips, part, N_PARTS)
            recipe = plain_recipe(task.final_epochs, task.seed)
            folder = task.folder / "finalists" / f"{study.study_name}-{shape.digest}" / f"part{part}"
            what = f"finalist {shape}, part {part}"
            report = progress_of(say, what, task.final_epochs)
            try:
                parts.append(validated(shape, task, labels, train, valid, recipe, folder, report))
            except Diverged as why:
                say(f"{what}: left out, {why}")
                break
            say(f"{what}: log loss {parts[-1]['log_loss']:.3f}, accuracy {parts[-1]['accuracy']:.1%}")
        else:
            found.append(_finalist(shape, trial, parts, len(labels)))
    if not found:
        raise ValueError(f"{task.name}: every finalist's loss became infinite: choose another --seed")
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
