"""What a trial of compress.study may propose: proportions, scaled to what the limits allow."""

import dataclasses

from compress.shapes import HOP_LENGTH, QUIETEST_DB, Shape, heard_by, widest_within
from train.cnn7 import WIDTHS_DEPLOYED

CHOICES = {
    "n_bands": (64, 96, 128),
    "n_frames": (32, 64, 96, 128, 192),
    "hop_length": (620, HOP_LENGTH, 1850),
    "win_length": (1024, 2048, 4096),
}


def shipped(name):
    """The proportions that ship, as a proposal."""
    dc = {f"dc_{i}": True for i in range(2, 7)}
    shape = heard_by(Shape(WIDTHS_DEPLOYED, True))[name]
    heard = {field: getattr(shape, field) for field in _choices(name)}
    return {f"width_{i}": 1.0 for i in range(1, 7)} | dc | heard | {"filled": 1.0}


def _choices(name):
    """What a net of this spectrogram may hear; a CQT has no window."""
    return {field: values for field, values in CHOICES.items() if (name, field) != ("cqt", "win_length")}


def propose(trial, name, limits, n_classes):
    """-> the Shape that a trial's proportions make within the limits; None where none does."""
    factors = [trial.suggest_float(f"width_{i}", 0.5, 2.0, log=True) for i in range(1, 7)]
    dc = tuple(trial.suggest_categorical(f"dc_{i}", (True, False)) for i in range(2, 7))
    heard = {field: trial.suggest_categorical(field, values) for field, values in _choices(name).items()}
    filled = trial.suggest_float("filled", 0.4, 1.0)
    widths = tuple(width * factor for width, factor in zip(WIDTHS_DEPLOYED, factors))
    limits = dataclasses.replace(limits, file_bytes=int(filled * limits.file_bytes))
    return widest_within(limits, Shape(widths, dc, **heard, quietest_db=QUIETEST_DB[name]), n_classes)
