"""Temperatures and thresholds from traces: pure fitting, no files.

A known sound should be reported, and three things should not: a class that is not there while another is (wrong), any
class while a sound is to be heard whose class was left out of the nets (unknown), and any class in an empty room.
Unknown is optimistic: nets that learned a class keep its sounds apart from others even where its output is removed. Nets
trained without one class reported twice as many of its recordings at the same thresholds (LOG.md).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.traces import Trace, decisions
from runtime import fusion
from runtime.bundle import Bundle
from runtime.events import SAME_S, Detector
from runtime.labels import Label
from runtime.rules import Rules
from runtime.score import match, tolerance

TEMPERATURES = np.geomspace(0.25, 8, 61)  # 6 % apart: the log loss is flat around its lowest
PRICES = np.geomspace(0.05, 20, 60)  # known sounds that a false alarm is worth
OFF = 0.5  # of `on`: measured in LOG.md
LOWEST_ON = 0.3  # fewer recordings than classes have ways to be wrong: no class is reported at less


def log_loss(log_p: np.ndarray, truth: np.ndarray) -> float:
    """(clips, classes), (clips,) -> mean over clips."""
    return float(-log_p[np.arange(len(truth)), truth].mean())


def clip_means(traces: Sequence[Trace], bundle: Bundle, i: int, temperature: float) -> np.ndarray:
    """(clips, classes) of the bundle's member i: its over_patches of each clip, of all clips at once."""
    n_patches = np.array([len(trace.clip_log_p[i]) for trace in traces])
    log_p = fusion.log_softmax(np.concatenate([trace.clip_log_p[i] for trace in traces]), temperature)
    weight = fusion.weights(log_p, bundle.members[i].patch.certainty)[:, None]
    starts = np.cumsum(n_patches) - n_patches
    sums = np.add.reduceat(weight * np.exp(log_p), starts)
    return np.log(np.maximum(sums / np.add.reduceat(weight, starts), fusion.TINY))


def fused(members: Sequence[np.ndarray], fuse: str) -> np.ndarray:
    """Per member (clips, classes) -> (clips, classes)."""
    return fusion.FUSIONS[fuse](np.stack(members))


def truth_of(traces: Sequence[Trace], labels: Sequence[str]) -> np.ndarray:
    return np.array([list(labels).index(trace.label) for trace in traces])


