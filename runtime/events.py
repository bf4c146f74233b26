"""Decisions to events: which class was heard, from when to when, or nothing known.

    detector = Detector(bundle.labels, bundle.rules)
    for decision in live.feed(block):
        for event in detector.feed(decision):
            print(event.to_json())

A class is on from the decision at which its smoothed probability reaches `on` until it falls below `off`. Time is the
stream's own, in samples over its rate: a replayed file gives the events of the live stream.
"""

import dataclasses
import json
from collections import deque
from collections.abc import Mapping, Sequence

from runtime.decide import Decision
from runtime.rules import MAX_S, Rules

SAME_S = 1e-6  # times that differ by less are one: tenths of a second are not exact


@dataclasses.dataclass(frozen=True)
class Event:
    """One class from start_s on, in seconds of the stream; end_s is None while it lasts, and then it is reported again.

    at_s: the decision that reported it. p: highest smoothed probability so far. time: the clock's, ISO 8601 in UTC, where
    the stream is live; file: the recording's name, where it is one. faults: what was lost or wrong since the stream began,
    see runtime.faults; empty if nothing was.
    """

    label: str
    start_s: float
    end_s: float | None
    at_s: float
    p: float
    time: str | None = None
    file: str | None = None
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self) | {"p": round(self.p, 6)})


class Detector:
    """Decisions in, events out."""

    def __init__(self, labels: Sequence[str], rules: Rules | None = None) -> None:
        self.labels, self.rules = tuple(labels), rules or Rules.default(labels)
        self.reset()

    def reset(self) -> None:
        """Forget everything, open events included."""
        self._recent: deque[Decision] = deque()
        self._open: dict[str, Event] = {}  # on, reported or not yet
        self._reported: set[str] = set()
        self._ended_s: dict[str, float] = {}

    @property
    def heard(self) -> list[str]:
        """Labels of the events that last now, the surest first; none: nothing known."""
        return sorted(self._reported, key=lambda label: -self._open[label].p)

    def feed(self, decision: Decision) -> list[Event]:
        """The next decision -> the events that it begins or ends."""
        smoothed = self._smooth(decision)
        now, events = decision.end_s, []
        for label, on in self.rules.on.items():
            p = smoothed[label]
            if label in self._open:
                events += self._go_on(label, p, now) if p and p >= self.rules.off[label] else self._end(label, now)
            elif p and p >= on and now - self._ended_s.get(label, -MAX_S) + SAME_S >= self.rules.cooldown_s:
                self._open[label] = Event(label, now, None, now, p)
                events += self._go_on(label, p, now)
        return events

    def flush(self) -> list[Event]:
        """-> the ends of the events that last, at the last decision; then starts anew."""
        now = self._recent[-1].end_s if self._recent else 0.0
        events = [event for label in list(self._open) for event in self._end(label, now)]
        self.reset()
        return events

    def _smooth(self, decision: Decision) -> dict[str, float]:
        """-> mean probabilities; digital silence is nothing, whatever the nets make of it."""
        self._recent.append(decision)
        while len(self._recent) > 1 and self._recent[0].end_s <= decision.end_s - self.rules.smooth_s + SAME_S:
            self._recent.popleft()
        heard = [d for d in self._recent if not d.silent]
        return {label: sum(d.scores[label] for d in heard) / len(self._recent) for label in decision.scores}

    def _go_on(self, label: str, p: float, now: float) -> list[Event]:
        event = self._open[label]
        self._open[label] = event = dataclasses.replace(event, p=max(p, event.p), at_s=now)
        if label in self._reported or now - event.start_s + SAME_S < self.rules.min_s:
            return []
        self._reported.add(label)
        return [event]

    def _end(self, label: str, now: float) -> list[Event]:
        event = self._open.pop(label)
        if label not in self._reported:
            return []
        self._reported.remove(label)
        self._ended_s[label] = now
        return [dataclasses.replace(event, end_s=now, at_s=now)]
