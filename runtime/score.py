"""How well a bundle hears a labelled stream.  python -m runtime.score STREAM.wav LABELS.csv [--bundle B] [--json]

Scored as MLPerf Tiny's streaming wakeword is, for many classes: a sound is a hit if its label is reported between its
onset and its offset + tolerance, and a miss if not; further reports of the label in that time count once. Any other
report is a false alarm: of the wrong class while something else is to be heard, or of nothing at all.

`python -m train.soundscape` makes such a pair; runtime.labels says what a table of labels is. Labels that the bundle does
not know are sounds too: what is reported of them is a false alarm.
"""

import argparse
import bisect
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import audio, command
from runtime.bundle import DEFAULT, Bundle
from runtime.decide import Stream
from runtime.events import Detector, Event
from runtime.labels import Label, read_labels
from runtime.stream import decisions

TOLERANCE_S = 5.0  # a decision speaks of its window and of what its patches reached back to, some seconds in all
SHOW_S = 2.0  # progress on standard error, so often


def tolerance(window_s: float) -> float:
    """Seconds after a sound's end in which a report of it is no false alarm."""
    return max(TOLERANCE_S, window_s)


def match(events: Sequence[Event], labels: Sequence[Label], tolerance_s: float) -> dict[str, Any]:
    """Reported events (those that begin) and labels sorted by onset -> hits, misses, delays, false alarms, confusion.

    delay_s: from the onset to the first report of each hit. confusion: what was to be heard -> what was reported of it:
    its own label for hits, None for misses, others for reports of the wrong class. false_alarms: label -> reports while
    nothing was to be heard.
    """
    onsets = [label.onset for label in labels]
    longest_s = max((label.offset - label.onset for label in labels), default=0.0) + tolerance_s
    first_s: dict[int, float] = {}
    confusion: Counter[tuple[str, str | None]] = Counter()
    false_alarms: Counter[str] = Counter()
    n_repeats = 0
    for event in events:
        candidates = range(bisect.bisect_left(onsets, event.at_s - longest_s), bisect.bisect_right(onsets, event.at_s))
        heard = [i for i in candidates if event.at_s <= labels[i].offset + tolerance_s]
        own = [i for i in heard if labels[i].event_label == event.label]
        new = [i for i in own if i not in first_s]
        if new:
            first_s[new[0]] = event.at_s
        elif own:
            n_repeats += 1
        elif heard:
            confusion[labels[heard[-1]].event_label, event.label] += 1
        else:
            false_alarms[event.label] += 1
    for i, label in enumerate(labels):
        confusion[label.event_label, label.event_label if i in first_s else None] += 1
    return {
        "hits": len(first_s),
        "delay_s": [at_s - onsets[i] for i, at_s in first_s.items()],
        "repeats": n_repeats,
        "confusion": confusion,
        "false_alarms": false_alarms,
    }


def score(
    bundle: Bundle,
    stream: Path,
    labels: Sequence[Label],
    window_s: float | None = None,
    hop_s: float | None = None,
    tolerance_s: float | None = None,
) -> dict[str, Any]:
    """Run a labelled stream through a bundle and its rules -> the scores, as --json prints them.

    tolerance_s None: TOLERANCE_S, or the window where that is longer.
    """
    live = Stream(bundle, window_s, hop_s)
    tolerance_s = tolerance(live.window / bundle.sr) if tolerance_s is None else tolerance_s
    source = audio.blocks(stream)
    duration_s = audio.header(stream).n_frames / source.sr
    events, cpu_s = _listen(live, source, duration_s)
    known = [label for label in labels if label.event_label in bundle.labels]
    matched = match([event for event in events if event.end_s is None], labels, tolerance_s)
    n_wrong = sum(n for (truth, said), n in matched["confusion"].items() if said not in (truth, None))
    n_nothing = sum(matched["false_alarms"].values())
    delays = matched["delay_s"]
    return {
        "stream": str(stream),
        "bundle": str(bundle.folder),
        "duration_s": round(duration_s, 3),
        "window_s": live.window / bundle.sr,
        "hop_s": live.hop / bundle.sr,
        "tolerance_s": tolerance_s,
        "sounds": len(known),
        "hits": matched["hits"],
        "misses": len(known) - matched["hits"],
        "repeats": matched["repeats"],
        "unknown_sounds": len(labels) - len(known),
        "wrong_class": n_wrong,
        "false_alarms_of_nothing": n_nothing,
        "false_alarms": n_wrong + n_nothing,
        "false_alarms_per_hour": (n_wrong + n_nothing) / duration_s * 3600,
        "delay_s": {"median": _percentile(delays, 50), "p90": _percentile(delays, 90)},
        "cpu_per_audio_s": cpu_s / duration_s,
        "faults": source.faults.counts(),
        "confusion": _rows_of(matched["confusion"]),
        "false_alarms_of_nothing_by_label": dict(matched["false_alarms"]),
    }


