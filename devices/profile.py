"""One board with its runtime and version, from a .toml beside this file: does a net fit it, how long may it take."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DEFAULTS = ("pi-zero-2w", "pi-4", "stm32h7", "stm32u5", "esp32-s3")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A board, the software that runs the net on it, and what published measurements say about the pair.

    cycles_per_mac: [low, high] for int8 nets on one core. ram_factor: [low, high] RAM of this runtime over the
    layer-by-layer peak. ram_kib: the largest contiguous block. runtime_*_kib: what the runtime itself takes, 0 where
    unknown.
    measured: whether `source` measured this board; otherwise it is a relative and the interval is wider.
    """

    name: str  # the file's stem
    board: str
    core: str
    runtime: str
    version: str
    clock_mhz: float
    flash_kib: int
    ram_kib: int
    runtime_flash_kib: int
    runtime_ram_kib: int
    ram_factor: tuple[float, float]
    cycles_per_mac: tuple[float, float]
    measured: bool
    source: str

    def latency_ms(self, macs: int) -> tuple[float, float]:
        """[low, high] ms of one inference with this many MACs, int8, one core."""
        low, high = (macs * cycles / (self.clock_mhz * 1e3) for cycles in self.cycles_per_mac)
        return low, high

    def fit(self, flash_bytes: int, peak_activation_bytes: int) -> tuple[str, str]:
        """-> ("fits" | "may fit" | "does not fit", why, in KiB). flash_bytes: model files and front-end tables."""
        flash = flash_bytes / 1024 + self.runtime_flash_kib
        low, high = (peak_activation_bytes / 1024 * factor + self.runtime_ram_kib for factor in self.ram_factor)
        ram = f"{high:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
        why = f"flash {flash:,.0f} of {self.flash_kib:,} KiB, RAM {ram} of {self.ram_kib:,} KiB"
        if flash > self.flash_kib or low > self.ram_kib:
            return "does not fit", why
        return ("fits" if high <= self.ram_kib else "may fit"), why


# Bounds that catch a wrong unit: (smallest, largest) of each number.
_RANGES = {
    "clock_mhz": (1, 10_000),
    "flash_kib": (1, 2**30),
    "ram_kib": (1, 2**30),
    "runtime_flash_kib": (0, 2**30),
    "runtime_ram_kib": (0, 2**30),
    "ram_factor": (0.01, 100),
    "cycles_per_mac": (0.001, 1000),
}


def names() -> list[str]:
    """The boards that have a profile."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Profile:
    """-> the profile of this name. Raises ValueError naming the known ones, or the key that is wrong in the file."""
    if name not in names():
        raise ValueError(f"unknown device {name!r}: one of {', '.join(names())}")
    return parse(name, (FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Profile:
    """TOML text -> Profile. Raises ValueError naming what is missing, unknown, of the wrong type or out of range."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name}.toml: {error}") from None
    wanted = {field.name: field.type for field in fields(Profile) if field.name != "name"}
    for problem, keys in (("unknown", values.keys() - wanted), ("missing", wanted.keys() - values)):
        if keys:
            raise ValueError(f"{name}.toml: {problem} key {', '.join(sorted(keys))}")
    return Profile(name=name, **{key: _checked(name, key, values) for key in wanted})


def _checked(name: str, key: str, values: Mapping[str, Any]) -> Any:
    value = values[key]
    where = f"{name}.toml: {key} = {value!r}"
    if key not in _RANGES:
        if type(value) is not (bool if key == "measured" else str) or value == "":
            raise ValueError(f"{where} must be {'true or false' if key == 'measured' else 'a text'}")
        return value
    pair = key in ("ram_factor", "cycles_per_mac")
    numbers = value if pair and isinstance(value, list) else [value]
    if len(numbers) != (2 if pair else 1) or any(type(n) not in (int, float) for n in numbers):
        raise ValueError(f"{where} must be {'two numbers, [low, high]' if pair else 'a number'}")
    low, high = _RANGES[key]
    if not all(isfinite(n) and low <= n <= high for n in numbers) or sorted(numbers) != numbers:
        raise ValueError(f"{where} must lie in {low} .. {high}{', low first' if pair else ''}")
    return tuple(map(float, numbers)) if pair else value
