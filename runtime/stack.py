"""Several front ends that one net hears together: P2's early, middle and late fusion, P0's features."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from runtime.frontend import Frontend

MAX_FRONTENDS = 16


@dataclasses.dataclass(frozen=True)
class Stack:
    """Front ends of one rate and hop, their bands above each other. It stands where a Frontend stands.

    Raises ValueError.
    """

    frontends: tuple[Frontend, ...]
    kind: ClassVar[str] = "stack"

    def __post_init__(self) -> None:
        if not 1 <= len(self.frontends) <= MAX_FRONTENDS:
            raise ValueError(f"{len(self.frontends)} front ends: one net hears 1 to {MAX_FRONTENDS}")
        if len({(f.sr, f.hop_length) for f in self.frontends}) != 1:
            hops = ", ".join(f"{f.kind} {f.hop_length} at {f.sr} Hz" for f in self.frontends)
            raise ValueError(f"hops of {hops}: front ends that one net hears together need the same, see --hop-length")

    @property
    def n_bands(self) -> int:
        return sum(self.bands)

    @property
    def bands(self) -> list[int]:
        """Of each front end, in the order in which they lie above each other."""
        return [f.n_bands for f in self.frontends]

    @property
    def hop_length(self) -> int:
        return self.frontends[0].hop_length

    @property
    def sr(self) -> int:
        return self.frontends[0].sr

    def to_json(self) -> dict[str, Any]:
        return {"stack": [f.to_json() for f in self.frontends]}


def frontend_from_json(values: Any) -> Frontend | Stack:
    """Inverse of to_json of a Frontend or a Stack. Raises ValueError."""
    if isinstance(values, Mapping) and set(values) == {"stack"}:
        if not isinstance(values["stack"], list):
            raise ValueError(f"a stack is a list of front ends, not {values['stack']!r:.200}")
        return Stack(tuple(Frontend.from_json(f) for f in values["stack"]))
    return Frontend.from_json(values)