def fit_temperatures(traces: Sequence[Trace], bundle: Bundle) -> tuple[list[float], float]:
    """-> each member's own temperature, of the lowest log loss of its clip means, and the factor common to all.

    Three calibrated nets that hear the same clip are no three independent witnesses: their product is overconfident,
    until each is softened by the factor.
    """
    known = [trace for trace in traces if trace.label]
    truth = truth_of(known, bundle.labels)
    own = []
    for i in range(len(bundle.members)):
        losses = [log_loss(clip_means(known, bundle, i, t), truth) for t in TEMPERATURES]
        own.append(float(TEMPERATURES[int(np.argmin(losses))]))
    losses = []
    for factor in TEMPERATURES:
        members = [clip_means(known, bundle, i, factor * t) for i, t in enumerate(own)]
        losses.append(log_loss(fused(members, bundle.fuse), truth))
    return own, float(TEMPERATURES[int(np.argmin(losses))])


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Highest smoothed probability of each class while it counts. known: (own recordings,) per class; nan: not this class.

    known, wrong, unknown: (recordings, classes); room: (rooms, classes).
    """

    known: np.ndarray
    wrong: np.ndarray
    unknown: np.ndarray
    room: np.ndarray


def peaks(traces: Sequence[Trace], bundle: Bundle, temperatures: Sequence[float], smooth_s: float = 0.0) -> Peaks:
    """The traces as what thresholds are fitted on."""
    known, wrong, unknown, room = [], [], [], []
    for trace in traces:
        at_s, p = _smoothed(trace, bundle, temperatures, smooth_s)
        if not trace.label:
            room.append(p.max(0))
            continue
        own = np.array([label == trace.label for label in bundle.labels])
        in_time = (at_s >= trace.onset_s) & (at_s <= trace.offset_s + tolerance(bundle.window_s))
        known.append(np.where(own, p[in_time].max(0), np.nan))
        wrong.append(np.where(own, np.nan, p[at_s >= trace.onset_s].max(0)))
        _, p = _smoothed(trace, bundle, temperatures, smooth_s, trace.label)
        unknown.append(np.where(own, np.nan, p[at_s >= trace.onset_s].max(0)))
    return Peaks(*(np.array(rows).reshape(-1, len(bundle.labels)) for rows in (known, wrong, unknown, room)))


def _smoothed(
    trace: Trace, bundle: Bundle, temperatures: Sequence[float], smooth_s: float, left_out: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """-> (decisions,) seconds and (decisions, classes) probabilities, averaged as runtime.events does."""
    made = decisions(trace, bundle, temperatures, left_out)
    at_s = np.array([d.end_s for d in made])
    p = np.array([[d.scores[label] for label in bundle.labels] for d in made])
    recent = [(at_s > now - smooth_s + SAME_S) & (at_s <= now) | (at_s == now) for now in at_s]
    return at_s, np.array([p[chosen].mean(0) for chosen in recent])


def fit_on(found: Peaks, target: float) -> np.ndarray:
    """-> (classes,) thresholds with the most known sounds reported while at most `target` of the unknown ones are.

    A false alarm of any kind has one price for all classes, in known sounds; the price rises until the target is met. So
    classes that are mistaken often pay with recall where it buys most.
    """
    for price in PRICES:
        on = np.array([_best_on(found, i, price) for i in range(found.known.shape[1])])
        if (found.unknown >= on).any(1).mean() <= target:
            return on
    raise ValueError(f"no thresholds keep false alarms on unknown sounds within {target:.0%}: allow more")


def _best_on(found: Peaks, i: int, price: float) -> float:
    known = found.known[:, i][~np.isnan(found.known[:, i])]
    false = np.concatenate([found.wrong[:, i], found.unknown[:, i], found.room[:, i]])
    false = false[~np.isnan(false)]
    seen = np.unique(np.concatenate([known, false, [1.0]]))
    between = (seen[1:] + seen[:-1]) / 2  # with a margin to what was seen
    chosen = np.concatenate(
        [[1.0], between[between > LOWEST_ON][::-1], [LOWEST_ON]]
    )  # of equals, argmax takes the first
    gain = [(known >= on).sum() - price * (false >= on).sum() for on in chosen]
    return float(chosen[int(np.argmax(gain))])


def rules_of(on: np.ndarray, labels: Sequence[str], smooth_s: float = 0.0) -> Rules:
    """(classes,) thresholds -> Rules, to three digits."""
    rounded = {label: round(float(p), 3) for label, p in zip(labels, on)}
    return Rules(rounded, {label: round(OFF * p, 3) for label, p in rounded.items()}, smooth_s)


def measure(traces: Sequence[Trace], bundle: Bundle, temperatures: Sequence[float], rules: Rules) -> dict[str, Any]:
    """Counts of what rules do with traces, through the Detector that a stream runs.

    known, unknown: recordings; hits; wrong: false alarms while known sounds are to be heard; unknown_reported: recordings
    of left-out classes with any report; room_s, room_reports: empty rooms. per_class: label -> sounds, hits, false.
    """
    per_class = {label: {"sounds": 0, "hits": 0, "false_alarms": 0} for label in bundle.labels}
    total = dict.fromkeys(("hits", "wrong", "unknown_reported", "room_reports", "known", "room_s"), 0.0)
    for trace in traces:
        began = _reports(trace, bundle, temperatures, rules)
        false = [event.label for event in began if event.label != trace.label]
        if trace.label:
            label = Label(trace.onset_s, trace.offset_s, trace.label)
            hits = match(began, [label], tolerance(bundle.window_s))["hits"]
            stranger = _reports(trace, bundle, temperatures, rules, trace.label)
            total["known"] += 1
            total["hits"] += hits
            total["wrong"] += len(false)
            total["unknown_reported"] += bool(stranger)
            per_class[trace.label]["sounds"] += 1
            per_class[trace.label]["hits"] += hits
            false += [event.label for event in stranger]
        else:
            total["room_reports"] += len(began)
            total["room_s"] += trace.duration_s
        for name in false:
            per_class[name]["false_alarms"] += 1
    return total | {"per_class": per_class}


def _reports(
    trace: Trace, bundle: Bundle, temperatures: Sequence[float], rules: Rules, left_out: str = ""
) -> list[Any]:
    detector = Detector(bundle.labels, rules)
    made = decisions(trace, bundle, temperatures, left_out)
    return [event for decision in made for event in detector.feed(decision) if event.end_s is None]


def summed(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Results of `measure` of several parts, together."""
    total: dict[str, Any] = {key: sum(c[key] for c in counts) for key in counts[0] if key != "per_class"}
    total["per_class"] = {
        label: {key: sum(c["per_class"][label][key] for c in counts) for key in row}
        for label, row in counts[0]["per_class"].items()
    }
    return total
