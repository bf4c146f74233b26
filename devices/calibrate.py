"""Fold your own measurement into a board's profile.

    python -m devices.calibrate PROFILE results.json [--models BUNDLE|MODEL ...] [--out FILE.toml] [--force]

PROFILE is a name or a .toml file; results.json comes from `python -m devices.bench` on the device. Use the outcome with
`python -m devices.report BUNDLE --device FILE.toml`.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from devices import profile, work
from devices.cost import Cost, expectation, fit
from devices.profile import Profile, table
from devices.size import ModelSize, read_model
from devices.work import CLASSES
from runtime import command
from runtime.files import read_json, write_text
from runtime.values import is_number

# The board at hand may differ from the published one by this much (deviation of the logarithm), as a whole and class by
# class: other clock, flash or compiler, another version of the runtime. What was measured then soon outweighs the rows.
_APART = 0.5
_CLASS_APART = 0.3
_ENGINES = {"LiteRT + XNNPACK": ("ai-edge-litert", "tflite-runtime")}  # a profile's runtime -> its packages


@dataclass(frozen=True)
class Timed:
    """One int8 net of a results file: (7,) work, median ms, date, and the engine with its version and threads."""

    name: str
    work: np.ndarray
    ms: float
    date: str
    engine: str
    threads: int


def calibrated(board: Profile, timed: Sequence[Timed], cpu: str = "") -> Profile:
    """-> the profile after these measurements, made on a core of this name."""
    works, cycles = np.array([one.work for one in timed]), [one.ms * board.clock_mhz * 1e3 for one in timed]
    prior = board.cost or expectation(board.core)
    apart = np.full((len(CLASSES),) * 2, _APART**2) + np.diag(np.full(len(CLASSES), _CLASS_APART**2))
    cost = fit(Cost(prior.log_cycles, prior.covariance + apart), works, cycles)
    dates, engines = (" ".join(sorted({getattr(one, key) for one in timed})) for key in ("date", "engine"))
    nets = "1 net" if len(timed) == 1 else f"{len(timed)} nets"
    where = ", ".join(text for text in (dates, cpu, engines) if text)
    known_from = f"measured with devices.bench: {nets}, {where}; before that: {board.known_from}"
    return replace(board, cost=cost, measured=True, known_from=known_from)


def measurements(results: Mapping[str, Any], models: Mapping[str, ModelSize] | None = None) -> list[Timed]:
    """The int8 nets of a results file. models: sha256 -> size, for nets that the device could not count itself.

    Raises ValueError that names the entry and the key that is missing or no positive number.
    """
    rows = results.get("results")
    if not isinstance(rows, list):
        raise ValueError('not a file of devices.bench: it has no list "results"')
    found = [_timed(i, row, models or {}) for i, row in enumerate(rows)]
    timed = [one for one in found if one is not None]
    if not timed:
        raise ValueError(f"none of its {len(rows)} results is of an int8 net: only those can be folded in")
    return timed


def _timed(i: int, row: Any, models: Mapping[str, ModelSize]) -> Timed | None:
    """One entry of "results"; None for a net that is not int8."""
    if not isinstance(row, dict):
        raise ValueError(f"result {i} is no object")
    name = f"result {i} ({_plain(row.get('name') or 'without a name')})"
    size = models.get(str(row.get("sha256")))
    if size is None and row.get("precision") is None:
        raise ValueError(f"{name} was not counted on the device: name its bundle or model file with --models")
    if (size.precision if size else row["precision"]) not in ("int8", "uint8"):
        return None
    counts = work.of_model(size).tolist() if size else row.get("work")
    if not (isinstance(counts, list) and len(counts) == len(CLASSES) and all(map(_is_count, counts)) and sum(counts)):
        raise ValueError(f"{name}: work is not {len(CLASSES)} counts of {', '.join(CLASSES)}")
    ms, threads = row.get("median_ms", 0.0), row.get("threads", 1)
    if not _is_count(ms) or ms == 0:
        raise ValueError(f"{name}: median_ms = {_plain(ms)} is not a positive number of milliseconds")
    if not isinstance(threads, int):
        raise ValueError(f"{name}: threads = {_plain(threads)} is not a whole number")
    label, day, engine = (_plain(row.get(key) or "") for key in ("name", "date", "engine"))
    return Timed(label or f"net {i}", np.array(counts, float), ms, day[:10], engine, threads)


def _plain(text: Any) -> str:
    """What a stranger's file says, fit for one line and for TOML."""
    return "".join(c for c in str(text)[:80] if c.isprintable()).strip()


