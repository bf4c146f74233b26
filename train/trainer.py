"""From recordings to a finished run: features, training, scores, pictures, files."""

import dataclasses
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from runtime.files import write_atomic
from runtime.frontend import deltas
from train import attentive, cnn7, relevance, scores
from train.data import load_dataset, split
from train.features import CACHE, features, normalisation, unchanged
from train.loop import clip_log_probabilities, fit
from train.models import MODELS
from train.run import Run, load_run

SHAPES = {
    "full": {"widths": cnn7.WIDTHS_FULL, "order": "paper"},
    "cr": {"widths": cnn7.WIDTHS_CR, "order": "paper"},
    "cr+dc": {"widths": cnn7.WIDTHS_CR, "decomposed": True, "order": "paper"},
    "deployed": {"widths": cnn7.WIDTHS_DEPLOYED, "decomposed": True, "dropout": 0.0},
    **{name: kwargs for name, (_, kwargs) in relevance.SETTINGS.items()},
    **attentive.SETTINGS,
}


def train(model_name, kwargs, frontend, patch, data, fold, recipe, folder, *, teachers=(), cache=CACHE, say=print):
    """Train one net on one front end, score it on the held-out fold, save the run. -> (Run, log_p of the test clips).

    A finished run of the same recipe in `folder` is not trained again.
    """
    folder = Path(folder)
    kwargs = fitting(model_name, kwargs, frontend, patch)
    dataset = load_dataset(data)
    if len(dataset.labels) < 2:
        raise ValueError(f"{data} holds one class ({dataset.labels[0]}): telling sounds apart takes two")
    train_clips, test_clips = split(dataset, fold)
    train_statics, test_statics = (features(clips, frontend, cache) for clips in (train_clips, test_clips))
    run = new_run(model_name, kwargs, frontend, patch, dataset.labels, train_statics, recipe)
    targets = [dataset.labels.index(clip.label) for clip in train_clips]
    identity = [frontend.to_json(), dataclasses.asdict(patch), [clip.path.name for clip in train_clips], targets]

    def evaluate(history):
        accuracy = scores.score(clip_log_probabilities(run, test_statics), test_clips, dataset.labels)["accuracy"]
        if accuracy > max((row.get("accuracy", -1.0) for row in history), default=-1.0):
            run.save(folder, "best.safetensors")
        return accuracy

    history = fit(
        run, train_statics, targets, recipe, folder, say=say, identity=[*identity, [str(t) for t in teachers]],
        teacher=_opinion([load_run(t) for t in teachers]), evaluate=evaluate if test_clips else None,
    )  # fmt: skip
    log_p = clip_log_probabilities(run, test_statics) if test_clips else None
    run.meta = {
        "scores": {"last": scores.score(log_p, test_clips, dataset.labels)} if test_clips else {},
        "history": history,
        "data": {"name": dataset.name, "fold": fold, "n_train": len(train_clips), "n_test": len(test_clips)},
        "recipe": dataclasses.asdict(recipe),
        "teachers": [str(t) for t in teachers],
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0], "numpy": version("numpy")},
    }
    if test_clips:
        measured = [row for row in history if "accuracy" in row]
        run.meta["scores"]["best_on_test_fold"] = max(measured, key=lambda row: row["accuracy"])
        last = run.meta["scores"]["last"]
        write_atomic(folder / "confusion.png", lambda path: scores.plot_confusion(path, last, dataset.labels))
    run.save(folder)
    write_atomic(folder / "curves.png", lambda path: scores.plot_curves(path, history))
    return run, log_p


def new_run(model_name, kwargs, frontend, patch, labels, statics, recipe):
    """-> a Run with a net of the recipe's seed, and the statistics of the spectrograms it will learn from."""
    mean, std = unchanged(frontend) if frontend.kind == "frames" else normalisation(statics, deltas)
    torch.manual_seed(recipe.seed)
    try:
        model = MODELS[model_name](n_classes=len(labels), **kwargs)
    except TypeError as error:
        raise ValueError(f"{model_name} has no such setting: {error}") from error
    return Run(model_name, model, frontend, patch, labels, mean, std, {})


def fitting(model_name, kwargs, frontend, patch):
    """-> kwargs and what follows from the input. Raises ValueError for a net and a front end of different kinds."""
    raw = frontend.kind == "frames"
    if raw != (model_name == "learned"):
        want = "learned, which takes" if raw else "another net: learned wants"
        raise ValueError(
            f"{model_name} on {frontend.kind}: choose {want} raw frames (--frontend p4_frames or frames_16k)"
        )
    follows = {"learned": {"sr": frontend.sr}, "attentive": {"n_frames": patch.n_frames}}
    return kwargs | follows.get(model_name, {})


def _opinion(teachers):
    """Full-size nets of the same spectrogram -> a function of raw patches: their mean logits. None without teachers."""
    if not teachers:
        return None

    @torch.no_grad()
    def opinion(raw):
        return torch.stack([t.model(t.normalise(raw).float()) for t in teachers]).mean(0)

    return opinion