def _listen(live: Stream, source: audio.Source, duration_s: float) -> tuple[list[Event], float]:
    """-> events, seconds of CPU that they took."""
    detector = Detector(live.bundle.labels, live.bundle.rules)
    events: list[Event] = []
    begun = shown = time.monotonic()
    cpu_s = -time.process_time()
    for decision in decisions(source, live):
        events += detector.feed(decision)
        if time.monotonic() - shown > SHOW_S:
            shown = time.monotonic()
            print(f"\r{decision.end_s:.0f} of {duration_s:.0f} s", end="", file=sys.stderr, flush=True)
    cpu_s += time.process_time()
    if time.monotonic() - begun > SHOW_S:
        print(file=sys.stderr)
    return events + detector.flush(), cpu_s


def _percentile(values: list[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _rows_of(confusion: Counter[tuple[str, str | None]]) -> dict[str, dict[str, int]]:
    """-> truth -> reported -> how often; "nothing" for misses."""
    rows: dict[str, dict[str, int]] = {}
    for (truth, said), n in sorted(confusion.items(), key=lambda item: (item[0][0], -item[1])):
        rows.setdefault(truth, {})[said or "nothing"] = n
    return rows


def text(scores: dict[str, Any]) -> str:
    """The scores as lines for a terminal."""
    s, delay = scores, scores["delay_s"]
    said = "none" if delay["median"] is None else f"median {delay['median']:.1f} s, 90 % {delay['p90']:.1f} s"
    lines = [
        f"{s['stream']}: {s['duration_s'] / 60:.1f} min, {s['sounds']} sounds of known classes, "
        f"{s['unknown_sounds']} of others; windows of {s['window_s']:g} s every {s['hop_s']:g} s",
        f"a hit: its label reported from its onset to {s['tolerance_s']:g} s after its offset; further reports count once",
        f"hits          {s['hits']} ({s['hits'] / max(1, s['sounds']):.1%}), {s['repeats']} reports more of the same",
        f"misses        {s['misses']}",
        f"false alarms  {s['false_alarms']} ({s['false_alarms_per_hour']:.1f} per hour): {s['wrong_class']} of the wrong "
        f"class, {s['false_alarms_of_nothing']} of nothing",
        f"delay         {said}, from onset to report",
        f"load          {s['cpu_per_audio_s']:.4f} s of CPU per s of sound, a duty cycle of {s['cpu_per_audio_s']:.1%}",
    ]
    rows = [f"  {truth:<16}" + ", ".join(f"{k} {n}" for k, n in row.items()) for truth, row in s["confusion"].items()]
    nothing = ", ".join(f"{label} {n}" for label, n in s["false_alarms_of_nothing_by_label"].items())
    lines += ["what was to be heard, and what was reported of it:", *rows]
    return "\n".join([*lines, *([f"  {'nothing':<16}{nothing}"] if nothing else [])])


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    if args.tolerance is not None and not 0 <= args.tolerance <= 3600:
        raise ValueError(f"--tolerance {args.tolerance}: choose 0 to 3600 s")
    head = audio.header(args.stream)
    labels = read_labels(args.labels, head.n_frames / head.sr)
    bundle = Bundle.load(args.bundle, args.engine)
    scores = score(bundle, args.stream, labels, args.window, args.hop, args.tolerance)
    print(json.dumps(scores, indent=1) if args.json else text(scores))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.score", description="How well a bundle hears a labelled stream."
    )
    parser.add_argument("stream", type=Path, metavar="STREAM.wav", help="a recording, as of runtime.stream --wav")
    parser.add_argument("labels", type=Path, metavar="LABELS.csv", help="onset,offset,event_label in seconds")
    parser.add_argument("--bundle", type=Path, default=DEFAULT, help="folder (default: the bundle that ships)")
    parser.add_argument("--window", type=float, metavar="S", help="as of runtime.stream (default: the bundle's)")
    parser.add_argument("--hop", type=float, metavar="S", help="as of runtime.stream (default: the bundle's)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="S",
        help="a report may come so late after the offset (default: 5, or the window)",
    )
    parser.add_argument("--engine", choices=("tflite", "onnx"), help="default: what is installed")
    parser.add_argument("--json", action="store_true", help="the scores as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
