"""One board with its runtime and version, from a .toml beside this file: does a net fit it, how long may it take."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from devices.cost import Cost
from devices.work import CLASSES

FOLDER = Path(__file__).parent
DEFAULTS = ("pi-zero-2w", "pi-4", "stm32h7", "stm32u5", "esp32-s3")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A board, the software that runs the net on it, and what published measurements say about the pair.

    ram_kib: the largest contiguous block; ram_total_kib: all of it. ram_factor: [low, high] RAM of this runtime over the
    planned activations. runtime_*_kib: what the runtime itself takes, 0 where unknown. measured: whether `source`
    measured this board; otherwise the cost comes from its relatives and the interval is wider. rows_board: the board's
    name among the published rows, "" for none. cost: cycles, for int8 nets on one core; None: no estimate.
    """

    name: str  # the file's stem
    board: str
    core: str
    runtime: str
    version: str
    clock_mhz: float
    flash_kib: int
    ram_kib: int
    ram_total_kib: int
    runtime_flash_kib: int
    runtime_ram_kib: int
    ram_factor: tuple[float, float]
    measured: bool
    rows_board: str
    source: str
    links: tuple[str, ...]
    cost: Cost | None = None
    known_from: str = "nothing"

    def latency_ms(self, work: np.ndarray) -> tuple[float, float] | None:
        """(7,) work -> [low, high] ms, int8, one core; nine of ten measurements are expected inside."""
        if self.cost is None:
            return None
        low, high = (cycles / (self.clock_mhz * 1e3) for cycles in self.cost.interval(work))
        return low, high

    def likely_ms(self, work: np.ndarray) -> float | None:
        """(7,) work -> the likeliest ms, int8, one core."""
        return None if self.cost is None else self.cost.cycles(work) / (self.clock_mhz * 1e3)

    def ram_interval_kib(self, planned_bytes: int) -> tuple[float, float]:
        """Planned activations -> [low, high] KiB with this runtime, its own state included."""
        low, high = (planned_bytes / 1024 * factor + self.runtime_ram_kib for factor in self.ram_factor)
        return low, high

    def fit(
        self, flash_bytes: int, planned_bytes: int, buffer_bytes: int = 0, duty: tuple[float, float] | None = None
    ) -> tuple[str, str]:
        """-> ("fits" | "may fit" | "does not fit", why: what is short, then each need in KiB and in % of real time).

        flash_bytes: model files and front-end tables. buffer_bytes: RAM beside the activations, anywhere. duty: [low,
        high] seconds of work per second of audio.
        """
        flash = flash_bytes / 1024 + self.runtime_flash_kib
        low, high = self.ram_interval_kib(planned_bytes)
        more = buffer_bytes / 1024
        whole = self.ram_total_kib if more else self.ram_kib
        needs = f"flash {flash:,.0f} of {self.flash_kib:,} KiB, RAM {_span(low, high)} of {self.ram_kib:,} KiB"
        needs += f" contiguous, {_span(low + more, high + more)} of {whole:,} KiB in all" if more else ""
        needs += f", time {_span(100 * duty[0], 100 * duty[1])} % of real time" if duty else ""
        checks = {
            "flash": (flash / self.flash_kib,) * 2,
            "RAM": (max(low / self.ram_kib, (low + more) / whole), max(high / self.ram_kib, (high + more) / whole)),
            "time": duty or (0.0, 0.0),
        }
        short = [what for what, (least, _) in checks.items() if least > 1]
        if short:
            return "does not fit", f"not enough {' and '.join(short)}: {needs}"
        doubtful = [what for what, (_, most) in checks.items() if most > 1]
        return ("may fit", f"{' and '.join(doubtful)} may not suffice: {needs}") if doubtful else ("fits", needs)


def _span(low: float, high: float) -> str:
    texts = [f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in (low, high)]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


# Bounds that catch a wrong unit: (smallest, largest) of each number.
_RANGES = {
    "clock_mhz": (1, 10_000),
    "flash_kib": (1, 2**30),
    "ram_kib": (1, 2**30),
    "ram_total_kib": (1, 2**30),
    "runtime_flash_kib": (0, 2**30),
    "runtime_ram_kib": (0, 2**30),
    "ram_factor": (0.01, 100),
}
_MAY_BE_EMPTY = ("rows_board",)


