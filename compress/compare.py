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
from runtime import command, engine
from runtime.bundle import Bundle
from train import fuse
from train.data import RECORDINGS, load_dataset
from train.features import CACHE
from train.scores import bootstrap, hits_and_losses, load_predictions

PROD, CALIBRATED = "PROD", "calibrated"


@dataclasses.dataclass(frozen=True)
class Column:
    """What one net, or a fusion, says of every clip. hits, losses: (clips,), the mean of all seeds."""

    hits: np.ndarray
    losses: np.ndarray
    by_seed: tuple  # accuracy of each

    def less(self, other):
        return Column(self.hits - other.hits, self.losses - other.losses, ())


def heard(folders, dataset, fmt, cache):
    """Bundles, one of each fold, and the runs beside them -> truth, groups, folds (clips,), bytes, log_p.

    bytes: of the files of the largest bundle. log_p: {"int8" or "float": {net: (clips, classes)}}.
    Raises ValueError for bundles that have heard the clips, or runs that are not theirs.
    """
    parts, n_bytes, clips, folds = {"int8": [], "float": []}, 0, [], []
    for fold, folder in folders.items():
        bundle = Bundle.load(folder, fmt)
        if not deployed.is_held_out(bundle, dataset, fold):
            raise ValueError(f"{folder} does not say that it held fold {fold} of {dataset.name} out: make it anew")
        some = deployed.test_clips(bundle, dataset, fold)
        spectrograms_of = deployed.from_features(bundle, some, cache)
        by_file = deployed.log_probabilities(bundle, some, spectrograms_of, "as recorded", Path(cache) / "scores")
        parts["int8"].append({m.name: log_p for m, log_p in zip(bundle.members, by_file)})
        parts["float"].append({m.name: _by_torch(folder.parent / m.name, some) for m in bundle.members})
        n_bytes = max(n_bytes, sum(member.files[fmt]["bytes"] for member in bundle.members))
        clips, folds = clips + some, folds + [fold] * len(some)
    names = list(parts["int8"][0])
    log_p = {
        form: {name: np.concatenate([part[name] for part in some]) for name in names} for form, some in parts.items()
    }
    truth = np.array([dataset.labels.index(clip.label) for clip in clips])
    return truth, np.array([clip.group for clip in clips]), np.array(folds), n_bytes, log_p


def _by_torch(run, clips):
    names, _, log_p = load_predictions(run)
    if names != [clip.path.name for clip in clips]:
        raise ValueError(f"{run} was scored on other clips than its bundle's fold holds: train it anew")
    return log_p


def columns(seeds, truth, folds):
    """[log_p of `heard`, one per seed] -> {form: {net, PROD or calibrated: Column}}."""
    out = {}
    for form in ("float", "int8"):
        told = []
        for log_p in seeds:
            nets = np.stack(list(log_p[form].values()))
            fusions = {
                PROD: fuse.fused_by("prod", truth, nets),
                CALIBRATED: fuse.weighted_out_of_fold(truth, nets, folds),
            }
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
    """{name: [{fold: bundle folder}, one per seed]} -> the table, JSON-able."""
    table, before, known = [], None, None
    for name, seeds in rows.items():
        print(f"{name}: {len(seeds)} seed{'s' * (len(seeds) > 1)}", flush=True)
        told = [heard(folders, dataset, fmt, cache) for folders in seeds]
        truth, groups, folds = told[0][:3]
        if known is not None and not np.array_equal(known, groups):
            raise ValueError(f"{name} tested other clips than the rows before it: give runs of the same folds")
        known, nets = groups, columns([one[4] for one in told], truth, folds)
        singles = [net for net in nets["int8"] if net not in (PROD, CALIBRATED)]
        best = max(singles, key=lambda net: nets["int8"][net].hits.mean())
        table.append({
            "name": name,
            "bytes": max(one[3] for one in told),
            "seeds": len(seeds),
            **{form: {net: _described(column, groups) for net, column in some.items()} for form, some in nets.items()},
            "int8_less_float": {
                net: _described(column.less(nets["float"][net]), groups)
                for net, column in nets["int8"].items()
                if net != CALIBRATED
            },
            "best_single": best,
            "prod_less_best_single": _described(nets["int8"][PROD].less(nets["int8"][best]), groups),
            "less_row_before": before and _described(nets["int8"][PROD].less(before), groups),
        })  # fmt: skip
        before = nets["int8"][PROD]
    return {"data": dataset.name, "format": fmt, "n": len(known), "recordings": len(set(known)), "rows": table}


def _described(column, groups):
    return {
        "accuracy": float(column.hits.mean()),
        "accuracy_interval": list(bootstrap(column.hits, groups)),
        "log_loss": float(column.losses.mean()),
        "log_loss_interval": list(bootstrap(column.losses, groups)),
        **({"by_seed": list(column.by_seed)} if len(column.by_seed) > 1 else {}),
    }


def text(table):
    """The table of `compare` as lines for a terminal."""
    rows = table["rows"]
    nets = [net for net in rows[0]["int8"] if net not in (PROD, CALIBRATED)]
    width = max(len(row["name"]) for row in rows) + 2
    head = f"{'':<{width}}{'bytes':>9}" + "".join(f"{net:>15}" for net in [*nets, "PROD, float", "PROD, int8"])
    lines = [f"{table['data']}, every fold held out once, {table['n']} clips, {table['format']}: accuracy, log loss"]
    lines.append(f"{head}  {'95 %':<16}{'PROD calibrated':>15}")
    for row in rows:
        cells = [row["int8"][net] for net in nets] + [row["float"][PROD], row["int8"][PROD]]
        low, high = row["int8"][PROD]["accuracy_interval"]
        line = f"{row['name']:<{width}}{row['bytes']:>9,}" + "".join(f"{_cell(cell):>15}" for cell in cells)
        lines.append(f"{line}  {f'{low:.1%} to {high:.1%}':<16}{_cell(row['int8'][CALIBRATED]):>15}")
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
    (low, high), (least, most) = change["accuracy_interval"], change["log_loss_interval"]
    points = f"{100 * change['accuracy']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    loss = f"log loss {change['log_loss']:+.3f} [{least:+.3f}, {most:+.3f}]"
    return f"{n * change['accuracy']:+.3g} clips, {points}, {loss}"


def plot(path, table):
    """PNG: PROD of each row with its interval, and its nets beside it."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    rows = table["rows"]
    figure = Figure(figsize=(3 + 1.1 * len(rows), 4.2), layout="constrained")
    axes = figure.subplots()
    for net in rows[0]["int8"]:
        if net not in (PROD, CALIBRATED):
            axes.plot([100 * row["int8"][net]["accuracy"] for row in rows], "o", ms=4, label=net)
    shares = 100 * np.array([[row["int8"][PROD]["accuracy"], *row["int8"][PROD]["accuracy_interval"]] for row in rows])
    around = np.abs(shares[:, 1:].T - shares[:, 0])
    axes.errorbar(range(len(rows)), shares[:, 0], yerr=around, fmt="o-", color="black", capsize=4, label="PROD, 95 %")
    axes.set_xticks(range(len(rows)), [f"{row['name']}\n{row['bytes'] / 1024:.0f} KB" for row in rows])
    axes.set_ylabel(f"accuracy of {table['n']} clips, %, int8")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=110, format="png")


def main(argv=None):
    args = _arguments(argv)
    dataset = load_dataset(args.data)
    rows = {}
    for name, runs, bundle in args.rows:
        rows.setdefault(name, []).append({fold: runs / f"fold{fold}" / bundle for fold in dataset.folds})
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
