"""Shrink CNN-7 to a byte budget.  python -m compress.cnn7 --budget 128kb

Picks the largest shape whose three int8 nets fit as files, trains them on mel, gammatone and CQT spectrograms, distilled
from full-size nets where some are given, quantizes, exports, checks, and says what a held-out fold thinks of the result.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from compress import qat
from compress.search import N_MEMBERS, largest_fitting
from compress.size import fits, parse_bytes
from export.__main__ import calibration_patches, export
from export.assemble import check_target
from export.equalize import VERSION as QUANTIZATION
from runtime import command, fusion
from runtime.bundle import Bundle
from runtime.files import write_atomic
from runtime.frontend import PRESETS
from train import scores
from train.data import RECORDINGS, load_dataset, split
from train.features import CACHE, PatchShape, features, looped
from train.loop import Recipe, clip_log_probabilities
from train.run import load_run
from train.trainer import train

HOP_LENGTH = 1120  # P3's "2 s": patches of 3.3 s


def train_member(name, shape, args, teachers):
    """One small net in this process, one thread: three of them side by side use the cores better than one of them can."""
    torch.set_num_threads(1)
    frontend = dataclasses.replace(PRESETS[name], hop_length=HOP_LENGTH)
    started = time.monotonic()
    train(
        "cnn7", shape.kwargs, frontend, PatchShape(), args.data, args.fold, Recipe(epochs=args.epochs, seed=args.seed),
        args.runs / name, teachers=teachers, cache=args.cache, say=lambda line: print(f"{name}: {line}", flush=True),
    )  # fmt: skip
    if args.qat_epochs:
        tuned(name, args)
    return name, time.monotonic() - started


def tuned(name, args):
    """The member's run, trained on with its int8 rounding; one that is done is read back from its checkpoint."""
    run = load_run(args.runs / name)
    dataset = load_dataset(args.data)
    clips, _ = split(dataset, args.fold)
    return qat.finetune(
        run, features(clips, run.frontend, args.cache), [dataset.labels.index(clip.label) for clip in clips],
        calibration_patches(run, clips, args.cache), qat.recipe(args.qat_epochs, args.seed),
        args.runs / name / "qat", say=lambda line: print(f"{name}, int8: {line}", flush=True),
    )  # fmt: skip


def train_members(shape, args, teachers):
    """All three side by side, on two cores too: the third would run alone. A killed call goes on where it was."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(N_MEMBERS, mp_context=context, initializer=end_with_parent) as pool:
        # A terminal sends Ctrl-C to all processes: only this one listens, or each worker prints where it was.
        listening = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the workers, started by `submit`
        try:
            jobs = [pool.submit(train_member, name, shape, args, teachers.get(name, [])) for name in PRESETS]
        finally:
            signal.signal(signal.SIGINT, listening)
        try:
            for job in as_completed(jobs):
                name, took_s = job.result()
                print(f"{name}: trained in {took_s:.0f} s", flush=True)
        except BaseException:
            for worker in multiprocessing.active_children():  # what they did is in their checkpoints
                worker.terminate()
            raise


def end_with_parent():
    """In a worker: end when the process that started it is gone, killed say, instead of training on for nobody."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def teachers_by_spectrogram(paths, labels):
    """Runs -> {"mel" | "gam" | "cqt": [paths]}. Raises ValueError for one that cannot teach these classes."""
    found = {}
    for path in paths:
        run = load_run(path)
        if run.labels != labels:
            raise ValueError(
                f"teacher {path} knows other classes ({', '.join(run.labels)[:100]}): train one on this data"
            )
        matching = [n for n, f in PRESETS.items() if dataclasses.replace(f, hop_length=HOP_LENGTH) == run.frontend]
        if not matching:
            raise ValueError(f"teacher {path} hears another spectrogram: train it with --hop-length {HOP_LENGTH}")
        found.setdefault(matching[0], []).append(path)
    return found


def evaluate(folder, runs, clips, labels, cache):
    """Each net and PROD on held-out clips, float (torch) and int8 (each format's engine) -> {row: {column: scores}}."""
    table = {}
    for column in ("float", "tflite", "onnx"):
        bundle = Bundle.load(folder, None if column == "float" else column)
        log_p = []
        for member, run in zip(bundle.members, runs):
            statics = features(clips, member.frontend, cache)
            if column == "float":
                log_p.append(clip_log_probabilities(run, statics))
            else:
                cut = [member.patches(looped(s, member.patch.n_static)) for s in statics]
                log_p.append(np.stack([fusion.mean(member.log_p(patches)) for patches in cut]))
        rows = {member.name: p for member, p in zip(bundle.members, log_p)}
        rows["PROD"] = np.stack([bundle.fused(list(p)) for p in zip(*log_p)])
        for name, p in rows.items():
            table.setdefault(name, {})[column] = scores.score(p, clips, labels)
    return table


