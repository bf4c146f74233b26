"""What the estimator says of rows it has not seen: one model family left out at a time, then one board."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.rows import Row
from devices.cost import DSP_CORES, Cost, expectation, fit

Platform = tuple[str, str, str, str]
# CoreMark per MHz as Arm publishes it: what one core is worth against another before kernels were measured on both.
_COREMARK = {"Cortex-M0+": 2.46, "Cortex-M3": 3.34, "Cortex-M4": 3.42, "Cortex-M33": 4.02, "Cortex-M7": 5.01}
_VECTOR = ("Cortex-A", "M52", "M55", "M85", "LX7", "PIE", "NX27V", "64GCVB")
# (what another platform must share with this one, deviation of the logarithm of their ratio); the first that is found
_RELATIVES = (
    (("core", "runtime", "version"), 0.1),
    (("core", "runtime"), 0.25),
    (("units", "runtime", "version"), 0.2),
    (("units", "runtime"), 0.35),
    (("core",), 0.7),
    (("units",), 0.8),
    ((), 1.2),
)


@dataclass(frozen=True)
class Guess:
    """A row, what was said of it unseen: ms, deviation of the logarithm, and from how near it was known."""

    row: Row
    ms: float
    deviation: float
    known_from: str

    @property
    def off(self) -> float:
        """How many deviations the measurement lies away."""
        assert self.row.ms is not None
        return abs(float(np.log(self.row.ms / self.ms))) / self.deviation

    @property
    def error(self) -> float:
        """As a fraction of the measurement."""
        assert self.row.ms is not None
        return abs(self.ms / self.row.ms - 1)


@dataclass(frozen=True)
class Kind:
    """What makes platforms comparable."""

    core: str
    runtime: str
    version: str

    @property
    def units(self) -> str:
        """Arithmetic units: two 16-bit MACs at once ("dsp"), "vector", or one by one, where cores have little in common."""
        if self.core in DSP_CORES and self.core != "Cortex-M0+":
            return "dsp"
        return "vector" if any(part in self.core for part in _VECTOR) else self.core


def usable(rows: Sequence[Row], work: Mapping[str, np.ndarray]) -> list[Row]:
    """CPU rows with a time and a clock, of models that are here; a figure that is listed twice counts once a source."""
    return [row for row in rows if row.kind == "cpu" and row.file in work and row.ms and row.clock_mhz]


def costs(rows: Sequence[Row], work: Mapping[str, np.ndarray]) -> dict[Platform, tuple[Kind, Cost]]:
    """One fitted cost per platform."""
    groups: dict[Platform, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.platform].append(row)
    fitted = {}
    for platform, found in groups.items():
        core = found[0].core
        cost = fit(expectation(core), np.array([work[row.file] for row in found]), [row.cycles for row in found])
        fitted[platform] = Kind(core, found[0].runtime, found[0].version), cost
    return fitted


def from_relatives(kind: Kind, fitted: Mapping[Platform, tuple[Kind, Cost]]) -> tuple[Cost, str]:
    """The cost of a platform without rows, made from its nearest relatives -> it, and what they share."""
    found = ((shared, deviation, _sharing(kind, shared, fitted)) for shared, deviation in _RELATIVES)
    shared, deviation, near = next((one for one in found if one[2]), ((), 0.0, []))
    if not near:
        return expectation(kind.core), "nothing"
    if "version" not in shared:  # of other versions the nearest
        apart = [abs(_number(k.version) - _number(kind.version)) for k, _ in near]
        near = [one for one, gap in zip(near, apart) if gap == min(apart)]
    if kind.units == "vector":
        deviation *= 2  # one vector unit is not the other
    logs = np.array([cost.log_cycles + _faster(k.core, kind.core) for k, cost in near])
    covariance = np.mean([cost.covariance for _, cost in near], axis=0)
    between = np.full(covariance.shape, deviation**2) + np.diag(np.full(len(covariance), deviation**2))
    return Cost(logs.mean(0), covariance + between), " + ".join(shared) or "nothing"


def _sharing(
    kind: Kind, shared: Sequence[str], fitted: Mapping[Platform, tuple[Kind, Cost]]
) -> list[tuple[Kind, Cost]]:
    return [(k, c) for k, c in fitted.values() if all(getattr(k, key) == getattr(kind, key) for key in shared)]


def _faster(core: str, other: str) -> float:
    """Logarithm of the cycles that `other` takes over those of `core`."""
    if core == other or core not in _COREMARK or other not in _COREMARK:
        return 0.0
    return float(np.log(_COREMARK[core] / _COREMARK[other]))


def _number(version: str) -> float:
    return float(version) if version else 0.0


def by_family(rows: Sequence[Row], work: Mapping[str, np.ndarray], others: Sequence[Row] = ()) -> list[Guess]:
    """Each row from its platform's rows of other architectures. others: rows to learn from, too, but not to judge."""
    return _by(rows, others, work, "family")


def by_board(rows: Sequence[Row], work: Mapping[str, np.ndarray], others: Sequence[Row] = ()) -> list[Guess]:
    """Each row from other boards alone."""
    return _by(rows, others, work, "board")


def _by(rows: Sequence[Row], others: Sequence[Row], work: Mapping[str, np.ndarray], key: str) -> list[Guess]:
    guesses = []
    for value in sorted({getattr(row, key) for row in rows}):
        fitted = costs([row for row in (*rows, *others) if getattr(row, key) != value], work)
        for row in (row for row in rows if getattr(row, key) == value):
            if row.platform in fitted:
                cost, near = fitted[row.platform][1], "itself"
            else:
                cost, near = from_relatives(Kind(row.core, row.runtime, row.version), fitted)
            assert row.clock_mhz is not None
            ms = cost.cycles(work[row.file]) / (row.clock_mhz * 1e3)
            guesses.append(Guess(row, ms, cost.deviation(work[row.file]), near))
    return guesses
