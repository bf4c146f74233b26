"""Learn a bundle's temperatures, thresholds and levels.  python -m export.rules BUNDLE [--data PATH] [--folds RUNS]

From recordings that the nets were not trained on: the fold that the bundle held out or, where it was trained on
everything, each fold through the nets of `python -m compress.folds` that held it out. What is fitted on one part of them is
measured on another; the bundle keeps what is fitted on all, and those figures.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.assemble import finish
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
from export.traces import Trace, hear
from runtime import command
from runtime.bundle import Bundle
from runtime.level import Levels
from runtime.rules import Rules
from train.data import RECORDINGS, Clip, Dataset, load_dataset, split
from train.features import CACHE, features

N_PARTS = 4  # of a single held-out fold
UNKNOWN = (
    0.25  # share of unknown sounds that may be reported: about the best F1 with as many unknown sounds as known, LOG.md
)
PERCENTILES = (5, 50, 95)


def held_out(bundle: Bundle) -> int:
    """-> the fold that no member of the bundle was trained on; 0: none, everything was. Raises ValueError."""
    try:
        folds = {bundle.provenance["runs"][member.name]["data"]["fold"] or 0 for member in bundle.members}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{bundle.folder}: its provenance does not say what its nets were trained on") from error
    if len(folds) != 1 or not isinstance(next(iter(folds)), int):
        raise ValueError(f"{bundle.folder}: its nets held out different folds ({folds}): no recording is new to all")
    return int(folds.pop())


def unheard(bundle: Bundle, dataset: Dataset, runs: Path | None) -> list[Trace]:
    """Traces of recordings through nets that were not trained on them. Raises ValueError where there are none."""
    fold = held_out(bundle)
    if fold:
        clips = split(dataset, fold)[1]
        groups = sorted({clip.group for clip in clips})
        if len(groups) < 2:
            raise ValueError(f"{dataset.name}: fold {fold} holds {len(groups)} recordings, wanted 2 and more")
        return hear(bundle, clips, [groups.index(clip.group) % N_PARTS for clip in clips], fold)
    if runs is None:
        raise ValueError(
            f"{bundle.folder} was trained on every fold, its own recordings would flatter it: "
            "give --folds RUNS, made by `python -m compress.folds`"
        )
    found = []
    for fold in dataset.folds:
        other = Bundle.load(runs / f"fold{fold}" / "bundle", bundle.format)
        _check_alike(bundle, other, fold)
        clips = split(dataset, fold)[1]
        found += hear(other, clips, [fold] * len(clips), fold)
    return found


def _check_alike(bundle: Bundle, other: Bundle, fold: int) -> None:
    if held_out(other) != fold:
        raise ValueError(f"{other.folder} held out fold {held_out(other)}, not {fold}: it knows what would judge it")
    shapes = [[(m.name, m.frontend, m.n_frames, m.stride) for m in b.members] for b in (bundle, other)]
    if shapes[0] != shapes[1] or other.labels != bundle.labels or other.fuse != bundle.fuse:
        raise ValueError(f"{other.folder} differs from {bundle.folder} in labels, front ends or fusion: fit them alike")


def fit(traces: Sequence[Trace], bundle: Bundle, target: float) -> tuple[list[float], float, Rules]:
    """-> the members' temperatures, the factor that they have in common, rules."""
    own, factor = fit_temperatures(traces, bundle)
    temperatures = [round(factor * t, 3) for t in own]
    return temperatures, factor, rules_of(fit_on(peaks(traces, bundle, temperatures), target), bundle.labels)


def learn(traces: Sequence[Trace], bundle: Bundle, target: float) -> tuple[list[float], Rules, dict[str, Any]]:
    """-> temperatures and rules fitted on all traces, and figures measured where they were fitted on the other parts."""
    parts = sorted({trace.part for trace in traces})
    before, after, clips = [], [], []
    softened: list[list[float]] = []
    for part in parts:
        here = [trace for trace in traces if trace.part == part]
        temperatures, _, rules = fit([trace for trace in traces if trace.part != part], bundle, target)
        before.append(measure(here, bundle, [m.temperature for m in bundle.members], bundle.rules))
        after.append(measure(here, bundle, temperatures, rules))
        clips += [trace for trace in here if trace.label]
        softened += [temperatures] * (len(clips) - len(softened))
    temperatures, factor, rules = fit(traces, bundle, target)
    figures = {
        "unknown_target": target,
        "recordings": len(clips),
        "common_temperature": round(factor, 3),
        "log_loss": {
            "before": _losses(clips, [[m.temperature for m in bundle.members]] * len(clips), bundle),
            "after": _losses(clips, softened, bundle),
        },
        "before": _shares(summed(before)),
        "after": _shares(summed(after)),
    }
    return temperatures, rules, figures


