"""Trained runs -> one bundle with TFLite and ONNX files.  python -m export RUN RUN RUN --to BUNDLE [--float]"""

import argparse
from pathlib import Path

import numpy as np

from export import convert
from export.assemble import assemble, check_target
from runtime import command
from runtime.frontend import deltas, patches
from train.data import RECORDINGS, load_dataset, load_wave, split
from train.features import CACHE, features, looped
from train.run import Run, load_run

N_CALIBRATION = 64  # clips: the ranges of the activations settle long before


def calibration_patches(run: Run, clips: list, cache: Path = CACHE) -> np.ndarray:
    """One patch of each of N_CALIBRATION clips, spread evenly over them, normalised: (n, planes, frames, bands)."""
    chosen = [clips[i] for i in np.linspace(0, len(clips) - 1, min(len(clips), N_CALIBRATION)).astype(int)]
    statics = [looped(s, run.patch.n_static) for s in features(chosen, run.frontend, cache)]
    return np.concatenate(
        [run.normalise(patches(deltas(s), run.patch.n_frames, run.patch.stride)[:1]) for s in statics]
    )


def export(
    runs: list[Run], folder: Path, data: Path, fold: int | None, *,
    quantized: bool = True, converted: bool = False, cache: Path = CACHE,
):  # fmt: skip
    """Calibrate on the clips that the runs trained on, keep one of the others as the golden window, write the bundle."""
    check_target(folder)
    for run in runs:
        if run.patch.planes != "deltas" or run.frontend.kind == "stack":
            heard = "several spectrograms" if run.frontend.kind == "stack" else f"{run.patch.planes} planes"
            raise ValueError(f"{run.name} hears {heard}: a bundle feeds one spectrogram and its deltas, train on those")
    dataset = load_dataset(data)
    if dataset.labels != runs[0].labels:
        raise ValueError(
            f"{data} has other classes ({', '.join(dataset.labels)[:80]}) than the run: name its recordings with --data"
        )
    train_clips, test_clips = split(dataset, fold)
    sr = runs[0].frontend.sr
    golden = load_wave((test_clips or train_clips)[0].path, sr)[: 5 * sr]
    calibration = [calibration_patches(run, train_clips, cache) for run in runs]
    return assemble(runs, folder, calibration, golden, quantized=quantized, converted=converted)


def main(argv: list[str] | None = None) -> None:
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
        "--data",
        type=Path,
        default=RECORDINGS,
        help="what the runs were trained on, to calibrate (default: the shipped ones)",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    args = parser.parse_args(argv)
    if args.converters:
        convert.check_installed()
    runs = [load_run(path) for path in args.runs]
    fold = runs[0].meta.get("data", {}).get("fold")
    bundle = export(
        runs, args.to, args.data, fold, quantized=not args.float, converted=args.converters, cache=args.cache
    )
    for member in bundle.members:
        sizes = ", ".join(f"{entry['file']} {entry['bytes']:,} bytes" for entry in member.files.values())
        print(f"{member.name}: {sizes}")
    print(f"made {args.to}\nnext: python -m runtime.stream --bundle {args.to} --mic")


if __name__ == "__main__":
    command.run(main, "stopped; nothing was written")
