"""A model card out of what was measured.  python -m compress.card BUNDLE --folds RUNS [RUNS ...] --data PATH

Writes BUNDLE/MODEL_CARD.md. The bundle's own nets may have heard every recording; --folds is what compress.folds left of
the same recipe, a folder for each seed, in which every clip was held out once. Nothing in a card is typed by hand: data and
licence are read from the data set, recipe and seeds from the bundle, sizes from its files, scores from the deployed files
of each fold. --levels adds what compress.levels measured.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from compress import deployed
from compress.card_facts import data_section, runs_of, size_section, table, training_section
from compress.shapes import SLACK_BYTES
from devices.trained import wilson
from export.rules import check_alike, fold_folders
from runtime import command, engine
from runtime.bundle import Bundle
from runtime.files import read_json, write_text
from train.data import RECORDINGS, load_dataset
from train.features import CACHE
from train.scores import accuracy_and_loss, difference, difference_text, intervals

CARD = "MODEL_CARD.md"


def _span(low, high):
    return f"{low:.1%} to {high:.1%}"


def accuracy_section(bundle, seeds):
    """seeds: {name of a runs folder: what `deployed.of_folds` gives} -> Markdown."""
    fused, parts = bundle.fuse.upper(), []
    for name, one in seeds.items():
        rows = []
        for net, log_p in one["int8"].items():
            scores, spread = accuracy_and_loss(one["truth"], log_p), intervals(one["truth"], log_p, one["groups"])
            exact = accuracy_and_loss(one["truth"], one["float"][net])
            rows.append([
                net, f"{scores['accuracy']:.1%}", _span(*wilson(scores["accuracy"], scores["n"])),
                _span(*spread["accuracy"]), f"{scores['log_loss']:.3f}", f"{exact['accuracy']:.1%}",
            ])  # fmt: skip
        head = ["net", "accuracy", "Wilson, 95 %", "bootstrap, 95 %", "log loss", "in float"]
        hits = one["int8"][fused].argmax(1) == one["truth"]
        by_fold = ", ".join(f"{fold}: {hits[one['folds'] == fold].mean():.1%}" for fold in np.unique(one["folds"]))
        moved = difference(one["truth"], one["int8"][fused], one["float"][fused], one["groups"])
        n_groups = len(set(one["groups"]))
        parts.append(
            f"`{name}`: {len(hits)} clips of {n_groups} recordings, the deployed {bundle.format} files.\n\n"
            f"{table(head, rows)}\n\n"
            f"By fold: {by_fold}. The files less the same nets in float, clip by clip: {difference_text(moved)}.\n"
        )
    if len(seeds) > 1:
        shares = [accuracy_and_loss(one["truth"], one["int8"][fused])["accuracy"] for one in seeds.values()]
        parts.append(
            f"{fused} over {len(seeds)} trainings: mean {np.mean(shares):.1%}, {_span(min(shares), max(shares))}.\n"
        )
    return "\n".join(parts)


def class_section(bundle, seeds):
    """Class by class, what it is taken for most: the first seed's fused decisions -> Markdown."""
    one = next(iter(seeds.values()))
    guess = one["int8"][bundle.fuse.upper()].argmax(1)
    rows = []
    for i, label in enumerate(bundle.labels):
        here = one["truth"] == i
        wrong = Counter(bundle.labels[k] for k in guess[here] if k != i).most_common(2)
        taken = ", ".join(f"{name} {n}" for name, n in wrong) or "-"
        rows.append([label, int(here.sum()), f"{(guess[here] == i).mean():.1%}" if here.any() else "-", taken])
    return table(["class", "clips", "accuracy", "taken for"], rows)


def limits_section(bundle, dataset, seeds, levels):
    """What these figures do not cover -> Markdown."""
    devices = sorted({clip.device for clip in dataset.clips} - {""})
    first_s = max(member.patch_end(0) for member in bundle.members) / bundle.sr
    heard_all = [name for name, run in runs_of(bundle).items() if not run.get("data", {}).get("fold")]
    one = next(iter(seeds.values()))
    low, high = intervals(one["truth"], one["int8"][bundle.fuse.upper()], one["groups"])["accuracy"]
    lines = [
        f"Tested on `{dataset.name}` alone; its {len(set(one['groups']))} recordings leave {100 * (high - low):.1f} points "
        "of uncertainty, other places and microphones apart.",
        f"It knows {len(bundle.labels)} classes and names one of them whatever it hears; its rules alone can keep silent.",
        f"Recorded with {', '.join(devices)}."
        if devices
        else "The data set does not say what recorded it: no test by device.",
        f"A decision needs {first_s:.1f} s of sound; shorter clips are repeated.",
        f"{len(seeds)} training{'s' if len(seeds) > 1 else ''} of each fold: "
        + ("their spread is above." if len(seeds) > 1 else "how much another seed would change is not known."),
    ]
    if heard_all:
        lines.append(
            "The bundle's own nets heard every clip: the figures are those of nets trained the same way without a fold."
        )
    rules = bundle.provenance.get("rules")
    if isinstance(rules, dict) and isinstance(rules.get("after"), dict) and "unknown_reported" in rules["after"]:
        lines.append(
            f"With its rules it reports {rules['after']['unknown_reported']:.0%} of the sounds of classes it was denied."
        )
    if levels is None:
        lines.append("Level, distance and the sound of phones: not measured (`python -m compress.levels`).")
    else:
        shown = (f"{row['name']} {row['accuracy']:.1%}" for row in levels["rows"])
        heard = "held out" if levels["held_out"] else "heard in training"
        lines.append(f"Level, devices and distance in a room, {levels['n']} clips {heard}: {', '.join(shown)}.")
    return "\n".join(f"- {line}" for line in lines)


