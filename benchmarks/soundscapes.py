"""Sounds heard and false alarms an hour, every fold held out once.  python -m benchmarks.soundscapes --folds RUNS

RUNS is a --runs folder of compress.folds. A soundscape of each fold's recordings on made room noise (train.soundscape)
goes through the nets that held this fold out, under the rules that export.rules learns from the other folds, and
runtime.score counts.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from export.crossfit import fit
from export.rules import UNKNOWN, bundles_of_folds, hear_folds, store
from runtime import command
from runtime.bundle import Bundle
from runtime.score import score
from train import soundscape
from train.data import RECORDINGS, load_dataset, split

SUMMED = ("sounds", "hits", "misses", "wrong_class", "false_alarms_of_nothing", "false_alarms", "duration_s")


def measured(runs, dataset, minutes, folder):
    """-> [runtime.score's scores, one per fold]; `folder` takes a copy of each bundle and the soundscapes."""
    bundles = bundles_of_folds(runs, dataset)
    traces, scores = hear_folds(bundles, dataset), []
    for fold, bundle in bundles.items():
        copy = folder / f"bundle{fold}"
        shutil.copytree(bundle.folder, copy)
        temperatures, _, rules = fit([trace for trace in traces if trace.part != fold], bundle, UNKNOWN)
        store(Bundle.load(copy), temperatures, rules, None, {})
        stream = folder / f"fold{fold}.wav"
        labels = soundscape.write(stream, soundscape.soundscape(split(dataset, fold)[1], minutes, seed=fold))
        scores.append({"fold": fold, **score(Bundle.load(copy), stream, labels)})
        print(line(f"fold {fold}", scores[-1]), file=sys.stderr, flush=True)
    return scores


def pooled(scores):
    """Scores of several streams -> those of all of them, one after the other."""
    total = {key: sum(s[key] for s in scores) for key in SUMMED}
    delays = [s["delay_s"]["median"] for s in scores if s["delay_s"]["median"] is not None]
    return {
        **total,
        "false_alarms_per_hour": 3600 * total["false_alarms"] / total["duration_s"],
        "delay_s": {"medians": delays},
        "cpu_per_audio_s": float(np.mean([s["cpu_per_audio_s"] for s in scores])),
    }


def line(name, s):
    return (
        f"{name}: {s['duration_s'] / 60:.0f} min, {s['hits']} of {s['sounds']} sounds ({s['hits'] / s['sounds']:.1%}), "
        f"{s['false_alarms_per_hour']:.1f} false alarms an hour ({s['wrong_class']} of {s['false_alarms']} of a wrong "
        f"class), {s['cpu_per_audio_s']:.3f} s of processor per second"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soundscapes", description=__doc__.split("  ")[0])
    parser.add_argument("--folds", type=Path, required=True, metavar="RUNS", help="--runs folder of compress.folds")
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument("--minutes", type=float, default=15, help="of each fold (default 15)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if not 1 <= args.minutes <= 600:
        raise ValueError(f"--minutes {args.minutes}: choose 1 to 600")
    with tempfile.TemporaryDirectory() as folder:
        scores = measured(args.folds, load_dataset(args.data), args.minutes, Path(folder))
    total = pooled(scores)
    if args.json:
        print(json.dumps({"folds": scores, "all": total}, indent=1))
        return
    print(line("all folds", total))
    print("median delay by fold: " + ", ".join(f"{d:.1f} s" for d in total["delay_s"]["medians"]))


if __name__ == "__main__":
    command.run(main)
