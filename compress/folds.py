"""What accuracy to expect: every fold held out once.  python -m compress.folds --budget 128kb --data PATH

Runs compress.cnn7 fold by fold and pools the scores of the clips that each fold's nets had not heard. A fold that is
done is left as it is. With --qat-epochs the bundles, bundle-qat, are made of the same float nets, trained on in int8.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from compress import cnn7
from compress.recipe import EPOCHS
from devices.trained import wilson
from runtime import command
from runtime.files import write_atomic
from runtime.frontend import PRESETS
from train.data import RECORDINGS, DataError, load_dataset, split
from train.features import CACHE
from train.run import load_run


def pooled(tables):
    """Tables of cnn7.evaluate, one per fold -> {net: {column: {"accuracy", "log_loss", "n", "per_class"}}} of all clips."""
    rows = {}
    for name, columns in tables[0].items():
        rows[name] = {column: _pool([table[name][column] for table in tables]) for column in columns}
    return rows


def _pool(scores):
    n = sum(s["n"] for s in scores)
    mean = {key: sum(s[key] * s["n"] for s in scores) / n for key in ("accuracy", "log_loss")}
    confusion = np.sum([s["confusion"] for s in scores], axis=0)  # rows: truth
    hits = zip(scores[0]["per_class"], confusion.diagonal(), confusion.sum(axis=1))
    return {**mean, "n": n, "per_class": {label: float(hit / of) for label, hit, of in hits if of}}


def main(argv=None):
    args = arguments(argv)
    dataset = load_dataset(args.data)
    calls = checked(args, dataset)
    copies = load_dataset(args.score_on) if args.score_on else None
    for call in calls if copies else ():  # before hours of training
        _copies_of(dataset, cnn7.arguments(call).fold, copies)
    tables = [_table(args, dataset, copies, call) for call in calls]
    rows = pooled(tables)
    n = sum(table["PROD"]["tflite"]["n"] for table in tables)
    print(f"\nevery fold held out once, last epoch{f', scored on {args.score_on}' if args.score_on else ''}")
    print(cnn7.evaluation_text(rows, n))
    gained = {name: round(n * (row["tflite"]["accuracy"] - row["float"]["accuracy"])) for name, row in rows.items()}
    print("clips that int8 gains or loses: " + ", ".join(f"{name} {clips:+d}" for name, clips in gained.items()))
    low, high = wilson(rows["PROD"]["tflite"]["accuracy"], n)
    by_fold = ", ".join(f"{table['PROD']['tflite']['accuracy']:.1%}" for table in tables)
    print(f"PROD, TFLite: {by_fold} by fold; {low:.1%} to {high:.1%} if clips were independent (Wilson, 95 %)")
    print("per class: " + ", ".join(f"{k} {v:.0%}" for k, v in rows["PROD"]["tflite"]["per_class"].items()))
    write_atomic(table_path(args), lambda path: path.write_text(json.dumps(rows, indent=1) + "\n"))


def checked(args, dataset):
    """-> what to call compress.cnn7 with, fold by fold. Raises ValueError for what would end one of them later."""
    calls = list(_calls(args, dataset.folds))
    for call in calls:
        fold = cnn7.arguments(call)
        cnn7.check(fold, dataset)
        if not split(dataset, fold.fold)[1]:
            raise DataError(
                f"{dataset.name}: fold {fold.fold} tests nothing: record at least five sounds of each class"
            )
    return calls


def table_path(args):
    """Where the pooled table goes."""
    return args.runs / (("scored-on" if args.score_on else "folds") + ("-qat" if args.qat_epochs else "") + ".json")


def _calls(args, folds):
    """What to call compress.cnn7 with, fold by fold. A search and pruning see the fold's own training clips alone."""
    names = "search", "search_epochs", "ram", "macs", "shapes", "noise_share", "taught_by"
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    more = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    more += [flag for flag in ("--no-augmentation", "--absolute-level") if getattr(args, flag[2:].replace("-", "_"))]
    for fold in folds:
        runs = args.runs / f"fold{fold}"
        taught = [f"--teacher={args.teachers / f'fold{fold}' / name}" for name in PRESETS] if args.teachers else []
        pruned = ["--prune-from", str(args.prune_from / f"fold{fold}")] if args.prune_from else []
        yield [
            "--budget", args.budget, "--data", str(args.data), "--fold", str(fold), "--epochs", str(args.epochs),
            "--qat-epochs", str(args.qat_epochs), "--seed", str(args.seed), "--cache", str(args.cache),
            "--runs", str(runs), "--out", str(runs / ("bundle-qat" if args.qat_epochs else "bundle")),
            *more, *taught, *pruned,
        ]  # fmt: skip


def _copies_of(dataset, fold, copies):
    """-> clips of the data set `copies` that go by the names and classes of those that `fold` tests. Raises DataError."""
    if copies.labels != dataset.labels:
        raise DataError(f"--score-on {copies.name} has other classes than {dataset.name}")
    heard, tested = ({(clip.label, clip.path.stem) for clip in part} for part in split(dataset, fold))
    found = [clip for clip in copies.clips if (clip.label, clip.path.stem) in tested - heard]
    if not found:
        raise DataError(
            f"--score-on {copies.name} holds no copy, by its name, of what fold {fold} of {dataset.name} tests"
        )
    return found


def _table(args, dataset, copies, call):
    """A fold's table, made where it is not there yet: what cnn7 wrote, or its nets' scores on another copy."""
    fold = cnn7.arguments(call)
    cnn7.make(fold, dataset)
    if copies is None:
        return json.loads(cnn7.evaluation_path(fold).read_text())
    runs = [load_run(fold.runs / name) for name in PRESETS]
    return cnn7.evaluate(fold.out, runs, _copies_of(dataset, fold.fold, copies), dataset.labels, args.cache)


def arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m compress.folds", description=__doc__.split("  ")[0])
    parser.add_argument("--budget", required=True, help="as of compress.cnn7, such as 128kb")
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument(
        "--score-on",
        type=Path,
        help="copies of the recordings by the same names, in another coding say, to score on instead",
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training (default %(default)s)")
    parser.add_argument("--qat-epochs", type=int, default=0, help="as of compress.cnn7 (default 0)")
    parser.add_argument("--search", metavar="HOURS", help="as of compress.cnn7: a search in each fold's training clips")
    for option in ("--search-epochs", "--ram", "--macs", "--shapes", "--noise-share", "--taught-by"):
        parser.add_argument(option, help="as of compress.cnn7")
    for option in ("--no-augmentation", "--absolute-level"):
        parser.add_argument(option, action="store_true", help="as of compress.cnn7")
    parser.add_argument(
        "--teachers", type=Path, metavar="RUNS", help="--runs of a larger budget: its nets of each fold teach together"
    )
    parser.add_argument(
        "--prune-from", type=Path, metavar="RUNS", help="--runs of a larger budget: prune each fold's nets"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept (default %(default)s)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/folds"),
        help="where trainings and bundles are kept (default %(default)s)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
