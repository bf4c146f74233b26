"""What a bundle or a model file costs, and which boards carry it.

    python -m devices.report BUNDLE|MODEL [--device NAME ...] [--json] [--runs N]

Counts are read from the files. Latency on this machine is measured; latency on a board is estimated, an interval.
Nets run one after another: RAM is the largest peak, MACs and milliseconds are sums.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devices import profile
from devices.latency import Open, measure, open_model, open_net
from devices.size import ModelSize, conventions, read_model

BUDGET_BYTES = 131_072  # 128 KB
_COUNTS = ("parameters", "nonzero_parameters", "parameter_bytes", "file_bytes", "macs", "peak_activation_bytes")


def report_dict(path: str | Path, devices: Sequence[str] = profile.DEFAULTS, runs: int = 50) -> dict[str, Any]:
    """Every number of the report for a bundle folder or a model file; plain JSON types.

    runs: timed inferences per file after the warm-up; 0 measures nothing. Raises ValueError, one line, for a bad file
    or device name.
    """
    profiles = [profile.load(name) for name in devices]
    bundle = Path(path).is_dir()
    rows = _bundle_rows(Path(path)) if bundle else [_model_row(Path(path))]
    for row in rows:
        opened = row.pop("open")
        row["measured"] = measure(opened, row["format"], runs) if runs else None
    formats = {}
    for fmt in sorted({row["format"] for row in rows}, reverse=True):  # tflite first
        formats[fmt] = _format_sums([row for row in rows if row["format"] == fmt])
    deployed = next(iter(formats))  # boards are judged on the first format
    return {
        "name": Path(path).resolve().name,
        "kind": "bundle" if bundle else "model",
        "budget_bytes": BUDGET_BYTES,
        "models": [{key: value for key, value in row.items() if key != "size"} for row in rows],
        "formats": formats,
        "conventions": conventions(*(row["size"] for row in rows if row["format"] == deployed)),
        "devices": [_on_device(board, formats[deployed], deployed) for board in profiles],
    }


def _model_row(path: Path) -> dict[str, Any]:
    size = read_model(path)
    return _row(path.stem, size, open_model(path, size), frontend_bytes=0, patches_per_s=None)


def _bundle_rows(folder: Path) -> list[dict[str, Any]]:
    from runtime.bundle import Bundle
    from runtime.frontend import table_bytes

    rows = []
    for member in Bundle.load(folder).members:
        frontend = member.frontend
        for fmt in (fmt for fmt in ("tflite", "onnx") if fmt in member.files):
            member.verify(fmt)
            opened = open_net(member.path(fmt), (1, 3, member.n_frames, frontend.n_bands))
            per_s = frontend.sr / member.stride_samples
            rows.append(_row(member.name, read_model(member.path(fmt)), opened, table_bytes(frontend), per_s))
    return rows


def _row(name: str, size: ModelSize, opened: Open, frontend_bytes: int, patches_per_s: float | None) -> dict[str, Any]:
    """One model file. patches_per_s: how many a second of audio needs."""
    counts = {key: getattr(size, key) for key in _COUNTS}
    row = {"name": name, "format": size.format, "precision": size.precision, **counts}
    return {**row, "frontend_bytes": frontend_bytes, "patches_per_s": patches_per_s, "size": size, "open": opened}


def _format_sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All files of one format together; the RAM is that of the largest, since they run one after another."""
    sums = {key: sum(row[key] for row in rows) for key in (*_COUNTS, "frontend_bytes")}
    sums["peak_activation_bytes"] = max(row["peak_activation_bytes"] for row in rows)
    sums["precision"] = "+".join(sorted({row["precision"] for row in rows}))
    sums["within_budget"] = sums["file_bytes"] <= BUDGET_BYTES
    rates = [row["patches_per_s"] for row in rows]
    sums["macs_per_s"] = None if None in rates else sum(row["macs"] * rate for row, rate in zip(rows, rates))
    return sums


def _on_device(board: profile.Profile, sums: dict[str, Any], fmt: str) -> dict[str, Any]:
    """Whether the files fit, and the estimated interval [low, high] in ms; None where the profile cannot know."""
    verdict, why = board.fit(sums["file_bytes"] + sums["frontend_bytes"], sums["peak_activation_bytes"])
    int8 = sums["precision"] in ("int8", "uint8")
    per_s = sums["macs_per_s"]
    return {
        "device": board.name,
        "board": board.board,
        "runtime": f"{board.runtime} {board.version}",
        "format": fmt,
        "verdict": verdict,
        "why": why,
        "estimated_ms": list(board.latency_ms(sums["macs"])) if int8 else None,
        "estimated_ms_per_s": list(board.latency_ms(per_s)) if int8 and per_s is not None else None,
        "measured_board": board.measured,
        "source": board.source if int8 else f"no estimate: the profile is for int8, the model is {sums['precision']}",
    }


