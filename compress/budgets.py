"""Accuracy against the budget.  python -m compress.budgets --budgets 32kb 64kb 128kb 256kb --data PATH --runs FOLDER

Every budget's three nets, every fold held out once: a table, JSON and a picture. What is done is kept. Other options are
those of compress.folds: --epochs, --seed, --teachers RUNS, --noise-share, ...
"""

import argparse
import io
import json
from pathlib import Path

from compress import folds
from compress.shapes import largest_fitting
from compress.size import parse_bytes
from devices.trained import wilson
from runtime import command
from runtime.files import read_json, write_atomic
from train.data import RECORDINGS, load_dataset


def main(argv=None):
    args = _arguments(argv)
    dataset = load_dataset(args.data)
    for budget in args.budgets:  # an option that is none, or a budget that nothing fits, ends it here
        largest_fitting(budget, len(dataset.labels))
        folds.checked(folds.arguments(_call(args, budget)), dataset)
    rows = []
    for budget in args.budgets:
        print(f"\n{_name(budget)}: {len(dataset.folds)} folds", flush=True)
        call = folds.arguments(_call(args, budget))
        folds.main(_call(args, budget))
        rows.append(_row(budget, call, dataset.folds))
        write_atomic(args.runs / "budgets.json", lambda path: path.write_text(json.dumps(rows, indent=1) + "\n"))
        write_atomic(args.runs / "budgets.png", lambda path: path.write_bytes(png(rows)))
    print(f"\n{text(rows)}\nmade {args.runs}/budgets.json and budgets.png")


def _call(args, budget):
    """What to call compress.folds with."""
    return [*args.rest, "--budget", str(budget), "--data", str(args.data), "--runs", str(args.runs / _name(budget))]


def _name(budget):
    return f"{budget // 1024}kb" if budget % 1024 == 0 else f"{budget}b"


def _row(budget, call, fold_numbers):
    """-> a budget's row: what the nets weigh, at most in any fold, and what compress.folds has scored."""
    bundle = "bundle-qat" if call.qat_epochs else "bundle"
    bundles = [read_json(call.runs / f"fold{fold}" / bundle / "bundle.json") for fold in fold_numbers]
    scored = read_json(folds.table_path(call))
    low, high = wilson(scored["PROD"]["tflite"]["accuracy"], scored["PROD"]["tflite"]["n"])
    return {
        "budget_bytes": budget,
        "widths": read_json(call.runs / f"fold{fold_numbers[0]}" / "mel" / "meta.json")["kwargs"]["widths"],
        "bytes": {
            fmt: max(sum(member["files"][fmt]["bytes"] for member in b["members"]) for b in bundles)
            for fmt in ("tflite", "onnx")
        },
        "epochs": call.epochs,
        "qat_epochs": call.qat_epochs,
        "seed": call.seed,
        "taught": bool(call.teachers or call.taught_by),
        "interval_95": [low, high],
        "scores": scored,
    }


def text(rows):
    """Rows of `_row` -> a table; accuracies of the int8 TFLite files."""
    head = ["budget", "tflite B", "onnx B", "widths of mel", "mel", "gam", "cqt", "PROD", "Wilson 95 %", "log loss",
            "PROD float"]  # fmt: skip
    table = [head]
    for row in rows:
        of = {net: columns["tflite"] for net, columns in row["scores"].items()}
        low, high = row["interval_95"]
        singles = [f"{of[net]['accuracy']:.1%}" for net in ("mel", "gam", "cqt", "PROD")]
        table.append([
            _name(row["budget_bytes"]), *(f"{n:,}" for n in row["bytes"].values()), "/".join(map(str, row["widths"])),
            *singles, f"{low:.1%} to {high:.1%}", f"{of['PROD']['log_loss']:.2f}",
            f"{row['scores']['PROD']['float']['accuracy']:.1%}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table)]
    n, epochs = rows[0]["scores"]["PROD"]["tflite"]["n"], rows[0]["epochs"]
    taught = ", taught" if rows[0]["taught"] else ""
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in table]
    return "\n".join([f"every fold held out once, {n} clips, {epochs} epochs{taught}, int8 unless said", *lines])


def png(rows):
    """Rows of `_row` -> bytes of a PNG: accuracy of each net and of PROD, int8, against the bytes of the files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    ax = figure.subplots()
    kb = [row["bytes"]["tflite"] / 1024 for row in rows]
    for net in ("mel", "gam", "cqt"):
        ax.plot(kb, [100 * row["scores"][net]["tflite"]["accuracy"] for row in rows], "o--", ms=4, lw=1, label=net)
    prod = [100 * row["scores"]["PROD"]["tflite"]["accuracy"] for row in rows]
    low, high = zip(*(row["interval_95"] for row in rows))
    spread = [[p - 100 * a for p, a in zip(prod, low)], [100 * b - p for p, b in zip(prod, high)]]
    ax.errorbar(kb, prod, yerr=spread, fmt="o-", color="black", capsize=4, label="PROD of the three, Wilson 95 %")
    ax.set_xscale("log", base=2)
    ax.set_xticks(kb, [f"{n:.0f}" for n in kb])
    ax.minorticks_off()
    ax.set_xlabel("three TFLite files, KB (1024 bytes)")
    ax.set_ylabel("accuracy, %, int8")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9, loc="lower right")
    ax.set_title(f"Every fold held out once, {rows[0]['scores']['PROD']['tflite']['n']} clips", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m compress.budgets", allow_abbrev=False,
        description="Accuracy against the budget. Other options are those of compress.folds, which trains: see there.",
    )  # fmt: skip
    parser.add_argument(
        "--budgets", nargs="+", required=True, metavar="BYTES", help="for the three files of one format: 32kb 64kb ..."
    )
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/budgets"),
        help="where trainings and bundles are kept (default %(default)s)",
    )
    args, args.rest = parser.parse_known_args(argv)
    args.budgets = sorted({parse_bytes(budget) for budget in args.budgets})
    return args


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