def _check_same_system(bundle, other):
    """Raises ValueError for nets of a fold that are no stand-ins for the bundle's: their accuracy would not be its."""
    check_alike(bundle, other)
    for mine, theirs in zip(bundle.members, other.members):
        sizes = [member.files[bundle.format]["bytes"] for member in (mine, theirs)]
        if abs(sizes[0] - sizes[1]) > SLACK_BYTES:
            raise ValueError(
                f"{other.folder}: {mine.name} takes {sizes[1]:,} bytes, {sizes[0]:,} in {bundle.folder}: nets of another "
                "shape, give --folds of the bundle's own"
            )


def card(bundle, data, dataset, folders, cache, levels=None):
    """-> the whole card. folders: those that compress.folds made, one for each seed."""
    found = {runs.name: fold_folders(runs, dataset.folds) for runs in folders}
    for one in found.values():
        for folder in one.values():
            _check_same_system(bundle, Bundle.load(folder, bundle.format))
    seeds = {name: deployed.of_folds(one, bundle, dataset, cache) for name, one in found.items()}
    first = {runs.name: Bundle.load(runs / f"fold{dataset.folds[0]}" / "bundle", bundle.format) for runs in folders}
    nets = ", ".join(f"{member.name} ({member.frontend.kind})" for member in bundle.members)
    return "\n\n".join([
        f"# {bundle.folder.resolve().name}",
        f"Made by `python -m compress.card`. {len(bundle.members)} nets, {nets}, fused by {bundle.fuse.upper()}: which of "
        f"{len(bundle.labels)} sounds is to be heard, at {bundle.sr} Hz.",
        f"## Accuracy\n\nEvery clip held out once, last epoch.\n\n{accuracy_section(bundle, seeds)}",
        class_section(bundle, seeds),
        f"## Size\n\n{size_section(bundle)}",
        f"## Data and licence\n\n{data_section(data, dataset)}",
        f"## Training\n\n{training_section(bundle, first)}",
        f"## Limits\n\n{limits_section(bundle, dataset, seeds, levels)}",
    ]) + "\n"  # fmt: skip


def main(argv=None):
    args = _arguments(argv)
    names = [folder.name for folder in args.folds]
    if len(set(names)) < len(names):
        raise ValueError(f"--folds {', '.join(map(str, args.folds))}: two folders have one name, rename one")
    bundle, dataset = Bundle.load(args.bundle, engine.choose(args.engine)), load_dataset(args.data)
    levels = _levels(args.levels, dataset) if args.levels else None
    runs_of(bundle)  # before anything is scored
    write_text(args.bundle / CARD, card(bundle, args.data, dataset, args.folds, args.cache, levels))
    print(f"made {args.bundle / CARD}")


def _levels(path, dataset):
    """What compress.levels wrote of these recordings. Raises ValueError for anything else."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: python -m compress.levels writes it")
    values = read_json(path)
    if values.get("data") != dataset.name:
        raise ValueError(
            f"{path} was measured on {str(values.get('data'))[:80]}, not on {dataset.name}: measure it there"
        )
    try:
        rows = [{"name": str(row["name"]), "accuracy": float(row["accuracy"])} for row in values["rows"]]
        return {"rows": rows, "n": int(values["n"]), "held_out": values["held_out"] is True}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of compress.levels ({type(error).__name__}: {error})") from error


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m compress.card", description=__doc__.split("  ")[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that gets the card")
    parser.add_argument(
        "--folds", type=Path, nargs="+", required=True, metavar="RUNS", help="of compress.folds; one for each seed"
    )
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="what the folds are of (default: what ships)")
    parser.add_argument("--levels", type=Path, metavar="JSON", help="levels.json of compress.levels")
    parser.add_argument("--engine", choices=("tflite", "onnx"), help="default: what is installed")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features and scores are kept")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; what was scored is kept")
