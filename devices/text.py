"""The report as text for a terminal, and as Markdown. Which figures are measured and which are estimated stands beside."""

from collections.abc import Mapping
from typing import Any

from devices.trained import NUMBERS

Report = Mapping[str, Any]
_KEYS = ("parameters", "nonzero_parameters", "parameter_bytes", "file_bytes", "frontend_bytes", "macs")


def report_text(report: Report) -> str:
    """The report for a terminal or a code block: verdicts first. report: from `report_dict`."""
    lines = [f"{row['device']}: {row['verdict']}: {row['why']}" for row in report["devices"]]
    lines += ["", f"{report['name']} ({report['kind']}), {report['date']}", "", *_files_text(report)]
    if report["product"]:
        lines += ["", *_product_text(report["product"])]
    if report["ethos_u"]:
        lines += ["", ETHOS_U, *(f"{one['name']}: {ethos_text(one)}" for one in report["ethos_u"])]
    if report["trained"]:
        lines += ["", TRAINED, *_table(trained_rows(report))]
    lines += ["", "How each year of the DCASE low-complexity task would count the first format:"]
    lines += _table(_years(report))
    lines += [
        "",
        "Boards, estimated for int8 nets on one core; nine of ten measurements are expected inside an interval.",
    ]
    lines += [
        "Flash holds model files, front-end tables and runtime; RAM activations, buffers and runtime. The contiguous block",
        "is the arena, as a range: what this runtime was seen to take of what is counted (ram_factor of the profile).",
        "KiB: 1024 bytes.",
    ]
    for row in report["devices"]:
        lines += ["", *_device_text(row, report["kind"] == "bundle")]
    return "\n".join(lines) + "\n"


def markdown(report: Report) -> str:
    """The same figures as Markdown tables."""
    lines = [f"# {report['name']}", "", f"{report['kind'].capitalize()}, {report['date']}.", "", "## Boards", ""]
    head = ["board", "verdict", "why", "ms (estimated, unless it says measured)", "worst layer", "known from"]
    lines += _markdown_table([head, *map(_board_row, report["devices"])])
    lines += ["", "## Files", "", *_markdown_table([_FILES_HEAD, *_files_rows(report)]), ""]
    lines += [*_notes(report), ""]
    if report["product"]:
        lines += ["## Front ends", "", *_markdown_table(_frontends(report["product"])), ""]
    if report["ethos_u"]:
        lines += [
            "## Ethos-U",
            "",
            ETHOS_U,
            "",
            *(f"- {one['name']}: {ethos_text(one)}" for one in report["ethos_u"]),
            "",
        ]
    if report["trained"]:
        lines += ["## Accuracy against bytes", "", TRAINED, "", *_markdown_table(trained_rows(report)), ""]
    lines += ["## DCASE counting", "", *_markdown_table(_years(report))]
    return "\n".join(lines) + "\n"


def _board_row(row: Report) -> list[Any]:
    times = times_of(row, per_s=True)
    said = ("measured: " if row["measured_ms"] else "") + "; ".join(times)
    return [row["device"], row["verdict"], row["why"], said or row["source"], _worst(row), _evidence(row)]


def _device_text(row: Report, bundle: bool) -> list[str]:
    times = times_of(row, bundle)
    lines = [f"{row['device']}: {row['verdict']}", f"    {row['board']}; {row['runtime']}"]
    if not times:
        return [*lines, f"    {row['source']}"]
    lines.append(f"    {'measured' if row['measured_ms'] else 'estimated'}: {', '.join(times)}")
    if row["worst_layer"]:
        lines.append(f"    worst layer, estimated: {_worst(row)}")
    return [*lines, f"    source: {row['source']}", f"    known from: {_evidence(row)}"]


def times_of(row: Report, per_s: bool) -> list[str]:
    """A board's times as texts: of one inference, and, where asked and known, per second of audio; none: []."""
    unit = "patch of every net" if row["duty"] else "inference"
    times = [f"{interval(row['estimated_ms'])} ms for one {unit}"] if row["estimated_ms"] else []
    if row["measured_ms"]:
        low, median, high = row["measured_ms"]
        times = [f"{median:.3g} ms ({low:.3g} to {high:.3g}) for one {unit}"]
    both = row["measured_ms_per_s"] or row["estimated_ms_per_s"]
    if per_s and both and row["duty"]:
        times.append(f"{interval([both[0], both[-1]])} ms per s of audio")
        how = "measured" if row["measured_ms"] else "from operation counts"
        times.append(f"front ends {interval(row['frontend_ms_per_s'])} ms per s, {how}")
        times.append(f"duty cycle {interval([100 * x for x in row['duty']])} %")
    return times


def _worst(row: Report) -> str:
    worst = row["worst_layer"]
    if not worst:
        return "-"
    shape = "x".join(map(str, worst["output_shape"]))
    return (
        f"{worst['net']} operator {worst['index']}, {worst['op']} to {shape}, {100 * worst['share']:.0f} % of the time"
    )


def _evidence(row: Report) -> str:
    return f"{'measured' if row['measured_board'] else 'measured: none'}; {row['known_from']}"


_FILES_HEAD = [
    *"net format weights parameters non-zero bytes file tables MACs layers-RAM arena fused".split(),
    "measured ms",
]


