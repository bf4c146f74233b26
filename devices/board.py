"""One board's line of the report: does it fit, how long it takes there, which layer is the worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from devices import work
from devices.profile import Profile

Row = Mapping[str, Any]


def on_device(board: Profile, nets: Sequence[Row], sums: Row, fmt: str, product: Row | None) -> dict[str, Any]:
    """nets: the rows of the deployed format, sums: their totals. Times are [low, high] in ms, None where unknown."""
    int8 = sums["precision"] in ("int8", "uint8") and board.cost is not None
    frontend = _frontend_ms(board, product)
    nets_ms = board.latency_ms(np.array(sums["work_per_s"])) if int8 and sums["work_per_s"] else None
    once_ms = board.latency_ms(np.array(sums["work"])) if int8 else None
    both = None if nets_ms is None or frontend is None else [a + b for a, b in zip(nets_ms, frontend)]
    tables, buffers = _memory(board, sums, product)
    flash = sums["file_bytes"] + tables
    duty = None if both is None else (both[0] / 1000, both[1] / 1000)
    verdict, why = board.fit(flash, _planned(board, sums), buffers, duty)
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
        "estimated_ms": None if once_ms is None else list(once_ms),
        "estimated_ms_per_s": None if nets_ms is None else list(nets_ms),
        "frontend_ms_per_s": frontend,
        "duty": None if duty is None else list(duty),
        "worst_layer": _worst_layer(board, nets) if int8 else None,
        "measured_board": board.measured,
        "known_from": board.known_from,
        "links": list(board.links),
        "source": board.source if int8 else _no_estimate(board, sums),
    }


def _no_estimate(board: Profile, sums: Row) -> str:
    if board.cost is None:
        return "no estimate: the profile holds no cost"
    return f"no estimate: the profile is for int8, the model is {sums['precision']}"


def _python(board: Profile) -> bool:
    """Whether the runtime is this project's own, in Python: dense tables. Elsewhere the application brings lean ones."""
    return "LiteRT" in board.runtime


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
    from devices.product import frontend_ms_per_s

    flops = sum(one["flops_per_s"] for one in product["frontends"])
    return list(frontend_ms_per_s(flops, board.core, board.clock_mhz))


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
