"""How the deployed nets are trained: what was measured to pay (LOG.md)."""

import dataclasses

from train.loop import fastest_precision
from train.recipe import Recipe

EPOCHS = 100
VARY_EVERY = 8  # epochs


def recipe(epochs, seed):
    """-> the Recipe of a net that is trained to its end."""
    return Recipe(epochs=epochs, seed=seed, precision=fastest_precision(), vary_every=VARY_EVERY)


def plain_recipe(epochs, seed):
    """-> the same without variations, which cost time and pay late: for a search, and to train on what was trained."""
    return dataclasses.replace(recipe(epochs, seed), vary_every=0)
