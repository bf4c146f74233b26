"""One board's line of the report: does it fit, how long it takes there, which layer is the worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from devices import work
from devices.profile import Profile

Row = Mapping[str, Any]


def on_device(
    board: Profile, nets: Sequence[Row], sums: Row, fmt: str, product: Row | None, here: bool = False
) -> dict[str, Any]:
    """nets: the rows of the deployed format, sums: their totals. Times are None where unknown.

    Estimated ones are [low, high] in ms; measured ones, for the machine at hand (`here`), [10th percentile, median,
    90th percentile].
    """
    once, per_s = _measured(nets) if here else _estimated(board, sums)
    frontend = _frontend_measured(product) if here else _frontend_ms(board, product)
    duty = None
    if per_s is not None and frontend is not None:
        duty = per_s[0] / 1000 + frontend[0] / 1000, per_s[-1] / 1000 + frontend[-1] / 1000
    tables, buffers = _memory(board, sums, product)
    flash = sums["file_bytes"] + tables
    verdict, why = board.fit(flash, _planned(board, sums), buffers, duty)
    if once is None:
        why += ", time not known"
        if product is not None and verdict == "fits":  # a bundle must keep up with the sound
            verdict = "may fit"
    return {
        "device": board.name,
        "board": board.board,
        "runtime": f"{board.runtime} {board.version}",
        "format": fmt,
        "verdict": verdict,
        "why": why,
        "flash_bytes": flash + board.runtime_flash_kib * 1024,
        "ram_kib": list(board.ram_interval_kib(_planned(board, sums))),
        "buffer_bytes": buffers,
        "table_bytes": tables,
        "measured_ms": once if here else None,
        "measured_ms_per_s": per_s if here else None,
        "estimated_ms": None if here else once,
        "estimated_ms_per_s": None if here else per_s,
        "frontend_ms_per_s": frontend,
        "duty": None if duty is None else list(duty),
        "worst_layer": None if here or once is None else _worst_layer(board, nets),
        "measured_board": board.measured,
        "known_from": board.known_from,
        "links": list(board.links),
        "source": board.source if here or once is not None else _no_estimate(board, sums),
    }


Times = tuple[list[float] | None, list[float] | None]  # ms of one patch of every net, ms per second of audio


def _estimated(board: Profile, sums: Row) -> Times:
    if sums["precision"] not in ("int8", "uint8") or board.cost is None:
        return None, None
    works = (sums["work"], sums["work_per_s"])
    once, per_s = (board.latency_ms(np.array(work)) if work else None for work in works)
    return once and list(once), per_s and list(per_s)


def _measured(nets: Sequence[Row]) -> Times:
    """Sums over the nets of what was measured on this machine."""
    times = [net["measured"] for net in nets]
    if not all(time and "median_ms" in time for time in times):
        return None, None
    rates = [net["patches_per_s"] for net in nets]
    keys = ("p10_ms", "median_ms", "p90_ms")
    per_s = [sum(time[key] * (rate or 0) for time, rate in zip(times, rates)) for key in keys]
    return [sum(time[key] for time in times) for key in keys], None if None in rates else per_s


def _no_estimate(board: Profile, sums: Row) -> str:
    if board.cost is None:
        return "not estimated: the profile holds no cost"
    if sums["precision"] == "none":
        return "not estimated: no operator of the model has weights that would tell its arithmetic"
    return f"not estimated: costs are known for int8 nets alone, the model is {sums['precision']}"


def _python(board: Profile) -> bool:
    """Whether the runtime is this project's own, in Python: dense tables. Elsewhere the application brings lean ones."""
    return board.runtime.startswith(("LiteRT", "onnxruntime"))


def _planned(board: Profile, sums: Row) -> int:
    return sums["arena_bytes"] if board.runtime.startswith("TFLM") else sums["peak_activation_bytes"]


def _memory(board: Profile, sums: Row, product: Row | None) -> tuple[int, int]:
    """-> bytes of front-end tables in flash, and of ring buffers and work areas in RAM."""
    if product is None:
        return sums["frontend_bytes"], 0
    frontends = product["frontends"]
    tables = sum(one["table_bytes" if _python(board) else "lean_bytes"] for one in frontends)
    # the work area is one: front ends take turns
    kept = sum(one["sample_bytes"] + one["frame_bytes"] for one in frontends)
    return tables, kept + max(one["work_bytes"] for one in frontends)


def _frontend_ms(board: Profile, product: Row | None) -> list[float] | None:
    if product is None:
        return None
    from devices.frontends import frontend_ms_per_s

    flops = sum(one["flops_per_s"] for one in product["frontends"])
    return list(frontend_ms_per_s(flops, board.core, board.clock_mhz))


def _frontend_measured(product: Row | None) -> list[float] | None:
    if product is None or any(one["measured_ms_per_s"] is None for one in product["frontends"]):
        return None
    return [sum(one["measured_ms_per_s"] for one in product["frontends"])] * 2


def _worst_layer(board: Profile, nets: Sequence[Row]) -> dict[str, Any]:
    """The operator with the largest share of all nets' likeliest time."""
    assert board.cost is not None
    found: list[tuple[float, dict[str, Any]]] = []
    total = 0.0
    for net in nets:
        for i, op in enumerate(net["size"].ops):
            cycles = board.cost.cycles(work.of_ops([op], net["format"]))
            total += cycles
            found.append((cycles, {"net": net["name"], "index": i, "op": op.op, "output_shape": list(op.output_shape)}))
    cycles, where = max(found, key=lambda one: one[0])
    return {**where, "share": cycles / total if total else 0.0}
