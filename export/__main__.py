"""Trained runs -> one bundle with TFLite and ONNX files.  python -m export RUN RUN RUN --to BUNDLE [--converters]"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export import convert
from export.assemble import N_PARITY, WRITERS, assemble, check_target
from runtime import command, fusion
from runtime.bundle import Bundle
from train.data import RECORDINGS, load_dataset, load_wave, split
from train.features import CACHE, features
from train.run import Run, load_run

N_CALIBRATION = 64  # clips: the ranges of the activations settle long before


def calibration_patches(run: Run, clips: list, cache: Path = CACHE, n_clips: int = N_CALIBRATION) -> np.ndarray:
    """One patch of each of n_clips clips, spread evenly over them, normalised: (n, planes, frames, bands).

    The first patch of the first, the second of the second, and so on, round: many clips are silent towards their end.
    """
    chosen = [clips[i] for i in np.linspace(0, len(clips) - 1, min(len(clips), n_clips)).astype(int)]
    cuts = (run.patch.cut(static) for static in features(chosen, run.frontend, cache))
    return np.stack([run.normalise(cut[i % len(cut)]) for i, cut in enumerate(cuts)])


def export(
    runs: list[Run], folder: Path, data: Path, fold: int | None, *,
    quantized: bool = True, converted: bool = False, formats: Sequence[str] = tuple(WRITERS), fuse: str = "prod",
    stride: int | None = None, cache: Path = CACHE,
) -> Bundle:  # fmt: skip
    """Calibrate on the clips that the runs trained on, keep one of the others as the golden window, write the bundle.

    stride: frames between patches, None for each run's own.
    """
    check_target(folder)
    if stride is not None:
        runs = [dataclasses.replace(r, patch=dataclasses.replace(r.patch, stride=stride)) for r in runs]
    dataset = load_dataset(data)
    if dataset.labels != runs[0].labels:
        raise ValueError(
            f"{data} has other classes ({', '.join(dataset.labels)[:80]}) than the run: name its recordings with --data"
        )
    train_clips, test_clips = split(dataset, fold)
    sr = runs[0].frontend.sr
    golden = load_wave((test_clips or train_clips)[0].path, sr)[: 5 * sr]
    n_clips = N_CALIBRATION if quantized and not converted else N_PARITY
    calibration = [calibration_patches(run, train_clips, cache, n_clips) for run in runs]
    return assemble(
        runs, folder, calibration, golden, quantized=quantized, converted=converted, formats=formats, fuse=fuse
    )


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    formats = [args.only] if args.only else list(WRITERS)
    if args.only and not args.converters:
        raise ValueError(f"--only {args.only} goes with --converters: our own writers make both formats")
    if args.converters:
        convert.check_installed(formats)
    runs = [load_run(path) for path in args.runs]
    fold = runs[0].meta.get("data", {}).get("fold")
    bundle = export(
        runs, args.to, args.data, fold, quantized=not args.float, converted=args.converters, formats=formats,
        fuse=args.fuse, stride=args.stride, cache=args.cache,
    )  # fmt: skip
    for member in bundle.members:
        sizes = ", ".join(f"{entry['file']} {entry['bytes']:,} bytes" for entry in member.files.values())
        differences = bundle.provenance["differences_from_torch"][member.name]
        said = "; ".join(f"{what} {difference:.1e}" for what, difference in differences.items())
        print(f"{member.name}: {sizes}; largest difference from torch on recordings: {said}")
    print(f"made {args.to}\nnext: python -m runtime.stream --bundle {args.to} --mic")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__.split("  ")[0] if __doc__ else "")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder that python -m train made")
    parser.add_argument("--to", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument("--int8", action="store_true", help="int8 files (default)")
    numbers.add_argument("--float", action="store_true", help="float32 files, for full-size nets of any block order")
    numbers.add_argument(
        "--converters", action="store_true", help="float32 files by torch.onnx and litert-torch, for any architecture"
    )
    parser.add_argument(
        "--only", choices=WRITERS, help="of --converters: one format, where the other cannot hold a net"
    )
    parser.add_argument(
        "--fuse", choices=fusion.FUSIONS, default="prod", help="how the nets' probabilities become one (default prod)"
    )
    parser.add_argument(
        "--stride", type=int, help="frames between patches: of whole clips a stream wants more (default: the run's)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=RECORDINGS,
        help="what the runs were trained on, to calibrate (default: the shipped ones)",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; nothing was written")