def evaluation_text(table, n_clips):
    """The table of `evaluate` as text."""
    columns = list(next(iter(table.values())))
    lines = [f"{n_clips} held-out clips  " + "".join(f"{column:>22}" for column in columns)]
    for name, row in table.items():
        cells = [f"{row[c]['accuracy']:.1%}, log loss {row[c]['log_loss']:.2f}" for c in columns]
        lines.append(f"{name:<20}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def identity(args):
    """All that a bundle and its evaluation depend on, as JSON holds it."""
    return {
        "budget_bytes": parse_bytes(args.budget),
        "data": str(args.data.resolve()),
        "teachers": [str(path.resolve()) for path in args.teacher],
        "fold": args.fold,
        "epochs": args.epochs,
        "qat_epochs": args.qat_epochs,
        "seed": args.seed,
        "quantization": QUANTIZATION,
    }


def evaluation_path(args):
    return args.runs / ("evaluation-qat.json" if args.qat_epochs else "evaluation.json")


def finished_path(args):
    """Holds the identity of the command whose bundle and evaluation are there, whole."""
    return evaluation_path(args).with_name(evaluation_path(args).name.replace("evaluation", "finished"))


def is_finished(args):
    """Whether this very command has written its bundle and its evaluation."""
    if not all(path.is_file() for path in (finished_path(args), evaluation_path(args), args.out / "bundle.json")):
        return False
    try:
        return json.loads(finished_path(args).read_text()) == identity(args)
    except ValueError:
        return False  # damaged: all of it is made anew


def main(argv=None):
    args = arguments(argv)
    budget_bytes = parse_bytes(args.budget)
    dataset = load_dataset(args.data)
    if args.fold is None:
        args.fold = dataset.folds[-1]
    _, test_clips = split(dataset, args.fold)
    shape = largest_fitting(budget_bytes, len(dataset.labels))
    check_target(args.out)
    finished_path(args).unlink(missing_ok=True)
    teachers = teachers_by_spectrogram(args.teacher, dataset.labels)
    held_out = f"fold {args.fold} ({len(test_clips)} clips) held out" if test_clips else "nothing held out"
    print(
        f"{len(dataset.clips)} recordings of {len(dataset.labels)} classes, {held_out}\n"
        f"three nets of widths {'/'.join(map(str, shape.widths))}{' with DC' if shape.decomposed else ''}, "
        f"{sum(map(len, teachers.values()))} full-size teachers, {args.epochs} epochs each",
        flush=True,
    )
    for name in PRESETS:  # once, here: the trainings that share the cache start together
        features(dataset.clips, dataclasses.replace(PRESETS[name], hop_length=HOP_LENGTH), args.cache)
    train_members(shape, args, teachers)
    runs = [load_run(args.runs / name) for name in PRESETS]
    deployed = [tuned(name, args) for name in PRESETS] if args.qat_epochs else runs
    bundle = export(deployed, args.out, args.data, args.fold, cache=args.cache)
    sizes = {fmt: [member.files[fmt]["bytes"] for member in bundle.members] for fmt in ("tflite", "onnx")}
    assert all(fits(s, budget_bytes) for s in sizes.values()), f"{sizes} do not fit {budget_bytes}: raise SLACK_BYTES"
    print("\n" + (args.out / "report.md").read_text())
    if test_clips:
        table = evaluate(args.out, runs, test_clips, dataset.labels, args.cache)
        write_atomic(evaluation_path(args), lambda path: path.write_text(json.dumps(table, indent=1)))
        write_atomic(finished_path(args), lambda path: path.write_text(json.dumps(identity(args), indent=1) + "\n"))
        print(evaluation_text(table, len(test_clips)))
    example = (test_clips or dataset.clips)[0].path
    print(
        f"\nmade {args.out}: "
        + ", ".join(f"{sum(s):,} bytes of {fmt}" for fmt, s in sizes.items())
        + f" in {budget_bytes:,}"
    )
    stream = f"python -m runtime.stream --bundle {args.out}"
    print(f"next: {stream} --wav {example}\n  or: {stream} --mic")


def arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m compress.cnn7", description=__doc__.split("  ")[0])
    parser.add_argument(
        "--budget", required=True, help="bytes for the three deployed files of one format, such as 128kb"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=RECORDINGS,
        help="ESC-50, TAU or folder-per-class (default: the shipped recordings)",
    )
    parser.add_argument(
        "--fold", type=int, help="fold to hold out and score on; 0: train on everything (default: the last one)"
    )
    parser.add_argument(
        "--teacher", type=Path, action="append", default=[], metavar="RUN", help="full-size run to distil from; repeat"
    )
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument(
        "--qat-epochs", type=int, default=0, help="train on with int8 rounding for so many epochs (default 0)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument(
        "--runs", type=Path, help="where the three trainings are kept (default: runs/, as --out is called)"
    )
    parser.add_argument("--out", type=Path, default=Path("bundles/cnn7"), help="bundle to write (default bundles/cnn7)")
    args = parser.parse_args(argv)
    args.runs = args.runs or Path("runs") / args.out.name
    return args


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
