"""Rules fitted on all traces, and figures for them: each part of the traces measured with what was fitted on the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.thresholds import (
    clip_means,
    fit_on,
    fit_temperatures,
    fused,
    log_loss,
    measure,
    peaks,
    rules_of,
    summed,
    truth_of,
)
from export.traces import Trace
from runtime.bundle import Bundle
from runtime.rules import Rules


def fit(traces: Sequence[Trace], bundle: Bundle, target: float) -> tuple[list[float], float, Rules]:
    """-> the members' temperatures, the factor that they have in common, rules."""
    own, factor = fit_temperatures(traces, bundle)
    temperatures = [round(factor * t, 3) for t in own]
    return temperatures, factor, rules_of(fit_on(peaks(traces, bundle, temperatures), target), bundle.labels)


def learn(traces: Sequence[Trace], bundle: Bundle, target: float) -> tuple[list[float], Rules, dict[str, Any]]:
    """-> temperatures and rules fitted on all traces, and figures measured where they were fitted on the other parts."""
    parts = sorted({trace.part for trace in traces})
    before, after, clips = [], [], []
    own: list[list[float]] = []  # per clip, the temperatures that the other parts give
    softened: list[list[float]] = []
    for part in parts:
        here = [trace for trace in traces if trace.part == part]
        temperatures, factor, rules = fit([trace for trace in traces if trace.part != part], bundle, target)
        before.append(measure(here, bundle, [m.temperature for m in bundle.members], bundle.rules))
        after.append(measure(here, bundle, temperatures, rules))
        clips += [trace for trace in here if trace.label]
        n_new = len(clips) - len(softened)
        softened += [temperatures] * n_new
        own += [[t / factor for t in temperatures]] * n_new
    temperatures, factor, rules = fit(traces, bundle, target)
    figures = {
        "unknown_target": target,
        "recordings": len(clips),
        "temperatures": {member.name: t for member, t in zip(bundle.members, temperatures)},
        "common_temperature": round(factor, 3),
        "log_loss": {
            "before": _losses(clips, [[m.temperature for m in bundle.members]] * len(clips), bundle),
            "own": _losses(clips, own, bundle),
            "after": _losses(clips, softened, bundle),
        },
        "before": _shares(summed(before)),
        "after": _shares(summed(after)),
    }
    return temperatures, rules, figures


def _losses(clips: list[Trace], temperatures: Sequence[Sequence[float]], bundle: Bundle) -> dict[str, float]:
    """Member or "fused" -> log loss of whole recordings, each at its own temperatures; "accuracy" is that of the fused."""
    members = [
        np.concatenate([clip_means([clip], bundle, i, t[i]) for clip, t in zip(clips, temperatures)])
        for i in range(len(bundle.members))
    ]
    truth, together = truth_of(clips, bundle.labels), fused(members, bundle.fuse)
    losses = {member.name: log_loss(p, truth) for member, p in zip(bundle.members, members)}
    losses |= {"fused": log_loss(together, truth), "accuracy": float((together.argmax(1) == truth).mean())}
    return {name: round(value, 4) for name, value in losses.items()}


def _shares(counts: dict[str, Any]) -> dict[str, Any]:
    known, room_h = counts["known"], counts["room_s"] / 3600
    return {
        "recall": round(counts["hits"] / known, 4),
        "wrong_class_per_recording": round(counts["wrong"] / known, 4),
        "unknown_reported": round(counts["unknown_reported"] / known, 4),
        "room_false_alarms_per_hour": round(counts["room_reports"] / room_h, 2),
        "room_minutes": round(60 * room_h, 1),
        "per_class": counts["per_class"],
    }


def text(figures: dict[str, Any], rules: Rules) -> str:
    """The figures of `learn` as tables for a terminal."""
    before, after = figures["before"], figures["after"]
    losses = [figures["log_loss"][when] for when in ("before", "own", "after")]
    rows = [
        [f"log loss, {name}", *(f"{loss[name]:.3f}" for loss in losses)] for name in losses[0] if name != "accuracy"
    ]
    rows.append(["accuracy, fused", *(f"{loss['accuracy']:.1%}" for loss in losses)])
    for key, form in (
        ("recall", "{:.1%}"),
        ("unknown_reported", "{:.1%}"),
        ("wrong_class_per_recording", "{:.3f}"),
        ("room_false_alarms_per_hour", "{:.1f}"),
    ):
        rows.append([key.replace("_", " "), form.format(before[key]), "", form.format(after[key])])
    head = f"{'':<30}{'before':>9}{'own':>9}{'after':>9}"
    lines = [head, *(f"{name:<30}" + "".join(f"{cell:>9}" for cell in cells) for name, *cells in rows)]
    lines += [
        "own: at each net's own temperature, without the factor that the product needs",
        "unknown: sounds of a class whose output was removed; nets that never heard them report more, see LOG.md",
        "",
    ]
    lines.append(f"{'class':<20}{'on':>7}{'off':>7}{'recall':>9}{'false alarms':>14}")
    for label, row in after["per_class"].items():
        recall = f"{row['hits']}/{row['sounds']}"
        lines.append(f"{label:<20}{rules.on[label]:>7}{rules.off[label]:>7}{recall:>9}{row['false_alarms']:>14}")
    named = ", ".join(f"{name} {t:g}" for name, t in figures["temperatures"].items())
    return "\n".join([*lines, "", f"temperatures: {named}; common to all: {figures['common_temperature']:g}"])
