"""Fitted numbers into the profiles, and the oracle for the arena. Part of benchmarks.devices."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import left_out, mobilenets, rows
from benchmarks.left_out import Kind, Platform
from benchmarks.rows import Row
from devices import profile, work
from devices.cost import Cost, expectation, fit
from devices.profile import Profile
from runtime.files import write_text

_THREADS = 3.0  # four threads are worth two to four: what a row of four threads tells about one
_THREADS_DEVIATION = 0.3


def profiles() -> list[str]:
    """Fit every profile to the rows that ship and write its [cost] table. -> a line for each."""
    works = {name: work.of_model(size) for name, size in {**rows.models(), **mobilenets.models()}.items()}
    four = rows.read(rows.DATA / "xnnpack.csv")
    one = [replace(row, ms=row.ms * _THREADS, version="2022") for row in four if row.ms]
    known = left_out.usable([*rows.read(rows.DATA / "rows.csv"), *one], works)
    fitted = left_out.costs(known, works)
    lines = []
    for path in sorted(profile.FOLDER.glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        head = text.split("\n[cost]")[0].rstrip("\n") + "\n"
        board = profile.parse(path.stem, head)
        if profile.parse(path.stem, text).known_from.startswith("measured with devices.bench"):
            continue  # devices.calibrate wrote it
        cost, known_from = _cost(board, known, works, fitted)
        write_text(path, head + profile.table(cost, known_from, "benchmarks.devices --write"))
        lines.append(f"{path.stem}: {known_from}; {np.exp(cost.log_cycles[0]):.2f} cycles per MAC of a convolution")
    return lines


def _cost(
    board: Profile,
    known: Sequence[Row],
    works: Mapping[str, np.ndarray],
    fitted: Mapping[Platform, tuple[Kind, Cost]],
) -> tuple[Cost, str]:
    """-> a profile's cost and what it is known from."""
    own = [row for row in known if row.board == board.rows_board and _same(row, board)]
    if own:
        counts = np.array([works[row.file] for row in own])
        cost, known_from = fit(expectation(board.core), counts, [row.cycles for row in own]), _rows(len(own))
    else:
        cost, shared = left_out.from_relatives(Kind(board.core, board.runtime, _short(board.version)), fitted)
        known_from = f"other boards, the same {shared}"
    if board.runtime == "LiteRT + XNNPACK":
        cost = Cost(cost.log_cycles, cost.covariance + _THREADS_DEVIATION**2)
        known_from += ", four threads taken for three"
    return cost, known_from


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _same(row: Row, board: Profile) -> bool:
    return row.runtime == board.runtime and row.version in ("", _short(board.version))


def _short(version: str) -> str:
    """As rows state it: 9.0.0 is 9.0."""
    found = re.match(r"\d+\.\d+|2022", version)
    return found.group() if found else ""


def run_tflite_micro(paths: Sequence[Path]) -> dict[str, int]:
    """File name -> bytes of the arena's head, of the files that tflite-micro runs; empty where it is not installed."""
    try:
        from tflite_micro.python.tflite_micro import runtime  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return {}
    heads = {}
    for path in paths:
        try:
            interpreter = runtime.Interpreter.from_file(str(path), arena_size=1 << 24)
        except RuntimeError:  # an operator that it lacks; it says so on the terminal
            continue
        with _printed() as said:
            interpreter.print_allocations()
        heads[path.name] = next(int(line.split()[-2]) for line in said if "allocation head" in line)
    return heads


@contextlib.contextmanager
def _printed() -> Iterator[list[str]]:
    """What C++ writes to stderr and stdout meanwhile, as lines."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