def report_text(report: dict[str, Any]) -> str:
    """The report as text for a terminal or a code block. report: from `report_dict`."""
    lines = [f"{report['name']} ({report['kind']})", "", *_files_text(report)]
    lines += ["", "How each year of the DCASE low-complexity task would count the first format:"]
    head = ["year", "parameters", "bytes", "MACs", "verdict", "what it counts"]
    years = [
        [r[key] for key in ("year", "parameters", "bytes", "macs", "verdict", "note")] for r in report["conventions"]
    ]
    lines += _table([head, *years])
    lines += ["", "Boards: flash holds model files, front-end tables and runtime; RAM activations and runtime."]
    lines.append(
        "Audio and front-end buffers come on top. KiB are 1024 bytes. Estimates are for the nets alone, one core."
    )
    for row in report["devices"]:
        lines += ["", *_device_text(row, "patch" if report["kind"] == "bundle" else "inference")]
    return "\n".join(lines) + "\n"


def _device_text(row: dict[str, Any], unit: str) -> list[str]:
    times = [f"{_interval(row['estimated_ms'])} ms for one {unit} of every net"] if row["estimated_ms"] else []
    times += [f"{_interval(row['estimated_ms_per_s'])} ms per s of audio"] if row["estimated_ms_per_s"] else []
    return [
        f"{row['device']}: {row['verdict']}: {row['why']}",
        f"    {row['board']}; {row['runtime']}",
        f"    estimated: {', '.join(times)}" if times else "    not estimated",
        f"    source: {row['source']}",
    ]


def _files_text(report: dict[str, Any]) -> list[str]:
    keys = (*_COUNTS[:4], "frontend_bytes", "macs", "peak_activation_bytes")
    head = [*"net format weights parameters non-zero bytes file tables MACs RAM".split(), "measured ms"]
    cells = [[m["name"], m["format"], m["precision"], *(m[key] for key in keys), _time(m)] for m in report["models"]]
    if report["kind"] == "bundle":
        cells += [["all", fmt, f["precision"], *(f[key] for key in keys), ""] for fmt, f in report["formats"].items()]
    lines = _table([head, *cells])
    lines.append(
        "bytes: of the parameters; file, tables, RAM in bytes; RAM: activations layer by layer, without scratch;"
    )
    lines.append("nets run in turn, so all of them need the RAM of the largest, not the sum")
    for fmt, sums in report["formats"].items():
        verdict = "within" if sums["within_budget"] else "over"
        lines.append(f"{fmt}: {sums['file_bytes']:,} bytes, {verdict} the budget of {report['budget_bytes']:,}")
    timed = {m["format"]: m["measured"] for m in report["models"] if "runs" in (m["measured"] or {})}
    for m in timed.values():
        lines.append(
            f"measured on this machine, {m['date']}, {m['machine']}: {m['engine']}, one thread, without front end,"
        )
        lines.append(f"median (10th to 90th percentile) of {m['runs']} runs")
    return lines


def _time(row: dict[str, Any]) -> str:
    m = row["measured"]
    if not m or "error" in m:
        return m["error"] if m else "-"
    return f"{m['median_ms']:.2f} ({m['p10_ms']:.2f}-{m['p90_ms']:.2f})"


def _interval(pair: list[float]) -> str:
    low, high = (f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in pair)
    return f"{low} to {high}"


def _table(rows: list[list[Any]]) -> list[str]:
    """Cells -> lines, columns aligned: numbers with thousands separators to the right, texts to the left."""
    body = [[f"{c:,}" if isinstance(c, int) and c > 9999 else str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*body)]
    right = [isinstance(c, int) for c in rows[-1]]
    lines = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)] for row in body]
    return ["  ".join(line).rstrip() for line in lines]


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0, or 2 with one line on stderr for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m devices.report", description="What a bundle or model file costs.")
    parser.add_argument("path", metavar="BUNDLE|MODEL", help="a bundle folder, a .tflite or an .onnx file")
    parser.add_argument("--device", nargs="+", action="extend", metavar="NAME", help=f"of {', '.join(profile.names())}")
    parser.add_argument("--json", action="store_true", help="the same numbers as JSON")
    parser.add_argument("--runs", type=int, default=50, help="timed inferences per file; 0: do not measure")
    args = parser.parse_args(argv)
    try:
        if args.runs < 0:
            raise ValueError(f"--runs {args.runs} is negative")
        report = report_dict(args.path, args.device or profile.DEFAULTS, args.runs)
    except (ValueError, OSError, ImportError) as error:  # a wrong file or name, or no engine for a bundle
        print(f"devices.report: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1) if args.json else report_text(report), end="\n" if args.json else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
