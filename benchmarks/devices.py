"""How far off the report is: latency of left-out rows, RAM against tflite-micro, weights in flash against published ones.

    python -m benchmarks.devices [--rows CSV --models DIR] [--json]
    python -m benchmarks.devices --write          # fits every profile again and writes it into devices/*.toml

Without arguments: the published rows that ship, and skeletons of their models. With them, the rows given are judged; the
ones that ship still help to fit. Where the package tflite-micro is installed it runs every file; otherwise its recorded
figures stand in (benchmarks/data/arena.csv).
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import left_out, rows, write
from benchmarks.left_out import Guess
from benchmarks.rows import Row
from devices import work
from devices.cost import MULTIPLIER
from devices.size import ModelSize
from runtime import command

TFLM = "tflite-micro 0.dev20261023182759, reference kernels"  # recorded the figures in arena.csv


def measure(rows_path: Path | None = None, folder: Path | None = None) -> dict[str, Any]:
    """-> every figure of the benchmark, plain JSON types, under dotted names; "details" holds the cases behind them."""
    shipped = rows.models()
    given, refused = rows.models_in(folder) if folder else ({}, {})
    sizes = {**shipped, **given}
    works = {name: work.of_model(size) for name, size in sizes.items()}
    known = left_out.usable(rows.read(rows.DATA / "rows.csv"), works)
    judged = known if rows_path is None else left_out.usable(rows.read(rows_path), works)
    seen = {(row.platform, row.file, row.ms) for row in judged}
    others = [row for row in known if (row.platform, row.file, row.ms) not in seen]
    families = left_out.by_family(judged, works, others)
    boards = left_out.by_board(judged, works, others)
    heads = _arena_heads(folder)
    here = given if folder else shipped
    ram = {name: (here[name].arena_bytes, head) for name, head in heads.items() if name in here}
    flash = _flash(rows.read(rows_path or rows.DATA / "rows.csv"), here)
    return {
        **_latency(families, boards),
        "ram.exact": float(np.mean([ours == theirs for ours, theirs in ram.values()])) if ram else None,
        "ram.files": len(ram),
        "flash.within_1pct": float(np.mean([case["within"] for case in flash])) if flash else None,
        "flash.files": len(flash),
        "details": {
            "worst_families": [_case(guess) for guess in sorted(families, key=lambda g: -g.off)[:12]],
            "worst_boards": [_case(guess) for guess in sorted(boards, key=lambda g: -g.off)[:12]],
            "ram_differences": {name: pair for name, pair in ram.items() if pair[0] != pair[1]},
            "refused": refused,
            "flash": [case for case in flash if case["note"] or not case["within"]],
        },
    }


def _latency(families: Sequence[Guess], boards: Sequence[Guess]) -> dict[str, Any]:
    if not families:
        raise ValueError("no row names a model that is here, a time and a clock")
    deviations = [guess.deviation for guess in families]
    return {
        "latency.rows": len(families),
        "latency.median_error": float(np.median([guess.error for guess in families])),
        "latency.coverage": _covered(families),
        "latency.coverage_without_own_family": _crosswise(families, "family"),
        "latency.high_over_low": float(np.exp(2 * MULTIPLIER * np.median(deviations))),
        "latency.left_out_board.median_error": float(np.median([guess.error for guess in boards])),
        "latency.left_out_board.coverage": _covered(boards),
        "latency.left_out_board.high_over_low": float(
            np.exp(2 * MULTIPLIER * np.median([g.deviation for g in boards]))
        ),
        "latency.left_out_board.known_from": dict(Counter(guess.known_from for guess in boards)),
    }


def _covered(guesses: Sequence[Guess]) -> float:
    return float(np.mean([guess.off <= MULTIPLIER for guess in guesses]))


def _crosswise(guesses: Sequence[Guess], key: str) -> float:
    """Coverage where the width, too, is taken from other families only: their 90 % quantile."""
    inside: list[bool] = []
    for value in {getattr(guess.row, key) for guess in guesses}:
        rest = [guess.off for guess in guesses if getattr(guess.row, key) != value]
        width = np.quantile(rest, 0.9) if rest else MULTIPLIER
        inside += [bool(guess.off <= width) for guess in guesses if getattr(guess.row, key) == value]
    return float(np.mean(inside))


def _case(guess: Guess) -> dict[str, Any]:
    row, factor = guess.row, float(np.exp(MULTIPLIER * guess.deviation))
    return {"board": row.board, "runtime": row.system, "file": row.file, "measured_ms": row.ms,
            "estimated_ms": [round(guess.ms / factor, 3), round(guess.ms * factor, 3)],
            "known_from": guess.known_from, "reason": _reason(guess)}  # fmt: skip


def _reason(guess: Guess) -> str:
    row = guess.row
    if row.runtime == "TFLM reference kernels":
        return "portable kernels, 8 to 40 times slower than the optimised ones every other row has"
    if guess.known_from not in ("itself", "core + runtime + version"):
        return f"no row of this pair elsewhere, known from: {guess.known_from}"
    if row.family == "mobilenet_v1" and row.ms is not None and guess.ms > row.ms:
        return "faster than its other families suggest; probably kernels for depthwise layers of few channels"
    if not row.core.startswith("Cortex-M"):
        return "vector unit: layers that fill it and layers that do not differ by more than the families at hand show"
    return "its families disagree by more than their kernels explain"


def _flash(published: Sequence[Row], sizes: Mapping[str, ModelSize]) -> list[dict[str, Any]]:
    """Weights as a runtime stores them against the published figures, a file once."""
    cases = {}
    for row in published:
        if row.flash_kib and row.file in sizes and row.runtime == "X-CUBE-AI":
            ours, theirs = sizes[row.file].flash_bytes, row.flash_kib * 1024
            thousand = abs(row.flash_kib * 1000 - ours) / ours < 1e-4  # the figure is the same number of bytes / 1000
            within = thousand or abs(ours / theirs - 1) <= 0.01
            note = "published in units of 1000 bytes" if thousand else ""
            cases[row.file] = {"file": row.file, "ours": ours, "published_kib": row.flash_kib, "within": within,
                               "note": note}  # fmt: skip
    return list(cases.values())


def _arena_heads(folder: Path | None) -> dict[str, int]:
    """File -> bytes of tflite-micro's arena head: run here where the package is installed, else as recorded."""
    if folder is not None and (found := write.run_tflite_micro(sorted(folder.glob("*.tflite")))):
        return found
    with (rows.DATA / "arena.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: int(row["arena_head_bytes"]) for row in csv.DictReader(file)}


def _text(found: Mapping[str, Any]) -> str:
    lines = [f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"
             for name, value in found.items() if name != "details"]  # fmt: skip
    for kind in ("worst_families", "worst_boards"):
        lines += ["", f"{kind.replace('_', ' ')}, measured against the interval:"]
        for case in found["details"][kind]:
            low, high = case["estimated_ms"]
            lines.append(f"  {case['board']}, {case['file']}, {case['runtime'][:60]}: {case['measured_ms']:.4g} ms, "
                         f"estimated {low:.4g} to {high:.4g}: {case['reason']}")  # fmt: skip
    lines += [f"left out, {said}" for said in found["details"]["refused"].values()]
    for name, (ours, theirs) in found["details"]["ram_differences"].items():
        lines.append(f"RAM of {name}: {ours} here, {theirs} in tflite-micro")
    for case in found["details"]["flash"]:
        lines.append(
            f"flash of {case['file']}: {case['ours']} bytes here, {case['published_kib']} published. {case['note']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description="How far off the report is.")
    parser.add_argument("--rows", type=Path, help="CSV of measurements to judge by; default: those that ship")
    parser.add_argument("--models", type=Path, help="folder of the model files that the rows name")
    parser.add_argument("--json", action="store_true", help="the same figures as JSON")
    parser.add_argument("--write", action="store_true", help="fit every profile to the rows that ship, and write it")
    args = parser.parse_args()
    if args.write:
        print("\n".join(write.profiles()))
        return
    found = measure(args.rows, args.models)
    print(json.dumps(found, indent=1) if args.json else _text(found))


if __name__ == "__main__":
    command.run(main)
