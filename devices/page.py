"""The report as one self-contained HTML page: no script, no network, plots as inline SVG, readable on a phone.

Every plot says what is counted, measured or estimated. Texts from files are escaped: a name may hold anything.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from devices import plots
from devices.text import ETHOS_U, ethos_text, times_of, trained_rows

Report = Mapping[str, Any]
_VERDICTS = {"fits": "good", "may fit": "maybe", "does not fit": "bad"}
_STYLE = """
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:760px;padding:12px;color:#1b1b1b;background:#fff}
h1{font-size:1.5em;overflow-wrap:anywhere}h2{font-size:1.15em;margin-top:1.6em}
svg{width:100%;height:auto;overflow:visible;margin-top:8px}
svg text{font:15px system-ui,sans-serif;fill:#1b1b1b;paint-order:stroke;stroke:#fff;stroke-width:3px}
.card{border-left:6px solid;padding:6px 10px;margin:8px 0;background:#f6f7f8;overflow-wrap:anywhere}
.good{border-color:#2a9d4a}.maybe{border-color:#e0a100}.bad{border-color:#c8312b}
.note,small{color:#555;font-size:.87em}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.87em}td,th{padding:3px 5px;border-bottom:1px solid #ddd;text-align:right}
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
        "<h2>How much of 128 KB it fills</h2>",
        *(plots.budget(fmt, report) for fmt in report["formats"]),
        "<h2>Memory over the layers</h2>",
        plots.memory(report),
        "<h2>Time on each board</h2>",
        plots.latencies(report),
        *(["<h2>On an Ethos-U</h2>", _ethos_u(report)] if report["ethos_u"] else []),
        *(["<h2>Accuracy against bytes</h2>", *_accuracy(report)] if report["trained"] else []),
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


def _ethos_u(report: Report) -> str:
    lines = [f"{escape(one['name'])}: {escape(ethos_text(one))}" for one in report["ethos_u"]]
    return f"<p>{escape(ETHOS_U)}<br>{'<br>'.join(lines)}</p>"


def _accuracy(report: Report) -> tuple[str, str]:
    return plots.accuracy(report), f"<div class=scroll>{_html_table(*_head_and_rows(trained_rows(report)))}</div>"


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
