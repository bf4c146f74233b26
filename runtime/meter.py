"""How loud the sound is, and how much of the processor hearing it takes."""

import time

import numpy as np

FLOOR_DBFS = -120.0


class Meter:
    """Level and load since the last reading."""

    def __init__(self, sr: int) -> None:
        self._sr = sr
        self._energy, self._n = 0.0, 0
        self._cpu_s = time.process_time()

    def sound(self, samples: np.ndarray) -> None:
        """(n,) at sr"""
        self._energy += float(np.dot(samples, samples))
        self._n += len(samples)

    def skip(self, n_samples: int) -> None:
        """What was lost has no level."""

    def read(self) -> tuple[float, float]:
        """-> RMS level in dB below full scale, and processor seconds per second of sound."""
        cpu_s = time.process_time()
        heard_s = self._n / self._sr
        level_dbfs = 10 * np.log10(max(self._energy / max(self._n, 1), 10 ** (FLOOR_DBFS / 10)))
        load = (cpu_s - self._cpu_s) / heard_s if heard_s else 0.0
        self._energy, self._n, self._cpu_s = 0.0, 0, cpu_s
        return float(level_dbfs), load