def _is_count(value: Any) -> bool:
    return is_number(value, 0) and value < 1e18


def cpu_of(results: Mapping[str, Any]) -> str:
    """The core's name in a results file, or ""."""
    machine = results.get("machine")
    return _plain(machine.get("cpu") or "") if isinstance(machine, dict) else ""


def mismatches(board: Profile, timed: Sequence[Timed], cpu: str) -> list[str]:
    """In what the measurements were made otherwise than the profile says: core, runtime, threads."""
    found = []
    if board.core.lower() not in cpu.lower():
        found.append(f"they were made on {cpu or 'an unknown core'}, the profile is of a {board.core}")
    packages = tuple(name.lower() for name in _ENGINES.get(board.runtime, (board.runtime,)))
    others = sorted({one.engine for one in timed if not one.engine.lower().startswith(packages)})
    if others:
        with_ = ", ".join(others) or "an unknown engine"
        found.append(f"they were made with {with_}, the profile is of {board.runtime}")
    if any(one.threads != 1 for one in timed):
        found.append("they were made with several threads, profiles are of one core")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0, or 2 with one line on stderr for what the user can mend."""
    args = _arguments(argv)
    try:
        before = profile.load(args.profile)
        results = read_json(args.results)
        try:
            timed = measurements(results, _models(args.models))
            cpu = cpu_of(results)
            differs = "; ".join(mismatches(before, timed, cpu))
            if differs and not args.force:
                raise ValueError(f"{differs}: name another profile, or say --force")
        except ValueError as error:
            raise ValueError(f"{args.results}: {error}") from None
        after = calibrated(before, timed, cpu)
        out = args.out or Path(f"{before.name}-mine.toml")
        write_text(out, _text(args.profile, after))
    except (ValueError, OSError, ImportError) as error:
        print(f"devices.calibrate: {command.one_line(error)}", file=sys.stderr)
        return 2
    for one in timed:
        for when, board in (("before", before), ("after", after)):
            times = board.latency_ms(one.work)
            said = "no estimate" if times is None else f"estimated {times[0]:.3g} to {times[1]:.3g} ms"
            print(f"{one.name}: measured {one.ms:.3g} ms, {when}: {said}")
    if differs:
        print(f"folded in although {differs}")
    if left_out := len(results["results"]) - len(timed):
        print(f"left out: {left_out} that are not int8")
    print(f"wrote {out}")
    return 0


def _models(paths: Sequence[Path]) -> dict[str, ModelSize]:
    """Model files, and those in bundle folders: sha256 -> size."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if file.suffix in (".tflite", ".onnx") or file in paths]
    return {hashlib.sha256(file.read_bytes()).hexdigest(): read_model(file) for file in files}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m devices.calibrate", description="Fold in your own measurement.")
    parser.add_argument("profile", metavar="PROFILE", help=f"a .toml file, or of {', '.join(profile.names())}")
    parser.add_argument("results", type=Path, help="what devices.bench wrote on the device")
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="BUNDLE|MODEL",
                        help="what was timed, to count it here where the device could not")  # fmt: skip
    parser.add_argument("--out", type=Path, help="the profile to write (PROFILE-mine.toml)")
    parser.add_argument("--force", action="store_true", help="though core, runtime or threads are not the profile's")
    return parser.parse_args(argv)


def _text(name: str, board: Profile) -> str:
    """The profile's own file with the new cost, and what it now rests on."""
    head = profile.path_of(name).read_text(encoding="utf-8").split("\n[cost]")[0].rstrip("\n") + "\n"
    assert board.cost is not None
    head = head.replace("measured = false", "measured = true").replace("measured: none. ", "")
    return head + table(board.cost, board.known_from, "devices.calibrate")


if __name__ == "__main__":
    command.run(main)
