"""The DCASE protocol of TAU Urban Acoustic Scenes 2020 to 2022, whole.  python -m compress.dcase --data TAU --budget 128kb

Trains compress.cnn7 on the published training list, whose flags this takes too, and scores the deployed files on the
published test list; --bundle BUNDLE scores one that is there. Accuracy and log loss over clips and averaged over classes,
class by class, device by device, devices that training had and those it had not; parameters, bytes and
multiply-accumulates by every year's rules. Any data set with lists and devices has such a table.
"""

import argparse
from pathlib import Path

import numpy as np

from compress import cnn7, deployed
from compress.size import fits, parse_bytes
from compress.written import write_table
from devices.size import conventions, read_model
from runtime import command, engine
from runtime.bundle import Bundle
from train.data import DataError, load_dataset, split
from train.features import CACHE
from train.scores import accuracy_and_loss, intervals, plain

GROUPS = {"A": "a", "B, C": "b c", "S1 to S3": "s1 s2 s3", "S4 to S6": "s4 s5 s6"}  # TAU's devices, as they were made
PRINTED = {  # P3, PROD of three spectrograms on TAU 2020, %
    "all": 66.7, "a": 79.1, "b": 69.6, "c": 70.8, "s1": 65.8, "s2": 63.6, "s3": 67.0, "s4": 63.9, "s5": 60.0, "s6": 60.3,
}  # fmt: skip
PRINTED_ON = "TAU-urban-acoustic-scenes-2020-mobile-development"


def protocol(bundle, dataset, fold, cache, budget_bytes=None):
    """-> all that the protocol asks for, as --json writes it: see the keys. Raises DataError."""
    clips = deployed.test_clips(bundle, dataset, fold)
    hear = deployed.from_features(bundle, clips, cache)
    log_p = deployed.log_probabilities(bundle, clips, hear, "as recorded", cache, bundle.folder.name)
    nets = dict(zip([member.name for member in bundle.members], log_p)) if len(log_p) > 1 else {}
    nets[bundle.fuse.upper()] = deployed.fused(bundle, log_p)
    truth = np.array([dataset.labels.index(clip.label) for clip in clips])
    known = {clip.device for clip in split(dataset, fold)[0]}

    def rows(parts):
        """{name: (clips,) whether each belongs to it} -> its scores, where it has any."""
        return {
            name: {"n": int(here.sum()), "nets": {k: _pair(truth[here], p[here]) for k, p in nets.items()}}
            for name, here in parts.items()
            if here.any()
        }

    device = np.array([clip.device for clip in clips])
    by_class = rows({label: truth == i for i, label in enumerate(dataset.labels)})
    by_device = rows({name: device == name for name in sorted(set(device) - {""})})
    for name, row in by_device.items():
        row["trained_on"] = name in known
    groups = {title: np.isin(np.char.lower(device), names.split()) for title, names in GROUPS.items()}
    groups |= {
        "trained on": np.isin(device, sorted(known - {""})),
        "never trained on": (device != "") & ~np.isin(device, sorted(known)),
    }
    short = [deployed.n_looped(clips, member.frontend, member.patch.n_static) for member in bundle.members]
    return {
        "data": dataset.name,
        "fold": fold,
        "bundle": str(bundle.folder),
        "format": bundle.format,
        "held_out": deployed.is_held_out(bundle, dataset, fold),
        "n": len(clips),
        "looped_clips": max(short),
        "places": len({clip.group for clip in clips}),
        "interval": intervals(truth, nets[bundle.fuse.upper()], [clip.group for clip in clips]),
        "all": rows({"all clips": truth >= 0})["all clips"]["nets"],
        "mean_of_classes": _mean_of(by_class, list(nets)),
        "per_class": by_class,
        "per_device": by_device,
        "groups": rows(groups) if by_device else {},
        **_rules(bundle, budget_bytes),
    }


def _pair(truth, log_p):
    scores = accuracy_and_loss(truth, log_p)
    return {"accuracy": scores["accuracy"], "log_loss": scores["log_loss"]}


def _mean_of(rows, nets):
    """Each class counts the same, as DCASE ranks: mean accuracy, mean log loss of the classes, per net."""
    keys = ("accuracy", "log_loss")
    return {
        net: {key: float(np.mean([row["nets"][net][key] for row in rows.values()])) for key in keys} for net in nets
    }


def _rules(bundle, budget_bytes):
    """The deployed files as each year's rules count them, and against the budget."""
    paths = [member.path(bundle.format) for member in bundle.members]
    file_bytes = [path.stat().st_size for path in paths]
    budget = {} if budget_bytes is None else {"budget_bytes": budget_bytes, "fits": fits(file_bytes, budget_bytes)}
    return {
        "rules": conventions(*(read_model(path) for path in paths)),
        "patch_s": [one.patch.n_frames * one.frontend.hop_length / one.frontend.sr for one in bundle.members],
        "file_bytes": sum(file_bytes),
        **budget,
    }


