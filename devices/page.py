"""The report as one self-contained HTML page: no script, no network, plots as inline SVG, readable on a phone.

Every plot says what is counted, measured or estimated. Texts from files are escaped: a name may hold anything.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from devices.text import ETHOS_U, TRAINED, ethos_text, times_of, trained_rows
from devices.trained import NUMBERS

Report = Mapping[str, Any]
_WIDTH = 640  # of a plot's own coordinates; the page scales it
_VERDICTS = {"fits": "good", "may fit": "maybe", "does not fit": "bad"}
_COLOURS = ("#2a6f97", "#e07a5f", "#81b29a", "#f2cc8f", "#6d597a", "#adb5bd")
_STYLE = """
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:760px;padding:12px;color:#1b1b1b;background:#fff}
h1{font-size:1.5em;overflow-wrap:anywhere}h2{font-size:1.15em;margin-top:1.6em}
svg{width:100%;height:auto;overflow:visible;margin-top:8px}
svg text{font:15px system-ui,sans-serif;fill:#1b1b1b;paint-order:stroke;stroke:#fff;stroke-width:3px}
.card{border-left:6px solid;padding:6px 10px;margin:8px 0;background:#f6f7f8;overflow-wrap:anywhere}
.good{border-color:#2a9d4a}.maybe{border-color:#e0a100}.bad{border-color:#c8312b}
.note,small{color:#555;font-size:.87em}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.87em}td,th{padding:3px 8px;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}
@media(max-width:500px){svg text{font-size:20px}}
"""


def page(report: Report) -> str:
    """report: from `report_dict` -> a whole HTML document."""
    title = escape(report["name"])
    parts = [
        f"<h1>{title}</h1><p class=note>{escape(report['kind'])}, report of {report['date']}. Sizes are counted from the "
        "files; board times are estimated, for int8 nets on one core.</p>",
        "<h2>Does it fit?</h2>",
        *(_card(row) for row in report["devices"]),
        "<h2>What the 131,072 bytes hold</h2>",
        *(_budget(fmt, report) for fmt in report["formats"]),
        "<h2>Memory over the layers</h2>",
        _memory(report),
        "<h2>Time on each board</h2>",
        _latencies(report),
        *(["<h2>On an Ethos-U</h2>", _ethos_u(report)] if report["ethos_u"] else []),
        *(["<h2>Accuracy against bytes</h2>", _accuracy(report)] if report["trained"] else []),
        "<h2>Files</h2>",
        _files(report),
    ]
    return (
        f'<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title><link rel=icon href="data:,">'
        f'<meta name=viewport content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _card(row: Report) -> str:
    times, source = row["source"], ""
    if known := times_of(row, per_s=False):
        times = f"{'measured' if row['measured_ms'] else 'estimated'}: {known[0]}"
        source = f"{row['source']}; {row['known_from']}"
    return (
        f'<div class="card {_VERDICTS[row["verdict"]]}"><b>{escape(row["device"])}: {row["verdict"]}</b><br>'
        f"{escape(row['why'])}<br>{escape(times)}<br><small>{escape(row['board'])}; {escape(row['runtime'])}. "
        f"{escape(source)}</small></div>"
    )


def _svg(height: float, body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role=img aria-label="{escape(label)}">{body}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:g}" fill="{colour}"/>'


def _budget(fmt: str, report: Report) -> str:
    """Weights and description of every file of one format, end to end, against the budget."""
    nets = [row for row in report["models"] if row["format"] == fmt]
    budget, total = report["budget_bytes"], report["formats"][fmt]["file_bytes"]
    scale = (_WIDTH - 2) / max(budget, total)
    x, body, legend = 1.0, "", []
    for i, net in enumerate(nets):
        colour = _COLOURS[i % len(_COLOURS)]
        weights, rest = net["parameter_bytes"], net["file_bytes"] - net["parameter_bytes"]
        body += _bar(x, 24, weights * scale, 34, colour)
        body += f'<g opacity=".45">{_bar(x + weights * scale, 24, rest * scale, 34, colour)}</g>'
        x += net["file_bytes"] * scale
        legend.append(f'<span style="color:{colour}">■</span> {escape(net["name"])}: {weights:,} bytes of weights, '
                      f"{rest:,} of description")  # fmt: skip
    at = 1 + budget * scale
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="16" y2="66" stroke="#c8312b" stroke-width="2"/>'
    words = f"{fmt}: {total:,} of {budget:,} bytes, counted"
    svg = _svg(70, _text(1, 13, words) + body + line, words)
    return f"{svg}<p class=note>{'<br>'.join(legend)}</p>"


def _memory(report: Report) -> str:
    """Live activations while each operator runs: one staircase per net of the first format."""
    fmt = next(iter(report["formats"]))
    nets = [row for row in report["models"] if row["format"] == fmt]
    top = max(layer["live_bytes"] for net in nets for layer in net["layers"]) or 1
    body = "".join(_text(1, y, f"{kib:,.0f} KiB") for y, kib in ((14, top / 1024), (196, 0)))
    for i, net in enumerate(nets):
        live = [layer["live_bytes"] for layer in net["layers"]]
        step = (_WIDTH - 102) / len(live)
        points = [
            (100 + (j + k) * step, 196 - 184 * value / top + 2 * i) for j, value in enumerate(live) for k in (0, 1)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body += f'<polyline points="{path}" fill="none" stroke="{_COLOURS[i % len(_COLOURS)]}" stroke-width="2"/>'
    names = ", ".join(
        f'<span style="color:{_COLOURS[i % len(_COLOURS)]}">■</span> {escape(net["name"])}'
        for i, net in enumerate(nets)
    )
    plan = max(net["arena_bytes"] for net in nets)
    fused = max(net["fused_bytes"] for net in nets)
    note = (
        f"{names}. Counted, layer by layer, {fmt}, in the order of execution; planned as one arena: {plan:,} bytes; if "
        f"convolutions and the pools behind them were fused: {fused:,}."
    )
    return _svg(206, body, "bytes of live activations over the operators") + f"<p class=note>{note}</p>"


def _latencies(report: Report) -> str:
    """Intervals on a logarithmic axis, and what was measured here."""
    rows = [
        (row["device"], row["estimated_ms"], row["measured_board"]) for row in report["devices"] if row["estimated_ms"]
    ]
    fmt = next(iter(report["formats"]))
    timed = [row["measured"] for row in report["models"] if row["format"] == fmt and "runs" in (row["measured"] or {})]
    if timed:
        span = [sum(m[key] for m in timed) for key in ("p10_ms", "p90_ms")]
        rows.append((f"here, {timed[0]['machine']}", span, None))
    if not rows:
        return "<p>Nothing was measured, and no profile has an estimate for this model.</p>"
    low = floor(log10(max(min(pair[0] for _, pair, _ in rows), 1e-6)))
    high = max(low + 1, ceil(log10(max(pair[1] for _, pair, _ in rows))))
    body = _axis(low, high, 26 * len(rows) + 20)
    for i, (name, pair, measured) in enumerate(rows):
        a, b = (_at(x, low, high) for x in pair)
        colour = {True: "#2a6f97", False: "#adb5bd", None: "#2a9d4a"}[measured]
        body += _text(1, 26 * i + 36, name) + _bar(a, 26 * i + 25, b - a, 14, colour)
    when = (
        f" Green: measured here on {timed[0]['date']}, 10th to 90th percentile, {timed[0]['engine']}." if timed else ""
    )
    note = (
        "ms for one pass of every net. Blue: estimated from rows measured on this board; grey: estimated from its "
        f"relatives. Nine of ten measurements are expected inside.{when}"
    )
    return _svg(26 * len(rows) + 40, body, "latency intervals") + f"<p class=note>{note}</p>"


def _at(ms: float, low: int, high: int) -> float:
    return 150 + (_WIDTH - 170) * (log10(max(ms, 10.0**low)) - low) / (high - low)


def _axis(low: int, high: int, bottom: float) -> str:
    body = ""
    for power in range(low, high + 1):
        x, ms = _at(10.0**power, low, high), 10.0**power
        body += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{bottom:g}" stroke="#ddd"/>'
        body += _text(x, 13, f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s", "middle" if power < high else "end")
    return body


def _ethos_u(report: Report) -> str:
    lines = [f"{escape(one['name'])}: {escape(ethos_text(one))}" for one in report["ethos_u"]]
    return f"<p>{escape(ETHOS_U)}<br>{'<br>'.join(lines)}</p>"


def _accuracy(report: Report) -> str:
    """Every score with its interval over the bytes on a logarithmic axis, named where there is room; all in a table."""
    scores = sorted(report["trained"], key=lambda one: -one["accuracy"])
    right = log10(max(max(one["bytes"] for one in scores), 1)) + 0.5
    left = min(log10(max(min(one["bytes"] for one in scores), 1)) - 0.1, right - 1)
    recipes = {one["recipe"] for one in scores}
    bottom = 10 * floor(10 * min(one["interval"][0] for one in scores))

    def x(n_bytes: float) -> float:
        return 52 + (_WIDTH - 60) * (log10(max(n_bytes, 1)) - left) / (right - left)

    def y(share: float) -> float:
        return 330 - 310 * (100 * share - bottom) / (100 - bottom)

    body = "".join(_rule(y(p / 100)) + _text(1, y(p / 100) + 5, f"{p} %") for p in range(bottom, 101, 10))
    budget = report["budget_bytes"]
    if left < log10(budget) < right:
        body += f'<line x1="{x(budget):.1f}" x2="{x(budget):.1f}" y1="20" y2="330" stroke="#c8312b"/>'
    for n_bytes in (n * 10**power for power in range(2, 10) for n in (1, 2, 5)):
        if left < log10(n_bytes) < right:
            body += _text(x(n_bytes), 350, f"{n_bytes / 1000:,g} kB", "middle")
    named: list[tuple[float, float]] = []
    for one in scores:
        at, top = x(one["bytes"]), y(one["accuracy"])
        colour = _COLOURS[list(NUMBERS).index(one["numbers"])]
        low, high = (y(share) for share in one["interval"])
        body += f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{high:.1f}" y2="{low:.1f}" stroke="{colour}" opacity=".35"/>'
        body += _bar(at - 4, top - 4, 8, 8, colour)
        if not any(abs(at - other) < 75 and abs(top - beside) < 22 for other, beside in named):
            named.append((at, top))
            name = one["net"] if len(recipes) == 1 else f"{one['recipe'].split('/')[-1]} {one['net']}"
            body += _text(at + 8, top + 5, name[:20])
    legend = "<br>".join(
        f'<span style="color:{_COLOURS[i]}">■</span> {escape(said)}'
        for i, (key, said) in enumerate(NUMBERS.items())
        if any(one["numbers"] == key for one in scores)
    )
    clips = sorted({one["n"] for one in scores})
    note = f"{legend}<br>{TRAINED} Red: the budget of {budget:,} bytes. Clips: {', '.join(f'{n:,}' for n in clips)}."
    table = _html_table(*_head_and_rows(trained_rows(report)))
    return f"{_svg(356, body, 'accuracy against bytes')}<p class=note>{note}</p><div class=scroll>{table}</div>"


def _rule(y: float) -> str:
    return f'<line x1="50" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'


def _head_and_rows(rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[str]]]:
    head, *body = ([_number(cell) for cell in row] for row in rows)
    return head, body


def _files(report: Report) -> str:
    keys = (
        "format",
        "precision",
        "file_bytes",
        "parameters",
        "macs",
        "peak_activation_bytes",
        "arena_bytes",
        "fused_bytes",
    )
    head = [
        "net",
        "format",
        "weights",
        "file bytes",
        "parameters",
        "MACs",
        "layer RAM",
        "arena",
        "fused",
        "measured ms",
    ]
    rows = [[row["name"], *(_number(row[key]) for key in keys), _measured(row)] for row in report["models"]]
    return f"<div class=scroll>{_html_table(head, rows)}</div>"


def _measured(row: Report) -> str:
    timed = row["measured"] or {}
    return f"{timed['median_ms']:.2f}" if "runs" in timed else timed.get("error", "-")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
