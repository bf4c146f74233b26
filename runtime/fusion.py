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
    """(n, classes) -> (classes,) log of the mean probability: eq. (20) of P1 over nets.

    axis: over what, other axes stay; SPSMT of P2 takes the mean over a patch's frames.
    """
    return np.log(np.maximum(np.exp(log_p).mean(axis=axis), TINY))


def over_patches(log_p: np.ndarray, certainty: float = 0.0) -> np.ndarray:
    """(n, classes) -> (classes,) log of the patches' mean probability, each patch with its weight (`weights`).

    certainty 0 is eq. (1) of P3: all patches alike.
    """
    weight = weights(log_p, certainty)
    return np.log(np.maximum(weight @ np.exp(log_p) / weight.sum(), TINY))


def weights(log_p: np.ndarray, certainty: float) -> np.ndarray:
    """(n, classes) -> (n,): what each patch knows, log classes less its entropy in nats, to this power.

    Weights by entropy are Misra, Bourlard and Tyagi's (ICASSP 2003, there of nets): a patch of silence or of a room's
    noise, which could be any class, then hardly counts beside one that holds the sound.
    """
    known = np.log(log_p.shape[-1]) + (np.exp(log_p) * np.maximum(log_p, np.log(TINY))).sum(axis=-1)
    return np.maximum(known, 1e-3) ** certainty  # where no patch knows anything they count alike


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
