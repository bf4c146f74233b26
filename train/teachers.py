"""What trained nets say of recordings, for others to learn from: asked once and kept on disk (stored logits)."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from train.data import check_heard, split
from train.features import CACHE, features, key, load_array, save_array
from train.loop import clip_log_probabilities
from train.run import load_run, weights_digest
from train.workers import counted


def load_teachers(paths, dataset, fold):
    """-> the trained Runs in these folders, of any spectrogram. fold: what their student holds out, None or 0: nothing.

    Raises ValueError for one of other classes, or that heard other clips than its student will.
    """
    teachers = [load_run(path) for path in paths]
    for path, teacher in zip(paths, teachers):
        if teacher.labels != dataset.labels:
            known = ", ".join(teacher.labels)[:100]
            raise ValueError(f"teacher {path} knows other classes ({known}): train one on this data")
        check_heard(teacher.meta.get("data"), dataset, fold, f"teacher {path}")
    return teachers


def described(path):
    """-> what a student's papers say of a teacher, JSON-able."""
    run = load_run(path)
    n_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    return {
        "net": run.name,
        "frontend": run.frontend.kind,
        "parameters": n_parameters,
        "data": run.meta.get("data", {}),
        "sha256": weights_digest(path),
    }


def opinions(paths, dataset, fold, cache=CACHE, starmap=itertools.starmap):
    """-> (clips, classes): log of the geometric mean, normalised, of what these Runs say of the clips that `fold` leaves.

    None where there are no Runs. Raises ValueError as load_teachers does.
    """
    if not paths:
        return None
    teachers, (clips, _) = load_teachers(paths, dataset, fold), split(dataset, fold)
    said = [_opinion(path, teacher, clips, Path(cache), starmap) for path, teacher in zip(paths, teachers)]
    return log_softmax(np.mean(said, axis=0), axis=1)


def _opinion(path, teacher, clips, cache, starmap):
    """One teacher's log probabilities, (clips, classes), from the cache where it was asked before."""
    asked = [key(clip.path, teacher.frontend) for clip in clips]
    text = json.dumps([weights_digest(path), teacher.patch.to_json(), asked])
    kept = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.opinion.npy"
    log_p = load_array(kept, (len(clips), len(teacher.labels)))
    if log_p is None:
        statics = counted(features(clips, teacher.frontend, cache, starmap), len(clips), f"{path} teaches, clip")
        log_p = np.concatenate([clip_log_probabilities(teacher, [static]) for static in statics])
        save_array(kept, log_p)
    return log_p