def _files_rows(report: Report) -> list[list[Any]]:
    keys = (*_KEYS, "peak_activation_bytes", "arena_bytes", "fused_bytes")
    cells = [[m["name"], m["format"], m["precision"], *(m[key] for key in keys), _time(m)] for m in report["models"]]
    if report["kind"] == "bundle":
        cells += [["all", fmt, f["precision"], *(f[key] for key in keys), ""] for fmt, f in report["formats"].items()]
    return cells


def _files_text(report: Report) -> list[str]:
    return [*_table([_FILES_HEAD, *_files_rows(report)]), *_notes(report)]


def _notes(report: Report) -> list[str]:
    lines = [
        "bytes: of the parameters; file, tables, RAM in bytes; layers-RAM: activations layer by layer; arena: the same as",
        "TensorFlow Lite for Microcontrollers lays them out, without its tail and kernels' scratch; fused: if a convolution",
        "and the pool behind it ran as one, row by row, line buffers apart: no verdict rests on it. Counted, not measured.",
        "Nets run in turn, so all of them need the RAM of the largest, not the sum",
    ]
    for fmt, sums in report["formats"].items():
        budget_bytes = report["budget_bytes"]
        lines.append(
            f"{fmt}: {sums['file_bytes']:,} bytes, {sums['file_bytes'] / budget_bytes:.0%} of {budget_bytes:,} (128 KB)"
        )
    timed = {m["format"]: m["measured"] for m in report["models"] if "runs" in (m["measured"] or {})}
    for m in timed.values():
        threads = "one thread" if m["threads"] == 1 else f"{m['threads']} threads"
        lines.append(
            f"measured on this machine, {m['date']}, {m['machine']}: {m['engine']}, {threads}, without front end,"
        )
        lines.append(f"median (10th to 90th percentile) of {m['runs']} runs after {m['warm_up']} to warm up")
    return lines


def _frontends(product: Report) -> list[list[Any]]:
    head = ["front end", "Mflop per s of audio", "tables", "tables, lean", "ring buffers", "measured ms per s"]
    rows = []
    for one in product["frontends"]:
        measured = "-" if one["measured_ms_per_s"] is None else f"{one['measured_ms_per_s']:.1f}"
        mflop = f"{one['flops_per_s'] / 1e6:.1f}"
        rows.append([one["name"], mflop, one["table_bytes"], one["lean_bytes"], one["ram_bytes"], measured])
    return [head, *rows]


def _product_text(product: Report) -> list[str]:
    return [
        "Front ends, per second of audio. Operations and bytes are counted, lean tables are what a microcontroller would",
        f"keep; ms measured on this machine. Decisions every {product['hop_s']:g} s over {product['window_s']:g} s.",
        *_table(_frontends(product)),
    ]


ETHOS_U = "On an Arm Ethos-U beside a Cortex-M, estimated by Arm's compiler ethos-u-vela, no interval known:"


def ethos_text(one: Report) -> str:
    """What Vela says of one net, in one line."""
    if "error" in one:
        return str(one["error"])
    dram = f", DRAM {one['dram_kib']:,.1f} KiB" if one["dram_kib"] else ""
    return (
        f"{one['configuration']} at {one['clock_mhz']:,.0f} MHz ({one['system']}): {one['ms']:.3g} ms, {one['cycles']:,} "
        f"cycles, SRAM {one['sram_kib']:,.1f} KiB, flash {one['flash_kib']:,.1f} KiB{dram}, {one['on_npu']} "
        f"of {one['operators']} of its operators on the NPU"
    )


TRAINED = "Accuracy measured by the trainings on clips they had not heard; bytes counted; 95 % intervals (Wilson)."


def trained_rows(report: Report) -> list[list[Any]]:
    head = ["recipe", "net", "bytes of", "bytes", "accuracy", "interval", "clips"]
    rows = []
    for one in sorted(report["trained"], key=lambda one: (one["recipe"], one["numbers"], one["net"])):
        low, high = (100 * x for x in one["interval"])
        said = [f"{100 * one['accuracy']:.1f} %", f"{low:.1f} to {high:.1f} %"]
        rows.append([one["recipe"], one["net"], NUMBERS[one["numbers"]], one["bytes"], *said, one["n"]])
    return [head, *rows]


def _years(report: Report) -> list[list[Any]]:
    head = ["year", "parameters", "bytes", "MACs", "verdict", "what it counts"]
    keys = ("year", "parameters", "bytes", "macs", "verdict", "note")
    return [head, *([r[key] for key in keys] for r in report["conventions"])]


def _time(row: Report) -> str:
    m = row["measured"]
    if not m or "error" in m:
        return m["error"] if m else "-"
    return f"{m['median_ms']:.2f} ({m['p10_ms']:.2f}-{m['p90_ms']:.2f})"


def interval(pair: list[float]) -> str:
    """[low, high] -> "low to high", in two digits or whole numbers; one number where both read the same."""
    low, high = (f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in pair)
    return low if low == high else f"{low} to {high}"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def _table(rows: list[list[Any]]) -> list[str]:
    """Cells -> lines, columns aligned: numbers with thousands separators to the right, texts to the left."""
    body = [[_cell(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*body)]
    right = [isinstance(c, int) for c in rows[-1]]
    lines = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)] for row in body]
    return ["  ".join(line).rstrip() for line in lines]


def _markdown_table(rows: list[list[Any]]) -> list[str]:
    body = [[_cell(c).replace("|", "\\|") for c in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in body]
    return [lines[0], f"|{'---|' * len(body[0])}", *lines[1:]]
