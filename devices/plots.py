"""The report's plots as inline SVG: what the budget holds, memory over the layers, times per board, accuracy.

Every plot says what is counted, measured or estimated, and scales to the page's width. Texts from files are escaped.
"""

from collections.abc import Mapping
from html import escape
from math import ceil, floor, log10
from typing import Any

from devices.text import TRAINED
from devices.trained import NUMBERS

Report = Mapping[str, Any]
_WIDTH = 640  # of a plot's own coordinates; the page scales it
_COLOURS = ("#2a6f97", "#e07a5f", "#81b29a", "#f2cc8f", "#6d597a", "#adb5bd")


def _svg(height: float, body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role=img aria-label="{escape(label)}">{body}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:g}" fill="{colour}"/>'


def budget(fmt: str, report: Report) -> str:
    """Weights and description of every file of one format, end to end, against the budget."""
    nets = [row for row in report["models"] if row["format"] == fmt]
    most, total = report["budget_bytes"], report["formats"][fmt]["file_bytes"]
    scale = (_WIDTH - 2) / max(most, total)
    x, body, legend = 1.0, "", []
    for i, net in enumerate(nets):
        colour = _COLOURS[i % len(_COLOURS)]
        weights, rest = net["parameter_bytes"], net["file_bytes"] - net["parameter_bytes"]
        body += _bar(x, 24, weights * scale, 34, colour)
        body += f'<g opacity=".45">{_bar(x + weights * scale, 24, rest * scale, 34, colour)}</g>'
        x += net["file_bytes"] * scale
        legend.append(f'<span style="color:{colour}">■</span> {escape(net["name"])}: {weights:,} bytes of weights, '
                      f"{rest:,} of description")  # fmt: skip
    at = 1 + most * scale
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="16" y2="66" stroke="#c8312b" stroke-width="2"/>'
    words = f"{fmt}: {total:,} of {most:,} bytes, counted"
    svg = _svg(70, _text(1, 13, words) + body + line, words)
    return f"{svg}<p class=note>{'<br>'.join(legend)}</p>"


def memory(report: Report) -> str:
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


def latencies(report: Report) -> str:
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


def accuracy(report: Report) -> str:
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
    budget_bytes = report["budget_bytes"]
    if left < log10(budget_bytes) < right:
        body += f'<line x1="{x(budget_bytes):.1f}" x2="{x(budget_bytes):.1f}" y1="20" y2="330" stroke="#c8312b"/>'
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
    note = f"{legend}<br>{TRAINED} Red: 128 KB, {budget_bytes:,} bytes. Clips: {', '.join(f'{n:,}' for n in clips)}."
    return f"{_svg(356, body, 'accuracy against bytes')}<p class=note>{note}</p>"


def _rule(y: float) -> str:
    return f'<line x1="50" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
