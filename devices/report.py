"""Which boards carry a bundle or a model file, what it costs there, and why it does not fit.

    python -m devices.report BUNDLE|MODEL [--device NAME ...] [--json | --markdown] [--html FILE]
                                    [--runs N] [--threads N] [--trained FOLDER ...] [--ethos-u NPU]

Counts are read from the files. Latency on this machine is measured; latency on a board is estimated, an interval that
nine of ten measurements are expected in. Nets run one after another: RAM is the largest plan, milliseconds are sums.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from devices import board, ethos, machine, profile, trained, work
from devices.latency import WARM_UP, Open, check, measure, open_model, open_net
from devices.size import ModelSize, conventions, read_model
from devices.text import markdown, report_text
from runtime import command
from runtime.bundle import DEFAULT
from runtime.files import write_text

__all__ = ["report_dict", "report_text"]

BUDGET_BYTES = 131_072  # 128 KB
_COUNTS = ("parameters", "nonzero_parameters", "parameter_bytes", "file_bytes", "macs", "peak_activation_bytes")
_PLANNED = ("arena_bytes", "fused_bytes", "flash_bytes")


def report_dict(
    path: str | Path,
    devices: Sequence[str] = profile.DEFAULTS,
    runs: int = 50,
    threads: int = 1,
    warm_up: int = WARM_UP,
    trained_in: Sequence[Path] = (),
    ethos_u: str | None = None,
) -> dict[str, Any]:
    """Every number of the report for a bundle folder or a model file; plain JSON types.

    runs: timed inferences per file after the warm-up; 0 measures nothing. trained_in: folders of trainings whose scores
    to show. ethos_u: of `ethos.CONFIGURATIONS`. Raises ValueError, one line, for a bad file or device name.
    """
    profiles = {name: profile.load(name) for name in devices if name != machine.HERE}
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder: name a bundle's folder, a .tflite or an .onnx file")
    bundle = path.is_dir()
    rows, product = _bundle_rows(path, runs, threads) if bundle else ([_model_row(path, threads)], None)
    for row in rows:
        opened = row.pop("open")
        row["measured"] = measure(opened, row["format"], runs, threads, warm_up) if runs else None
    formats = {}
    for fmt in sorted({row["format"] for row in rows}, reverse=True):  # tflite first
        formats[fmt] = _format_sums([row for row in rows if row["format"] == fmt])
    deployed = next(iter(formats))  # boards are judged on the first format
    nets = [row for row in rows if row["format"] == deployed]
    return {
        "name": path.resolve().name,
        "kind": "bundle" if bundle else "model",
        "date": date.today().isoformat(),
        "budget_bytes": BUDGET_BYTES,
        "models": [{key: value for key, value in row.items() if key not in ("size", "path")} for row in rows],
        "formats": formats,
        "conventions": conventions(*(row["size"] for row in nets)),
        "product": product,
        "devices": [
            board.on_device(profiles[name], nets, formats[deployed], deployed, product)
            if name in profiles
            else _here(path, rows, formats, product)
            for name in dict.fromkeys(devices)
        ],
        "machine": machine.facts(),
        "trained": [_scored(one) for folder in trained_in for one in trained.scores(folder, path if bundle else None)],
        "ethos_u": [_on_npu(row, ethos_u) for row in nets] if ethos_u else [],
    }


def _on_npu(row: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    return {"name": row["name"], "configuration": configuration, **ethos.estimate(row["path"], configuration)}


def _scored(score: trained.Score) -> dict[str, Any]:
    return {**asdict(score), "interval": list(trained.wilson(score.accuracy, score.n))}


def _here(path: Path, rows: Sequence[dict[str, Any]], formats: Mapping[str, Any], product: Any) -> dict[str, Any]:
    """This machine's row: the first format that an engine here has run, or the first one."""
    of = {fmt: [row for row in rows if row["format"] == fmt] for fmt in formats}
    ran = [fmt for fmt, nets in of.items() if all("median_ms" in (net["measured"] or {}) for net in nets)]
    fmt = next(iter(ran or formats))
    this = machine.profile(fmt, path, [net["measured"] for net in of[fmt]] if ran else [])
    return board.on_device(this, of[fmt], formats[fmt], fmt, product, here=True)


def _model_row(path: Path, threads: int) -> dict[str, Any]:
    size = read_model(path)
    return _row(path.stem, path, size, open_model(path, size, threads), frontend_bytes=0, patches_per_s=None)