def names() -> list[str]:
    """The boards that have a profile."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Profile:
    """-> the profile of this name, or of a .toml file elsewhere. Raises ValueError naming the known ones or a bad key."""
    path = path_of(name)
    try:
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: no TOML ({type(error).__name__})") from None


def path_of(name: str) -> Path:
    """A profile's name or .toml file -> its file. Raises ValueError where there is none."""
    if name in names():
        return FOLDER / f"{name}.toml"
    if not name.endswith(".toml"):
        raise ValueError(f"unknown device {name!r}: a .toml file, or one of {', '.join(names())}")
    if not Path(name).is_file():
        raise ValueError(f"{name}: no such file; a profile that ships goes by its name alone, such as {names()[0]}")
    return Path(name)


def parse(name: str, text: str) -> Profile:
    """TOML text -> Profile. Raises ValueError naming what is missing, unknown, of the wrong type or out of range."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name}.toml: {error}") from None
    cost = _cost(name, values.pop("cost")) if "cost" in values else {}
    wanted = {field.name for field in fields(Profile)} - {"name", "cost", "known_from"}
    for problem, keys in (("unknown", values.keys() - wanted), ("missing", wanted - values.keys())):
        if keys:
            raise ValueError(f"{name}.toml: {problem} key {', '.join(sorted(keys))}")
    return Profile(name=name, **{key: _checked(name, key, values) for key in wanted}, **cost)


def table(cost: Cost, known_from: str, command: str) -> str:
    """The [cost] table as TOML text, for the end of a profile."""
    cycles = ", ".join(f"{x:.4g}" for x in np.exp(cost.log_cycles))
    rows = ",\n  ".join(str([round(float(x), 4) for x in row]) for row in cost.covariance)
    return (
        f"\n[cost]  # cycles per {', '.join(CLASSES)}; covariance of their logarithms\n"
        f"# written by python -m {command}\n"
        f"known_from = {json.dumps(known_from, ensure_ascii=False)}\ncycles = [{cycles}]\ncovariance = [\n  {rows},\n]\n"
    )


def _cost(name: str, values: Any) -> dict[str, Any]:
    """The [cost] table -> keyword arguments. The covariance must be one, or the intervals mean nothing."""
    n = len(CLASSES)
    try:
        cycles, covariance = np.array(values["cycles"], float), np.array(values["covariance"], float)
        known_from = str(values["known_from"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}.toml: [cost] needs known_from, cycles and covariance ({error})") from None
    if cycles.shape != (n,) or covariance.shape != (n, n) or not np.isfinite(covariance).all():
        raise ValueError(f"{name}.toml: [cost] wants {n} cycles and a covariance of {n} x {n} numbers")
    if not (np.isfinite(cycles) & (cycles > 0)).all():
        raise ValueError(f"{name}.toml: [cost] cycles must be positive")
    if not np.allclose(covariance, covariance.T, atol=1e-6) or np.linalg.eigvalsh(covariance).min() < -1e-3:
        raise ValueError(f"{name}.toml: [cost] covariance is not one: symmetric, no negative variance")
    return {"cost": Cost(np.log(cycles), covariance), "known_from": known_from}


def _checked(name: str, key: str, values: Mapping[str, Any]) -> Any:
    value = values[key]
    where = f"{name}.toml: {key} = {value!r}"
    if key == "links":
        if not isinstance(value, list) or not all(isinstance(link, str) for link in value):
            raise ValueError(f"{where} must be a list of texts")
        return tuple(value)
    if key not in _RANGES:
        if type(value) is not (bool if key == "measured" else str) or (value == "" and key not in _MAY_BE_EMPTY):
            raise ValueError(f"{where} must be {'true or false' if key == 'measured' else 'a text'}")
        return value
    pair = key == "ram_factor"
    numbers = value if pair and isinstance(value, list) else [value]
    if len(numbers) != (2 if pair else 1) or any(type(n) not in (int, float) for n in numbers):
        raise ValueError(f"{where} must be {'two numbers, [low, high]' if pair else 'a number'}")
    low, high = _RANGES[key]
    if not all(isfinite(n) and low <= n <= high for n in numbers) or sorted(numbers) != numbers:
        raise ValueError(f"{where} must lie in {low} .. {high}{', low first' if pair else ''}")
    return tuple(map(float, numbers)) if pair else value
