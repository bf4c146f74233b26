"""The levels a bundle was trained on. Stored in it, learned by `python -m export.rules`.

The dB reference is fixed: a microphone much quieter than the training recordings gives the nets what they never saw.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_DB = 300.0  # float32 samples cannot leave it


@dataclasses.dataclass(frozen=True)
class Levels:
    """Per band of one member's front end, in dB: what 5, 50 and 95 % of the training recordings do not exceed.

    A recording's level in a band is the 95th percentile over its frames: how loud its sound is, whatever silence follows.
    """

    member: str
    low_db: tuple[float, ...]
    mid_db: tuple[float, ...]
    high_db: tuple[float, ...]

    def __post_init__(self) -> None:
        low, mid, high = (self._checked(name) for name in ("low_db", "mid_db", "high_db"))
        if not len(low) == len(mid) == len(high) or not ((low <= mid) & (mid <= high)).all():
            raise ValueError("levels: low_db, mid_db, high_db are not of one length and in rising order in every band")

    def _checked(self, name: str) -> np.ndarray:
        for value in getattr(self, name):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_DB:
                raise ValueError(f"levels: {name} holds {value!r}, wanted numbers within +-{MAX_DB:.0f} dB")
        return np.array(getattr(self, name), np.float64)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, n_bands: Mapping[str, int]) -> "Levels":
        """Inverse of `to_json`; n_bands: the bundle's members -> their bands. Raises ValueError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or set(values) != known:
            raise ValueError(f"levels are an object with {', '.join(sorted(known))}")
        member = values["member"]
        if not isinstance(member, str) or member not in n_bands:
            raise ValueError(f"levels: {member!r} is no member of this bundle")
        tables = {name: values[name] for name in known - {"member"}}
        for name, table in tables.items():
            if not isinstance(table, list) or len(table) != n_bands[member]:
                raise ValueError(f"levels: {name} is no list of {n_bands[member]} numbers, one per band of {member}")
        return cls(member, **{name: tuple(table) for name, table in tables.items()})
