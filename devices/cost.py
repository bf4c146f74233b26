"""Cycles per unit of work of one board with its runtime: fitted from few measurements around a stated expectation.

The expectation is the shape of an integer kernel, not of any board: in cycles relative to a convolution's MAC, what a
depthwise MAC, a fetched weight, an output value take. Measurements move it where they speak and leave it where they
are silent; the interval says which is which (Laplace: a Gaussian in the logarithms of the seven costs).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from devices.work import CLASSES

# Relative to a convolution's MAC. A depthwise MAC shares no loads (3), a dense one fetches its own weight (1.5), an
# output value takes a 64-bit product, a shift, a clip and a store (12), a gathered value a load and a store (1), an
# element two scalings' worth (8), a call some thousand. Set from the loops of such kernels before any row was fitted.
RATIOS = np.array([1.0, 3.0, 1.5, 12.0, 1.0, 8.0, 2000.0])
_SPREAD = np.array([0.1, *[0.5] * 6])  # of the logarithm of each ratio; the convolution's is the scale's
_WIDER = 3.0  # vector units: the gap between what feeds them well and what does not is larger
_UNKNOWN_SCALE = 2.0  # of the logarithm of the scale, before the first measurement: a factor of 7 either way
NOISE = 0.15  # of the logarithm of a measured time: clock, compiler, flash wait states, what is counted
# An interval reaches this many deviations either way: 91 % of the published rows lie inside when their model's family is
# left out of the fit, 95 % when their board is (python -m benchmarks.devices).
MULTIPLIER = 1.7
DSP_CORES = ("Cortex-M0", "Cortex-M3", "Cortex-M4", "Cortex-M7", "Cortex-M33")


@dataclass(frozen=True)
class Cost:
    """log_cycles (7,) per unit of CLASSES, covariance (7, 7) of these logarithms."""

    log_cycles: np.ndarray
    covariance: np.ndarray

    def cycles(self, work: np.ndarray) -> float:
        """(7,) work -> the likeliest cycles."""
        return float(work @ np.exp(self.log_cycles))

    def deviation(self, work: np.ndarray) -> float:
        """(7,) work -> standard deviation of the logarithm of a measured time."""
        share = work * np.exp(self.log_cycles) / max(self.cycles(work), 1e-12)  # nothing but views takes no time
        return float(np.sqrt(share @ self.covariance @ share + NOISE**2))

    def interval(self, work: np.ndarray) -> tuple[float, float]:
        """-> [low, high] cycles, where nine of ten measurements are expected."""
        factor = float(np.exp(MULTIPLIER * self.deviation(work)))
        return self.cycles(work) / factor, self.cycles(work) * factor


def expectation(core: str, cycles_per_mac: float = 3.0) -> Cost:
    """What is believed of a core before anything was measured on it."""
    spread = _SPREAD * (1 if core.startswith(DSP_CORES) else _WIDER)
    covariance = np.diag(spread**2) + _UNKNOWN_SCALE**2
    return Cost(np.log(RATIOS * cycles_per_mac), covariance)


def fit(prior: Cost, work: np.ndarray, cycles: Sequence[float] | np.ndarray) -> Cost:
    """prior, (n, 7) work, (n,) measured cycles -> the cost that explains both best (maximum a posteriori)."""
    measured, theta = np.log(np.asarray(cycles, float)), prior.log_cycles.copy()
    precision = np.linalg.inv(prior.covariance)
    theta += np.median(measured - np.log(work @ np.exp(theta)))  # so that few steps suffice
    for _ in range(50):  # Gauss-Newton
        parts = work * np.exp(theta)
        share = parts / parts.sum(1, keepdims=True)  # derivative of the logarithm of the sum
        curvature = share.T @ share / NOISE**2 + precision
        slope = share.T @ (measured - np.log(parts.sum(1))) / NOISE**2 - precision @ (theta - prior.log_cycles)
        step = np.linalg.solve(curvature, slope)
        theta += step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    return Cost(theta, np.linalg.inv(curvature))


assert len(RATIOS) == len(_SPREAD) == len(CLASSES)
