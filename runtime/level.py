"""The levels a bundle was trained on. Stored in it, learned by `python -m export.rules`.

The front ends' dB reference is fixed: a microphone much quieter than the training recordings gives the nets what they never
saw. Nets whose patches are relative (runtime.patches) bear it down to their quietest_db.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.frontend import Frontend
from runtime.values import is_number

CLIP_S = 5.0  # the training recordings' usual length
MEMORY_CLIPS = 12  # a minute
PERCENTILE = 95
MAX_DB = 300.0  # float32 samples cannot leave it


@dataclasses.dataclass(frozen=True)
class Levels:
    """Per band of one member's front end, in dB: the quietest the nets bear, and what 50 and 95 % of the training
    recordings do not exceed. Without relative patches the quietest is what 5 % do not exceed.

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
            if not is_number(value, -MAX_DB, MAX_DB):
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


def clip_level(static: np.ndarray) -> np.ndarray:
    """(bands, frames) in dB -> (bands,) a recording's level in each band."""
    return np.percentile(static, PERCENTILE, axis=1)


class LevelWatch:
    """A stream's levels over the last minute against those of the training recordings."""

    def __init__(self, levels: Levels, frontend: Frontend) -> None:
        self.levels, self.frontend = levels, frontend
        self.source_sr = frontend.sr  # bands above what a source of that rate can hold do not count
        self._n_frames = round(CLIP_S * frontend.sr / frontend.hop_length)
        self._heard: list[np.ndarray] = []
        self._n_heard = 0
        self._clips: deque[np.ndarray] = deque(maxlen=MEMORY_CLIPS)
        self._said = ""

    def feed(self, static: np.ndarray) -> None:
        """(bands, new frames) of the member that the levels name"""
        self._heard.append(static)
        self._n_heard += static.shape[1]
        if self._n_heard >= self._n_frames:
            self._clips.append(clip_level(np.concatenate(self._heard, axis=1)))
            self._heard, self._n_heard = [], 0

    def gain_db(self) -> float | None:
        """0 where the nets bear the last minute's level, else what takes it to the training recordings' middle.

        By the loudest five seconds, band by band, in half of the bands. None before five seconds.
        """
        if not self._clips:
            return None
        if self._above_db() <= 0 and self._below_db() <= 0:
            return 0.0
        return self._median(self.levels.mid_db - self._loudest())

    def warning(self) -> str:
        """What is wrong with the level, once; "" if nothing is, or it was said before."""
        too_loud_db = self._above_db() if self._clips else 0.0
        too_quiet_db = self._below_db() if self._is_full() else 0.0
        if max(too_loud_db, too_quiet_db) <= 0:
            return ""
        how = "loud" if too_loud_db > 0 else "quiet"
        if how == self._said:
            return ""
        self._said = how
        if how == "loud":
            db = math.ceil(too_loud_db)
            return f"{db} dB louder than nearly all training recordings: move back, or lower --gain-db by {db}"
        return (
            f"for a minute {math.ceil(too_quiet_db)} dB quieter than the nets have learned to hear: "
            "unless nothing sounded, come closer or see --calibrate"
        )

    def _above_db(self) -> float:
        return self._median(self._loudest() - self.levels.high_db)

    def _below_db(self) -> float:
        return self._median(self.levels.low_db - self._loudest())

    def _median(self, per_band_db: np.ndarray) -> float:
        n = len(per_band_db) - self.frontend.n_above(self.source_sr)
        return float(np.median(per_band_db[: max(1, n)]))

    def _is_full(self) -> bool:
        return len(self._clips) == MEMORY_CLIPS

    def _loudest(self) -> np.ndarray:
        return np.max(self._clips, axis=0)