def text(table):
    """The table as lines for a terminal."""
    nets = list(table["all"])
    width = max(16, *(len(name) + 2 for name in table["per_class"]))
    heard = "" if table["held_out"] else "; the bundle does not say that it was trained on this list's other half"
    title = f"{table['data']}, fold {table['fold']}, {table['n']} test clips, {table['format']} files{heard}"
    head = f"{'':<{width}}{'clips':>7}" + "".join(f"{net:>16}" for net in nets)
    printed = PRINTED if table["data"] == PRINTED_ON else {}
    lines = [title, head + ("     P3" if printed else ""), "accuracy, log loss"]

    def line(name, n, scores, paper=None, note=""):
        cells = "".join(f"{scores[net]['accuracy']:>9.1%}{scores[net]['log_loss']:>7.3f}" for net in nets)
        return f"{name:<{width}}{n:>7,}{cells}{f'{paper:>7.1f}' if paper else ''}{note}"

    lines.append(line("all clips", table["n"], table["all"], printed.get("all")))
    lines.append(line("mean of classes", table["n"], table["mean_of_classes"]))
    lines += [line(name, row["n"], row["nets"]) for name, row in table["per_class"].items()]
    for name, row in table["per_device"].items():
        note = "" if row["trained_on"] else "  never trained on"
        lines.append(line(f"device {name.upper()}", row["n"], row["nets"], printed.get(name.lower()), note))
    lines += [line(name, row["n"], row["nets"]) for name, row in table["groups"].items()]
    if not table["per_device"]:
        lines.append("the data set does not say which devices recorded it")
    interval = " to ".join(f"{share:.1%}" for share in table["interval"]["accuracy"])
    lines.append(f"{nets[-1]}: 95 % interval {interval}, bootstrap over {table['places']} places or recordings")
    if table["looped_clips"]:
        lines.append(
            f"{table['looped_clips']} clips are shorter than a patch of {max(table['patch_s']):.2f} s and were repeated"
        )
    return "\n".join([*lines, "", *_rules_text(table)])


def _rules_text(table):
    patches_s = ", ".join(f"{seconds:.2f}" for seconds in table["patch_s"])
    lines = [f"by each year's rules, one pass of every net (patches of {patches_s} s):"]
    for row in table["rules"]:
        most = f", at most {row['macs_limit'] / 1e6:g} MMAC" if row["macs_limit"] else ""
        over = [row["of"]] * (row[row["of"]] > row["limit"])
        over += ["MACs"] * bool(row["macs_limit"] and row["macs"] > row["macs_limit"])
        verdict = "passes" if row["verdict"] == "fits" else f"fails: {' and '.join(over)}"
        lines.append(
            f"  {row['year']}  {row['parameters']:>9,} parameters, {row['bytes']:>9,} bytes, {row['macs'] / 1e6:,.1f} MMAC; "
            f"{verdict} ({row['note']}{most})"
        )
    files = f"  files {table['file_bytes']:,} bytes"
    if "fits" in table:
        files += f", {'within' if table['fits'] else 'OVER'} the budget of {table['budget_bytes']:,}"
    return [*lines, files]


def plot(path, table):
    """PNG: accuracy per device and per class; devices that training did not have are hatched."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    parts = [part for part in ("per_device", "per_class") if table[part]]
    figure = Figure(figsize=(9, 3.5 * len(parts)), layout="constrained")
    nets = list(table["all"])
    for axes, part in zip(np.atleast_1d(figure.subplots(len(parts), 1)), parts):
        for k, net in enumerate(nets):
            at = np.arange(len(table[part])) + (k - (len(nets) - 1) / 2) * 0.8 / len(nets)
            shares = [100 * row["nets"][net]["accuracy"] for row in table[part].values()]
            bars = axes.bar(at, shares, 0.8 / len(nets), label=net)
            for bar, row in zip(bars, table[part].values()):
                bar.set_hatch("" if row.get("trained_on", True) else "//")
        names = [name.upper() if part == "per_device" else name for name in table[part]]
        axes.set_xticks(range(len(names)), [plain(name) for name in names], rotation=0 if part == "per_device" else 30)
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 100)
    figure.get_axes()[0].legend(ncols=len(nets), fontsize=8)
    figure.savefig(path, dpi=110, format="png")


def trained_bundle(args, rest, dataset, fold):
    """Train and export what is not there. -> the bundle's folder"""
    call = [
        "--budget", args.budget, "--data", str(args.data), "--fold", str(fold), "--cache", str(args.cache),
        "--runs", str(args.out / "runs"), "--out", str(args.out / "bundle"), *rest,
    ]  # fmt: skip
    cnn7.make(cnn7.arguments(call), dataset)
    return args.out / "bundle"


def main(argv=None):
    args, rest = _arguments(argv)
    dataset = load_dataset(args.data)
    budget_bytes, fmt = parse_bytes(args.budget) if args.budget else None, engine.choose(args.engine)
    fold = args.fold
    if fold is None:
        fold = deployed.held_out_fold(Bundle.load(args.bundle, fmt), dataset) if args.bundle else dataset.folds[0]
    if not split(dataset, fold)[1]:  # before hours of training
        raise DataError(f"--fold {fold} tests nothing: choose some of {', '.join(map(str, dataset.folds))}")
    folder = args.bundle or trained_bundle(args, rest, dataset, fold)
    table = protocol(Bundle.load(folder, fmt), dataset, fold, args.cache, budget_bytes)
    print(f"\n{text(table)}")
    write_table(args.out / "dcase", text(table), table, plot)
    print(f"\nmade {args.out / 'dcase'}.txt, .json and .png")


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m compress.dcase", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="other flags are those of python -m compress.cnn7: --epochs, --teacher, --seed ...", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder of TAU 2020 or 2022, development set")
    parser.add_argument("--budget", help="bytes for the three deployed files, such as 128kb; trains that, or checks it")
    parser.add_argument("--bundle", type=Path, help="score this one; trains nothing")
    parser.add_argument("--fold", type=int, help="default: what --bundle held out; to train, the first, TAU's only one")
    parser.add_argument("--engine", choices=("tflite", "onnx"), help="default: what is installed")
    parser.add_argument("--out", type=Path, default=Path("runs/dcase"), help="folder of trainings, bundle and tables")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features and scores are kept")
    args, rest = parser.parse_known_args(argv)
    if args.bundle and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)} (--bundle trains nothing)")
    if not args.bundle and not args.budget:
        parser.error("give --budget 128kb to train a bundle, or --bundle to score one")
    return args, rest


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on where it was")
