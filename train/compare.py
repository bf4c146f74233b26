"""All systems in one table.  python -m train.compare RUN RUN ... [--json FILE] [--plot PNG]

Accuracy and log loss over all folds together, parameters, multiply-accumulates of one patch, seconds of a training epoch;
bootstrap intervals of the accuracy and of its difference to the best row, clip by clip, over recordings.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from runtime import command
from runtime.files import write_atomic, write_text
from train.data import load_dataset
from train.features import CACHE
from train.results import by_member, load_results, pooled, pooled_groups
from train.run import load_run
from train.scores import accuracy_and_loss, difference, difference_text, intervals


def macs(model, in_shape):
    """Multiply-accumulates of convolutions, FC layers, GRUs and LSTMs for one patch of `in_shape` (planes, frames, bands).

    Element-wise work such as BN, pools and gates is not counted, as in devices.size; nor are filterbanks, learned ones
    included, and the products of features in P0's attention.
    """
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        if isinstance(layer, (nn.GRU, nn.LSTM)):
            n_frames = inputs[0].shape[1]  # batch of one
            total += n_frames * sum(p.numel() for name, p in layer.named_parameters() if name.startswith("weight"))
        elif isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * output.shape[2] * output.shape[3]
        else:
            total += layer.weight.numel() * (output.numel() // output.shape[-1])

    counted = (nn.Conv2d, nn.Linear, nn.GRU, nn.LSTM)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, counted)]
    was_training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, *in_shape))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


def rows_of(results):
    """Results -> [{"system", "spectrogram", "folds", "accuracy", "log_loss", "n", "parameters", ...}], best first."""
    members = by_member(results)
    scored = {name: (*pooled(runs), accuracy_and_loss(*pooled(runs))["accuracy"]) for name, runs in members.items()}
    best = max(scored, key=lambda name: scored[name][2])
    groups, known = pooled_groups(members[best])
    rows = []
    for (system, spectrogram), runs in members.items():
        truth, log_p, _ = scored[system, spectrogram]
        run = load_run(runs[0].folder)
        planes, bands = run.mean.shape
        seconds = [r.seconds_per_epoch for r in runs if r.seconds_per_epoch is not None]
        rows.append({
            "system": system,
            "spectrogram": spectrogram,
            "folds": [r.fold for r in runs],
            **accuracy_and_loss(truth, log_p),
            "interval": intervals(truth, log_p, groups),
            "to_best": difference(truth, log_p, scored[best][1], groups),
            "drawn": f"{len(set(groups))} {'recordings' if known else 'clips (--data PATH: recordings instead)'}",
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "macs": macs(run.model, (planes, run.patch.n_frames, bands)),
            "patch_s": run.patch.n_frames * run.frontend.hop_length / run.frontend.sr,
            "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["accuracy"])


def text(rows):
    """The rows as lines for a terminal."""
    width = max(len(row["system"]) for row in rows)
    heard = max(len(row["spectrogram"]) for row in rows)
    header = (
        f"{'system':{width}}  {'spectrogram':{heard}}  accuracy    95 % interval  log loss  parameters  MMAC/patch"
        "  patch s  s/epoch"
    )
    lines = [f"{rows[0]['n']} clips, folds {', '.join(map(str, rows[0]['folds']))}", header]
    for row in rows:
        interval = "{:.1%} to {:.1%}".format(*row["interval"]["accuracy"])
        seconds = "-" if row["seconds_per_epoch"] is None else f"{row['seconds_per_epoch']:.1f}"
        lines.append(
            f"{row['system']:{width}}  {row['spectrogram']:{heard}}  {row['accuracy']:>8.1%}  {interval:>15}"
            f"  {row['log_loss']:>8.3f}"
            f"  {row['parameters']:>10,}  {row['macs'] / 1e6:>10.1f}  {row['patch_s']:>7.2f}  {seconds:>7}"
        )
    lines.append(f"intervals: bootstrap over {rows[0]['drawn']}")
    best = f"{rows[0]['system']} {rows[0]['spectrogram']}"
    for row in rows[1:]:
        lines.append(f"  {row['system']} {row['spectrogram']} less {best}: {difference_text(row['to_best'])}")
    return "\n".join(lines)


def plot(path, rows):
    """PNG: a bar of accuracy per row, best on top, with its log loss, parameters and multiply-accumulates."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    figure = Figure(figsize=(10, 2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(reversed(rows)):
        accuracy, (low, high) = row["accuracy"], row["interval"]["accuracy"]
        axes.barh(i, 100 * accuracy, color="lightsteelblue")
        if low == low:  # no interval of one recording
            around = [[100 * (accuracy - low)], [100 * (high - accuracy)]]
            axes.errorbar(100 * accuracy, i, xerr=around, color="gray", capsize=2)
        note = f"{row['accuracy']:.1%}, log loss {row['log_loss']:.2f}, {row['parameters'] / 1e3:,.0f}k parameters, "
        axes.text(1, i, note + f"{row['macs'] / 1e6:,.0f} MMAC", va="center", fontsize=8)
    names = [f"{row['system']}: {row['spectrogram']}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"accuracy of {rows[0]['n']} clips, %")
    write_atomic(path, lambda partial: figure.savefig(partial, dpi=120, format="png"))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.compare", description=__doc__.split("  ")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder that python -m train --fold made")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="what the runs were trained on: scores those that kept no predictions"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw it")
    args = parser.parse_args(argv)
    rows = rows_of(load_results(args.runs, args.data and load_dataset(args.data), args.cache))
    print(text(rows))
    if args.json:
        write_text(args.json, json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(args.plot, rows)
    for path in filter(None, (args.json, args.plot)):
        print(f"made {path}")


if __name__ == "__main__":
    command.run(main)
