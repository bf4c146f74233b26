"""Fold your own measurement into a board's profile.

    python -m devices.calibrate PROFILE results.json [--out FILE.toml]

PROFILE is a name or a .toml file; results.json comes from `python -m devices.bench` on the device. Use the outcome with
`python -m devices.report BUNDLE --device FILE.toml`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from devices import profile
from devices.cost import Cost, expectation, fit
from devices.profile import Profile, table
from devices.work import CLASSES
from runtime import command

# The board at hand may differ from the published one by this much (deviation of the logarithm), as a whole and class by
# class: other clock, flash or compiler, another version of the runtime. What was measured then soon outweighs the rows.
_APART = 0.5
_CLASS_APART = 0.3


def calibrated(board: Profile, results: Mapping[str, Any]) -> Profile:
    """-> the profile after the measurements of `results` (from devices.bench), int8 nets only. Raises ValueError."""
    work, cycles, when = _measurements(results, board.clock_mhz)
    prior = board.cost or expectation(board.core)
    apart = np.full((len(CLASSES),) * 2, _APART**2) + np.diag(np.full(len(CLASSES), _CLASS_APART**2))
    cost = fit(Cost(prior.log_cycles, prior.covariance + apart), work, cycles)
    known_from = f"measured with devices.bench: {len(cycles)} nets, {when}; before that: {board.known_from}"
    return replace(board, cost=cost, measured=True, known_from=known_from)


def _measurements(results: Mapping[str, Any], clock_mhz: float) -> tuple[np.ndarray, np.ndarray, str]:
    """-> (n, 7) work, (n,) cycles, date."""
    try:
        rows = [row for row in results["results"] if row["precision"] in ("int8", "uint8")]
        work = np.array([row["work"] for row in rows], float).reshape(len(rows), -1)
        cycles = np.array([row["median_ms"] for row in rows], float) * clock_mhz * 1e3
        when = " ".join(sorted({str(row["date"])[:10] for row in rows}))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a file of devices.bench ({type(error).__name__}: {error})") from None
    if not rows:
        raise ValueError("it holds no int8 net")
    counted = work.shape[1] == len(CLASSES) and np.isfinite(work).all() and (work >= 0).all() and work.sum(1).all()
    if not counted or not (np.isfinite(cycles) & (cycles > 0)).all():
        raise ValueError("its counts or times are not positive numbers")
    return work, cycles, when


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0, or 2 with one line on stderr for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m devices.calibrate", description="Fold in your own measurement.")
    parser.add_argument("profile", metavar="PROFILE", help=f"a .toml file, or of {', '.join(profile.names())}")
    parser.add_argument("results", type=Path, help="what devices.bench wrote on the device")
    parser.add_argument("--out", type=Path, help="the profile to write (PROFILE-mine.toml)")
    args = parser.parse_args(argv)
    try:
        before = profile.load(args.profile)
        results = json.loads(args.results.read_text(encoding="utf-8"))
        after = calibrated(before, results)
        out = args.out or Path(f"{before.name}-mine.toml")
        out.write_text(_text(args.profile, after), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"devices.calibrate: {args.results}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    for row in results["results"]:
        work = np.array(row["work"])
        for when, board in (("before", before), ("after", after)):
            times = board.latency_ms(work)
            said = "no estimate" if times is None else f"estimated {times[0]:.3g} to {times[1]:.3g} ms"
            print(f"{row['name']}: measured {row['median_ms']:.3g} ms, {when}: {said}")
    print(f"wrote {out}")
    return 0


def _text(name: str, board: Profile) -> str:
    """The profile's own file with the new cost, and what it now rests on."""
    path = Path(name) if name.endswith(".toml") else profile.FOLDER / f"{name}.toml"
    head = path.read_text(encoding="utf-8").split("\n[cost]")[0].rstrip("\n") + "\n"
    assert board.cost is not None
    head = head.replace("measured = false", "measured = true").replace("measured: none. ", "")
    return head + table(board.cost, board.known_from, "devices.calibrate")


if __name__ == "__main__":
    command.run(main)
