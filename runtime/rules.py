"""When decisions become events. Stored in a bundle, learned by `python -m export.rules`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.values import is_number, number

MAX_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Rules:
    """When decisions become events. `on`, `off`: label -> probability 0..1, off at most on; a label that is not in `on` is
    never reported.

    smooth_s    probabilities are averaged over the decisions of so many seconds; 0 takes each as it is
    min_s       an event is reported once its class was on for so long
    cooldown_s  after its end a class stays silent for so long
    """

    on: Mapping[str, float]
    off: Mapping[str, float]
    smooth_s: float = 0.0
    min_s: float = 0.0
    cooldown_s: float = 0.0

    def __post_init__(self) -> None:
        if set(self.on) != set(self.off):
            raise ValueError("rules: on and off do not name the same labels")
        for label, on in self.on.items():
            off = self.off[label]
            if not is_number(on, 0, 1) or not is_number(off, 0, on):
                raise ValueError(f"rules: {label!r} on {on!r}, off {off!r}: wanted 0 <= off <= on <= 1")
        for name in ("smooth_s", "min_s", "cooldown_s"):
            number(f"rules: {name}", getattr(self, name), 0, MAX_S)

    @classmethod
    def default(cls, labels: Sequence[str]) -> "Rules":
        """For a bundle whose thresholds nobody has learned."""
        return cls(dict.fromkeys(labels, 0.6), dict.fromkeys(labels, 0.4))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, labels: Sequence[str]) -> "Rules":
        """Inverse of `to_json`. Raises ValueError for what is no rules of these labels."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or not {"on", "off"} <= set(values) <= known:
            raise ValueError(f"rules are an object with on, off and some of {sorted(known - {'on', 'off'})}")
        if not all(isinstance(values[key], Mapping) for key in ("on", "off")):
            raise ValueError("rules: on and off are objects, label to probability")
        strangers = set(values["on"]) - set(labels)
        if strangers:
            raise ValueError(f"rules: {sorted(strangers)[0]!r} is no label of this bundle")
        return cls(**values)