def _losses(clips: list[Trace], temperatures: Sequence[Sequence[float]], bundle: Bundle) -> dict[str, float]:
    """Member or "fused" -> log loss of whole recordings, each at its own temperatures; "accuracy" is that of the fused."""
    members = [
        np.concatenate([clip_means([clip], i, t[i]) for clip, t in zip(clips, temperatures)])
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


def levels_of(bundle: Bundle, clips: Sequence[Clip], cache: Path = CACHE) -> Levels:
    """The range of levels of the clips in the bands of the bundle's first member."""
    member = bundle.members[0]
    loud_db = [np.percentile(static, 95, axis=1) for static in features(clips, member.frontend, cache)]
    low, mid, high = (tuple(row.round(2).tolist()) for row in np.percentile(loud_db, PERCENTILES, axis=0))
    return Levels(member.name, low, mid, high)


def store(bundle: Bundle, temperatures: Sequence[float], rules: Rules, levels: Levels, figures: dict[str, Any]) -> None:
    """Write what was learned into the bundle's folder, all of it or nothing; its model files stay as they are."""
    folder = bundle.folder
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        samples = golden["samples"]
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        shutil.copytree(folder, partial)
        values = json.loads((partial / "bundle.json").read_text())
        for member, temperature in zip(values["members"], temperatures):
            member["temperature"] = temperature
        values |= {"rules": rules.to_json(), "levels": levels.to_json()}
        values["provenance"]["rules"] = figures
        (partial / "bundle.json").write_text(json.dumps(values, indent=1) + "\n")
        finish(partial, folder, samples)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def text(figures: dict[str, Any], rules: Rules, temperatures: Sequence[float], bundle: Bundle) -> str:
    """The figures as a table for a terminal."""
    losses = [figures["log_loss"][when] for when in ("before", "after")]
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
        rows.append([key.replace("_", " "), *(form.format(figures[when][key]) for when in ("before", "after"))])
    lines = [f"{'':<30}{'before':>9}{'after':>9}", *(f"{name:<30}{a:>9}{b:>9}" for name, a, b in rows), ""]
    lines.append(f"{'class':<20}{'on':>7}{'off':>7}{'recall':>9}{'false alarms':>14}")
    for label, row in figures["after"]["per_class"].items():
        recall = f"{row['hits']}/{row['sounds']}"
        lines.append(f"{label:<20}{rules.on[label]:>7}{rules.off[label]:>7}{recall:>9}{row['false_alarms']:>14}")
    named = ", ".join(f"{m.name} {t:g}" for m, t in zip(bundle.members, temperatures))
    return "\n".join(
        [*lines, "", f"temperatures: {named}, of which {figures['common_temperature']:g} is common to all"]
    )


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    if not 0.01 <= args.unknown <= 1:
        raise ValueError(f"--unknown {args.unknown}: choose 0.01 to 1")
    dataset, bundle = load_dataset(args.data), Bundle.load(args.bundle)
    if dataset.labels != bundle.labels:
        raise ValueError(
            f"{args.data} has other classes ({', '.join(dataset.labels)[:80]}) than {args.bundle}: name its own --data"
        )
    if len(dataset.labels) < 3:
        raise ValueError(
            f"{args.data} has 2 classes: with one left out there is nothing to choose from, wanted 3 and more"
        )
    bundle.check()
    traces = unheard(bundle, dataset, args.folds)
    temperatures, rules, figures = learn(traces, bundle, args.unknown)
    levels = levels_of(bundle, split(dataset, held_out(bundle))[0], args.cache)
    figures |= {"data": dataset.name, "nets": "one fold held out" if held_out(bundle) else "every fold held out once"}
    store(bundle, temperatures, rules, levels, figures)
    print(text(figures, rules, temperatures, bundle))
    print(
        f"\n{figures['recordings']} recordings and {figures['after']['room_minutes']:g} min of empty rooms, each measured "
        f"with what was fitted on the others\nstored in {args.bundle}; next: python -m runtime.bundle {args.bundle} --check"
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export.rules", description="Learn a bundle's temperatures, thresholds and levels."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder; what is learned is stored in it")
    parser.add_argument(
        "--data", type=Path, default=RECORDINGS, help="what it was trained on (default: the shipped ones)"
    )
    parser.add_argument(
        "--folds",
        type=Path,
        metavar="RUNS",
        help="folder of python -m compress.folds, for a bundle trained on all of it",
    )
    parser.add_argument(
        "--unknown",
        type=float,
        default=UNKNOWN,
        metavar="SHARE",
        help=f"of unknown sounds that may be reported as something, 0.01 to 1 (default {UNKNOWN})",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, stopped="stopped; the bundle is as it was")
