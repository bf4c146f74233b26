"""How the deployed nets are trained: what was measured to pay (LOG.md)."""

import dataclasses

from train.loop import fastest_precision
from train.recipe import Recipe

EPOCHS = 100
VARY_EVERY = 8  # epochs
MASK_BANDS = 6  # at most, of 64
NOISE_SHARE = 1 / 4  # of room noise beside the recordings, a fifth of it above -45 dB
NO_AUGMENTATION = {"gain_db": 0.0, "mixup_alpha": 0.0, "mask_frames": 0, "mask_bands": 0, "vary_every": 0,
                   "noise_share": 0.0}  # fmt: skip


def recipe(epochs, seed, augmented=True, noise_share=NOISE_SHARE):
    """-> the Recipe of a net that is trained to its end; not augmented, noise has no share either."""
    full = Recipe(
        epochs=epochs, seed=seed, precision=fastest_precision(), vary_every=VARY_EVERY, mask_bands=MASK_BANDS,
        noise_share=noise_share,
    )  # fmt: skip
    return full if augmented else dataclasses.replace(full, **NO_AUGMENTATION)


def plain_recipe(epochs, seed):
    """-> the same without what costs time and pays late: for a search; and, with noise, to train on what was pruned."""
    return dataclasses.replace(recipe(epochs, seed), vary_every=0, noise_share=0.0)
