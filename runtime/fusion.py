"""Fusing decisions: over the patches of a window, then over the members of a bundle. Everything in log probabilities.

The nets end in logits: an int8 softmax would round small probabilities to 0 and one zero would decide a product.
"""

import numpy as np

TINY = 1e-12  # a probability below this says "never" as loudly as zero, but can still be outvoted


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(..., classes) logits -> (..., classes) log probabilities."""
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean(log_p: np.ndarray) -> np.ndarray:
    """(n, classes) -> (classes,) log of the mean probability: eq. (1) of P3 over patches, eq. (20) of P1 over nets."""
    return np.log(np.maximum(np.exp(log_p).mean(axis=0), TINY))


def prod(log_p: np.ndarray) -> np.ndarray:
    """(n, classes) -> (classes,) log of the renormalised product: PROD, eq. (3) of P3, eq. (23) of P1."""
    return log_softmax(np.maximum(log_p, np.log(TINY)).sum(axis=0))


def maximum(log_p: np.ndarray) -> np.ndarray:
    """(n, classes) -> (classes,) log of the renormalised maximum: eq. (24) of P1."""
    return log_softmax(log_p.max(axis=0))


FUSIONS = {"prod": prod, "mean": mean, "max": maximum}