def _bundle_rows(folder: Path, runs: int, threads: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """-> a row per file, and the product around the nets."""
    from devices import frontends
    from runtime.bundle import Bundle

    bundle = Bundle.load(folder)
    rows, costs = [], []
    for member in bundle.members:
        own = frontends.of_member(member, measured=runs > 0)
        costs += [{**asdict(cost), "ram_bytes": cost.ram_bytes} for cost in own]
        table_bytes = sum(cost.table_bytes for cost in own)
        for fmt in (fmt for fmt in ("tflite", "onnx") if fmt in member.files):
            member.verify(fmt)
            shape = (1, *member.in_shape)
            opened = open_net(member.path(fmt), shape, threads)
            per_s = member.frontend.sr / member.stride_samples
            path = member.path(fmt)
            rows.append(_row(member.name, path, read_model(path), opened, table_bytes, per_s))
    return rows, {"window_s": bundle.window_s, "hop_s": bundle.hop_s, "frontends": costs}


def _row(
    name: str, path: Path, size: ModelSize, opened: Open, frontend_bytes: int, patches_per_s: float | None
) -> dict[str, Any]:
    """One model file. patches_per_s: how many a second of audio needs."""
    counts = {key: getattr(size, key) for key in (*_COUNTS, *_PLANNED)}
    layers = [
        {"op": op.op, "output_shape": list(op.output_shape), "macs": op.macs, "live_bytes": op.live_bytes}
        for op in size.ops
    ]
    row = {"name": name, "format": size.format, "precision": size.precision, **counts, "frontend_bytes": frontend_bytes}
    row |= {"patches_per_s": patches_per_s, "work": work.of_model(size).tolist(), "layers": layers}
    return {**row, "path": path, "size": size, "open": opened}


def _format_sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All files of one format together; the RAM is that of the largest, since they run one after another."""
    sums = {key: sum(row[key] for row in rows) for key in (*_COUNTS, *_PLANNED, "frontend_bytes")}
    for key in ("peak_activation_bytes", "arena_bytes", "fused_bytes"):
        sums[key] = max(row[key] for row in rows)
    sums["precision"] = "+".join(sorted({row["precision"] for row in rows}))
    sums["within_budget"] = sums["file_bytes"] <= BUDGET_BYTES
    sums["work"] = np.sum([row["work"] for row in rows], axis=0).tolist()
    rates = [row["patches_per_s"] for row in rows]
    known = None not in rates
    sums["macs_per_s"] = sum(row["macs"] * rate for row, rate in zip(rows, rates)) if known else None
    per_s = np.sum([np.multiply(row["work"], rate or 0) for row, rate in zip(rows, rates)], axis=0)
    sums["work_per_s"] = per_s.tolist() if known else None
    return sums


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0, or 2 with one line on stderr for what the user can mend."""
    args = _arguments(argv)
    try:
        check(args.runs, args.threads, args.warm_up)
        report = report_dict(
            args.path, _names(args.device), args.runs, args.threads, args.warm_up, args.trained, args.ethos_u
        )
        if args.html:
            from devices.page import page

            write_text(args.html, page(report))
    except (ValueError, OSError, ImportError) as error:  # a wrong file or name, or no engine for a bundle
        print(f"devices.report: {command.one_line(error)}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(markdown(report) if args.markdown else report_text(report), end="")
    return 0


def _names(given: Sequence[str] | None) -> list[str]:
    """--device -> names in that order, each once; "all" stands for every board that has a profile."""
    asked = [profile.names() if name == "all" else [name] for name in given or profile.DEFAULTS]
    return list(dict.fromkeys(name for names in asked for name in names))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m devices.report", description="Which boards carry it, and why not.")
    parser.add_argument(
        "path",
        nargs="?",
        default=str(DEFAULT),
        metavar="BUNDLE|MODEL",
        help="a bundle folder, a .tflite or an .onnx file (default: the bundle that ships)",
    )
    parser.add_argument("--device", nargs="+", action="extend", metavar="NAME",
                        help=f"here (this machine), all, a .toml file, or of {', '.join(profile.names())}")  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="the same numbers as JSON")
    output.add_argument("--markdown", action="store_true", help="as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page with plots, too")
    parser.add_argument("--trained", type=Path, nargs="+", default=[], metavar="FOLDER",
                        help="runs of train, compress.cnn7 or compress.folds: adds accuracy against bytes")  # fmt: skip
    npus = ", ".join(ethos.CONFIGURATIONS)
    parser.add_argument("--ethos-u", choices=ethos.CONFIGURATIONS, metavar="NPU",
                        help=f"add what ethos-u-vela says, where it is installed; one of {npus}")  # fmt: skip
    parser.add_argument("--runs", "--measure", type=int, nargs="?", const=50, default=50, metavar="N",
                        help="timed inferences per file on this machine; 0: do not measure (50)")  # fmt: skip
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help=f"inferences before them ({WARM_UP})")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
