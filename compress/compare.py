"""Trainings of every fold beside each other.  python -m compress.compare NAME=RUNS [NAME=RUNS ...] --data PATH

RUNS is a --runs folder of compress.folds. A NAME given again is another seed of the same row: clip by clip their mean
counts. RUNS:bundle-qat takes those bundles. Says of each row what its int8 files weigh and answer on the clips that their
nets have not heard, and, paired over the recordings that the clips were cut from: int8 against float, PROD against the best
of its nets, each row against the one before. A column calibrates PROD: weights of the nets, fitted on the other folds.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from compress import deployed
from compress.written import write_table
from export.rules import fold_folders
from runtime import command, engine
from runtime.bundle import Bundle
from train import fuse
from train.data import RECORDINGS, load_dataset
from train.features import CACHE
from train.scores import difference_text, hits_and_losses, means, plain

PROD, CALIBRATED = "PROD", "calibrated"
FORMS = "float", "int8"


@dataclasses.dataclass(frozen=True)
class Column:
    """What one net, or a fusion, says of every clip. hits, losses: (clips,), the mean of all seeds."""

    hits: np.ndarray
    losses: np.ndarray
    by_seed: tuple  # accuracy of each

    def less(self, other):
        return Column(self.hits - other.hits, self.losses - other.losses, ())


def columns(seeds, truth, folds):
    """[{form: {net: (clips, classes)}}, one per seed] -> {form: {net, PROD and, of several folds, calibrated: Column}}."""
    out = {}
    for form in FORMS:
        told = []
        for log_p in seeds:
            nets = np.stack(list(log_p[form].values()))
            fusions = {PROD: fuse.fused_by("prod", truth, nets)}
            if len(np.unique(folds)) > 1:  # one published fold leaves nothing to fit on
                fusions[CALIBRATED] = fuse.weighted_out_of_fold(truth, nets, folds)
            told.append({name: hits_and_losses(truth, p) for name, p in (log_p[form] | fusions).items()})
        out[form] = {
            name: Column(
                np.mean([one[name][0] for one in told], axis=0),
                np.mean([one[name][1] for one in told], axis=0),
                tuple(float(one[name][0].mean()) for one in told),
            )
            for name in told[0]
        }
    return out


def compare(rows, dataset, fmt, cache):
    """{name: [{fold: bundle folder}, one per seed]} -> the table, JSON-able. Raises ValueError as deployed.of_folds does."""
    like = Bundle.load(next(iter(next(iter(rows.values()))[0].values())), fmt)
    table, before = [], None
    for name, seeds in rows.items():
        print(f"{name}: {len(seeds)} seed{'s' * (len(seeds) > 1)}", flush=True)
        told = [deployed.of_folds(folders, like, dataset, cache) for folders in seeds]
        truth, groups, folds, singles = (told[0][key] for key in ("truth", "groups", "folds", "members"))
        forms = [{form: {net: one[form][net] for net in singles} for form in FORMS} for one in told]
        nets = columns(forms, truth, folds)
        best = max(singles, key=lambda net: nets["int8"][net].hits.mean())
        table.append({
            "name": name,
            "bytes": max(one["bytes"] for one in told),
            "seeds": len(seeds),
            **{form: {net: _described(column, groups) for net, column in some.items()} for form, some in nets.items()},
            "int8_less_float": {
                net: _described(nets["int8"][net].less(nets["float"][net]), groups) for net in [*singles, PROD]
            },
            "best_single": best,
            "prod_less_best_single": _described(nets["int8"][PROD].less(nets["int8"][best]), groups),
            "less_row_before": before and _described(nets["int8"][PROD].less(before), groups),
        })  # fmt: skip
        before = nets["int8"][PROD]
    head = {"data": dataset.name, "format": fmt, "n": len(groups), "recordings": len(set(groups)), "nets": singles}
    return {**head, "rows": table}


def _described(column, groups):
    by_seed = {"by_seed": list(column.by_seed)} if len(column.by_seed) > 1 else {}
    return {**means(column.hits, column.losses, groups), **by_seed}


def text(table):
    """The table of `compare` as lines for a terminal."""
    rows, nets = table["rows"], table["nets"]
    width = max(len(row["name"]) for row in rows) + 2
    head = f"{'':<{width}}{'bytes':>9}" + "".join(f"{net:>15}" for net in [*nets, "PROD, float", "PROD, int8"])
    lines = [f"{table['data']}, every fold held out once, {table['n']} clips, {table['format']}: accuracy, log loss"]
    lines.append(f"{head}  {'95 %':<16}" + f"{'PROD calibrated':>15}" * (CALIBRATED in rows[0]["int8"]))
    for row in rows:
        cells = [row["int8"][net] for net in nets] + [row["float"][PROD], row["int8"][PROD]]
        low, high = row["int8"][PROD]["accuracy_interval"]
        line = f"{row['name']:<{width}}{row['bytes']:>9,}" + "".join(f"{_cell(cell):>15}" for cell in cells)
        line += f"  {f'{low:.1%} to {high:.1%}':<16}"
        lines.append(line + (f"{_cell(row['int8'][CALIBRATED]):>15}" if CALIBRATED in row["int8"] else ""))
    for row in rows:
        lines += ["", row["name"]]
        for net, change in row["int8_less_float"].items():
            lines.append(f"  {net}, int8 less float: {_change(change, table['n'])}")
        lines.append(f"  PROD less {row['best_single']}, int8: {_change(row['prod_less_best_single'], table['n'])}")
        if row["less_row_before"]:
            lines.append(f"  PROD less that of the row before: {_change(row['less_row_before'], table['n'])}")
        if "by_seed" in row["int8"][PROD]:
            lines.append("  PROD by seed: " + ", ".join(f"{a:.1%}" for a in row["int8"][PROD]["by_seed"]))
    return "\n".join([*lines, f"intervals: bootstrap over {table['recordings']} recordings"])


def _cell(scored):
    return f"{scored['accuracy']:.1%}, {scored['log_loss']:.3f}"


def _change(change, n):
    return f"{n * change['accuracy']:+.3g} clips, {difference_text(change)}"


def plot(path, table):
    """PNG: PROD of each row with its interval, and its nets beside it."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    rows = table["rows"]
    figure = Figure(figsize=(3 + 1.1 * len(rows), 4.2), layout="constrained")
    axes = figure.subplots()
    for net in table["nets"]:
        axes.plot([100 * row["int8"][net]["accuracy"] for row in rows], "o", ms=4, label=net)
    shares = 100 * np.array([[row["int8"][PROD]["accuracy"], *row["int8"][PROD]["accuracy_interval"]] for row in rows])
    around = np.abs(shares[:, 1:].T - shares[:, 0])
    axes.errorbar(range(len(rows)), shares[:, 0], yerr=around, fmt="o-", color="black", capsize=4, label="PROD, 95 %")
    axes.set_xticks(range(len(rows)), [f"{plain(row['name'])}\n{row['bytes'] / 1024:.0f} KB" for row in rows])
    axes.set_ylabel(f"accuracy of {table['n']} clips, %, int8")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=110, format="png")


def main(argv=None):
    args = _arguments(argv)
    dataset = load_dataset(args.data)
    rows = {}
    for name, runs, bundle in args.rows:
        rows.setdefault(name, []).append(fold_folders(runs, dataset.folds, bundle))
    table = compare(rows, dataset, engine.choose(args.engine), args.cache)
    print(f"\n{text(table)}")
    write_table(args.out, text(table), table, plot)
    print(f"\nmade {args.out}.txt, .json and .png")


def _row(argument):
    """NAME=RUNS or NAME=RUNS:BUNDLE."""
    name, equals, runs = argument.partition("=")
    if not name or not equals or not runs:
        raise argparse.ArgumentTypeError(f"{argument!r}: give NAME=RUNS, a --runs folder of compress.folds")
    runs, colon, bundle = runs.rpartition(":")
    return (name, Path(runs), bundle) if colon else (name, Path(bundle), "bundle")


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m compress.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=_row, nargs="+", metavar="NAME=RUNS")
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument("--engine", choices=("tflite", "onnx"), help="default: what is installed")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="files to write, without their suffix")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features, and what was scored, are kept")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on where it was")
