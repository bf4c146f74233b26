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


def mean(log_p: np.ndarray, axis: int = 0) -> np.ndarray:
    """(n, classes) -> (classes,) log of the mean probability: eq. (1) of P3 over patches, eq. (20) of P1 over nets.

    axis: over what, other axes stay; SPSMT of P2 takes the mean over a patch's frames.
    """
    return np.log(np.maximum(np.exp(log_p).mean(axis=axis), TINY))


def patch_log_p(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Logits of n patches, (n, classes), or (n, frames, classes) of a net that decides on every frame -> (n, classes) log
    probabilities. Frames' probabilities are averaged, SPSMT of P2; the temperature softens what comes out of it.
    """
    if logits.ndim == 3:
        logits = mean(log_softmax(logits), axis=1)
    return log_softmax(logits, temperature)


def prod(log_p: np.ndarray) -> np.ndarray:
    """(n, classes) -> (classes,) log of the renormalised product: PROD, eq. (3) of P3, eq. (23) of P1."""
    return log_softmax(np.maximum(log_p, np.log(TINY)).sum(axis=0))


def maximum(log_p: np.ndarray) -> np.ndarray:
    """(n, classes) -> (classes,) log of the renormalised maximum: eq. (24) of P1."""
    return log_softmax(log_p.max(axis=0))


FUSIONS = {"prod": prod, "mean": mean, "max": maximum}
