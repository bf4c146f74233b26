"""From recordings to a finished run: features, training, scores, pictures, files."""

import dataclasses
import itertools
import math
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from runtime import audio
from runtime.files import write_atomic
from train import scores, waves
from train.data import check_classes, fingerprint, load_dataset, split
from train.features import CACHE, features, normalisation, unchanged
from train.loop import clip_log_probabilities, fit
from train.models import MODELS
from train.run import Run, weights_digest
from train.teachers import described, opinions
from train.workers import counted

N_NOISES = 320  # to draw from; how many it takes was not measured
EPOCHS_OF_NOISES = 16  # of few recordings fewer are made: as many as so many epochs hear


def train(
    model_name, kwargs, frontend, patch, data, fold, recipe, folder, *, teachers=(), cache=CACHE, fabric=None, say=print,
    starmap=itertools.starmap,
):  # fmt: skip
    """Train one net on one front end, score it on the held-out fold, save the run. -> (Run, log_p of the test clips).

    A finished run of the same recipe in `folder` is not trained again. Of several processes of a `fabric` the first writes.
    starmap: who computes spectrograms, see train.workers.
    """
    folder = Path(folder)
    fitting(model_name, frontend, patch, recipe)
    dataset = load_dataset(data)
    check_classes(dataset)
    train_clips, test_clips = split(dataset, fold)
    train_statics, test_statics = (features(clips, frontend, cache, starmap) for clips in (train_clips, test_clips))
    run = new_run(model_name, kwargs, frontend, patch, dataset.labels, train_statics, recipe)
    targets = [dataset.labels.index(clip.label) for clip in train_clips]
    cut = dataclasses.replace(patch, certainty=0.0)  # no weight depends on how opinions become one
    identity = [frontend.to_json(), cut.to_json(), [clip.path.name for clip in train_clips], targets]

    def evaluate(history):
        accuracy = scores.score(clip_log_probabilities(run, test_statics), test_clips, dataset.labels)["accuracy"]
        if writes and accuracy > max((row.get("accuracy", -1.0) for row in history), default=-1.0):
            run.save_weights(folder, "best.safetensors")
        return accuracy

    def varied(which):
        calls = [(train_clips[i].path, frontend, (recipe.seed, i, variation)) for i, variation in which]
        return starmap(waves.spectrogram_of, calls)

    writes = fabric is None or fabric.is_global_zero
    history = fit(
        run, train_statics, targets, recipe, folder, say=say, identity=[*identity, [weights_digest(t) for t in teachers]],
        opinions=opinions(teachers, dataset, fold, cache, starmap),
        evaluate=evaluate if test_clips else None,
        varied=varied, noises=lambda: made_noises(frontend, recipe, len(train_clips), starmap), fabric=fabric,
    )  # fmt: skip
    log_p = clip_log_probabilities(run, test_statics) if test_clips else None
    if not writes:
        return run, log_p
    for stale in () if test_clips else (scores.PREDICTIONS, "confusion.png", "best.safetensors"):
        (folder / stale).unlink(missing_ok=True)  # of a training before, which held a fold out
    run.meta |= {
        "scores": {"last": scores.score(log_p, test_clips, dataset.labels)} if test_clips else {},
        "history": history,
        "data": data_facts(dataset, fold, frontend.sr),
        "recipe": recipe.to_json(),
        "teachers": [described(t) for t in teachers],
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0], "numpy": version("numpy")},
    }
    if test_clips:
        measured = [row for row in history if "accuracy" in row]
        run.meta["scores"]["best_on_test_fold"] = max(measured, key=lambda row: row["accuracy"])
        last = run.meta["scores"]["last"]
        scores.save_predictions(folder, log_p, test_clips, dataset.labels)
        write_atomic(folder / "confusion.png", lambda path: scores.plot_confusion(path, last, dataset.labels))
    run.save(folder)
    write_atomic(folder / "curves.png", lambda path: scores.plot_curves(path, history))
    return run, log_p


def data_facts(dataset, fold, sr):
    """-> what a run says of the clips it was trained on, JSON-able: see train.data.check_heard.

    highest_hz: what these recordings can hold, where that is less than a rate of `sr` can.
    """
    train_clips, test_clips = split(dataset, fold)
    highest_hz = max(audio.header(clip.path).sr for clip in train_clips) / 2
    return {
        "name": dataset.name,
        "fold": fold,
        "n_train": len(train_clips),
        "n_test": len(test_clips),
        "clips": fingerprint(train_clips),
        **({"highest_hz": highest_hz} if highest_hz < sr / 2 else {}),
    }


def made_noises(frontend, recipe, n_recordings, starmap=itertools.starmap):
    """-> what train.loop.fit draws noises from, [(bands, frames)], each of a seed of its own. Progress on stderr."""
    n = min(N_NOISES, math.ceil(EPOCHS_OF_NOISES * recipe.noise_share * n_recordings))
    calls = [(frontend, (recipe.seed, i)) for i in range(n)]
    return list(counted(starmap(waves.noise_spectrogram, calls), len(calls), f"{frontend.kind} noises"))


def fitting(model_name, frontend, patch, recipe):
    """Raises ValueError for a net that hears raw frames and a front end that makes none, or the other way round."""
    raw = patch.planes == "frames"
    if raw != (frontend.kind == "frames"):
        wanted = "raw frames, --frontend p4_frames or frames_16k" if raw else "a spectrogram; learned takes raw frames"
        raise ValueError(f"{model_name} cannot hear {frontend.kind}: give it {wanted}")
    if patch.quietest_db is not None and not all(f.is_level for f in frontend.frontends):
        raise ValueError(f"{frontend.kind} is no level in dB: leave quietest_db out")
    if raw and (recipe.mask_frames or recipe.mask_bands):
        raise ValueError(
            "mask_frames and mask_bands would hide raw samples: give them to the net, --set mask_frames=16"
        )


def new_run(model_name, kwargs, frontend, patch, labels, statics, recipe):
    """-> a Run with a net of the recipe's seed and the statistics of `statics`, which it will learn from. ValueError."""
    torch.manual_seed(recipe.seed)
    try:
        model = MODELS[model_name](n_classes=len(labels), **kwargs)
    except TypeError as error:
        raise ValueError(f"{model_name} has no such setting: {error}") from error
    mean, std = unchanged(frontend) if patch.planes == "frames" else normalisation(statics, patch)
    run = Run(model_name, model, frontend, patch, labels, mean, std, {})
    _check_patch(run)
    return run


def _check_patch(run):
    """Raises ValueError for patches that the net's pools would shrink to nothing."""
    planes, bands = run.mean.shape
    try:
        with torch.no_grad():
            run.model.eval()(torch.zeros(1, planes, run.patch.n_frames, bands))
    except RuntimeError as error:
        size = f"{planes} planes of {run.patch.n_frames} frames and {bands} bands"
        raise ValueError(f"{run.name} cannot hear patches of {size} ({error}): choose more frames or bands") from error
