"""Time a bundle or a model file on this machine; numpy and one engine are enough.

    python -m devices.bench BUNDLE|MODEL... [--out results.json] [--runs N] [--threads N]

The file it writes is what `python -m devices.calibrate PROFILE results.json` takes. Times of a board that runs no Python
can be put into one by hand, "machine" and "engine" naming the core and the runtime as in the board's profile.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from devices import machine, work
from devices.latency import WARM_UP, Open, check, measure, open_model, open_net
from devices.size import read_model
from runtime import command
from runtime.files import write_text


def bench(paths: Sequence[Path], runs: int = 50, threads: int = 1) -> dict[str, Any]:
    """-> the machine, and one result per net: what it has to do, median and spread in ms. Raises ValueError."""
    results = []
    for name, path, opened in _nets(paths, threads):
        fmt = path.suffix[1:]
        timed = measure(opened, fmt, runs, threads)
        if "error" in timed:
            raise ValueError(f"{path}: {timed['error']}")
        about = {"name": name, "file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        results.append({**about, "format": fmt, **_counts(path), **timed})
    return {"format": 1, "machine": machine.facts(), "results": results}


def _counts(path: Path) -> dict[str, Any]:
    """What a net has to do; None each where the package that reads such a file is missing, as beside onnxruntime."""
    if importlib.util.find_spec("onnx" if path.suffix == ".onnx" else "ai_edge_litert") is None:
        return dict.fromkeys(("precision", "macs", "work"))
    size = read_model(path)
    return {"precision": size.precision, "macs": size.macs, "work": work.of_model(size).tolist()}


def _nets(paths: Sequence[Path], threads: int) -> Iterator[tuple[str, Path, Open]]:
    for path in paths:
        if not path.is_dir():
            yield path.stem, path, open_model(path, read_model(path), threads)
            continue
        from runtime.bundle import Bundle

        bundle = Bundle.load(path)
        for member in bundle.members:
            shape = (1, *member.in_shape)
            yield member.name, member.path(bundle.format), open_net(member.path(bundle.format), shape, threads)


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0, or 2 with one line on stderr for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m devices.bench", description="Time nets on this machine.")
    parser.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE|MODEL", help="bundle folders, model files")
    parser.add_argument("--out", type=Path, default=Path("results.json"), help="what to write (results.json)")
    parser.add_argument("--runs", type=int, default=50, help="timed inferences per net (50)")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (1)")
    args = parser.parse_args(argv)
    try:
        check(args.runs, args.threads, least_runs=1)
        found = bench(args.paths, args.runs, args.threads)
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    except (ValueError, OSError, ImportError) as error:
        print(f"devices.bench: {command.one_line(error)}", file=sys.stderr)
        return 2
    for one in found["results"]:
        spread = f"{one['p10_ms']:.3g} to {one['p90_ms']:.3g}"
        threads = "1 thread" if one["threads"] == 1 else f"{one['threads']} threads"
        print(f"{one['name']}: {one['median_ms']:.3g} ms (10th to 90th percentile {spread}), {one['runs']} runs, "
              f"{threads}, {WARM_UP} to warm up, {one['engine']}")  # fmt: skip
    print(f"measured on {found['machine']['cpu']}, {found['machine']['cores']} cores; wrote {args.out}")
    return 0


if __name__ == "__main__":
    command.run(main)
