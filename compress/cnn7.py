"""Shrink CNN-7 to a byte budget.  python -m compress.cnn7 --budget 128kb [--search HOURS]

Picks the largest shape whose three int8 nets fit as files, or searches for a better one per spectrogram, trains them on mel,
gammatone and CQT spectrograms, distilled from full-size nets where some are given, or pruned from wider ones, quantizes,
exports, checks, and says what a held-out fold thinks of the result.
"""

import argparse
import hashlib
import json
import time

import numpy as np

from compress import pareto, prune, qat
from compress.deployed import fused
from compress.options import TEACHERS, arguments
from compress.recipe import recipe
from compress.shapes import CERTAINTY, N_MEMBERS, QUIETEST_DB, Limits, Shape, heard_by, largest_fitting
from compress.size import fits, parse_bytes
from compress.workers import side_by_side
from export.__main__ import calibration_patches, export
from export.assemble import check_target
from export.equalize import VERSION as QUANTIZATION
from runtime import command
from runtime.bundle import Bundle
from runtime.files import read_json, write_atomic
from runtime.frontend import PRESETS
from train import scores
from train.data import check_classes, fingerprint, load_dataset, split
from train.features import features
from train.loop import clip_log_probabilities
from train.run import load_run, weights_digest
from train.teachers import load_teachers, opinions
from train.trainer import data_facts, train
from train.workers import check_n, workers

COLUMNS = "float", "tflite", "onnx"  # what `evaluate` scores: torch, and each format's engine


def train_member(name, shape, args):
    """One small net, trained to its end or pruned and trained on. A killed call goes on where it was."""
    started = time.monotonic()

    def say(line):
        print(f"{name}: {line}", flush=True)

    if args.prune_from:
        prune.prune(
            args.prune_from / name, shape.widths, load_dataset(args.data), args.fold, args.epochs, args.seed,
            args.runs / name, cache=args.cache, noise_share=args.noise_share, say=say,
        )  # fmt: skip
    else:
        with workers(args.workers) as starmap:
            train(
                "cnn7", shape.kwargs, shape.frontend(name), shape.patch, args.data, args.fold,
                _recipe(args), args.runs / name, teachers=args.teacher, cache=args.cache, say=say,
                starmap=starmap,
            )  # fmt: skip
    if args.qat_epochs:
        tuned(name, args)
    return name, time.monotonic() - started


def train_members(shapes, args, dataset):
    """The three nets of these shapes, side by side, into --runs."""
    nets = "; ".join(f"{name} {shape}" for name, shape in shapes.items())
    print(f"three nets of widths {nets}, {len(args.teacher)} teachers, {args.epochs} epochs each", flush=True)
    with workers(args.workers) as starmap:
        for name, shape in shapes.items():  # once, here: the trainings that share the cache start together
            features(dataset.clips, shape.frontend(name), args.cache, starmap)
        opinions(args.teacher, dataset, args.fold, args.cache, starmap)
    for name, took_s in side_by_side(train_member, [(name, shape, args) for name, shape in shapes.items()]):
        print(f"{name}: trained in {took_s:.0f} s", flush=True)


def teachers_of(args):
    """-> what to train the teachers of --taught-by with: the same recipe and data, the ladder's shape of their budget."""
    values = {"budget": args.taught_by, "runs": args.runs / TEACHERS, "taught_by": None, "teacher": [], "qat_epochs": 0}
    values |= {"search": None, "shapes": None, "ram": None, "macs": None}
    return argparse.Namespace(**(vars(args) | values))


def _recipe(args):
    return recipe(args.epochs, args.seed, not args.no_augmentation, args.noise_share)


def _qat_recipe(args):
    return qat.recipe(args.qat_epochs, args.seed, not args.no_augmentation, args.noise_share)


def tuned(name, args):
    """The member's run, trained on with its int8 rounding; one that is done is read back from its checkpoint."""
    run = load_run(args.runs / name)
    dataset = load_dataset(args.data)
    clips, _ = split(dataset, args.fold)
    return qat.finetune(
        run, features(clips, run.frontend, args.cache), [dataset.labels.index(clip.label) for clip in clips],
        calibration_patches(run, clips, args.cache), _qat_recipe(args),
        args.runs / name / "qat", say=lambda line: print(f"{name}, int8: {line}", flush=True),
    )  # fmt: skip


def shapes_for(args, labels):
    """-> the Shape of each spectrogram's net: the largest of the ladder, what a search finds, or a wider net's, pruned."""
    budget_bytes = parse_bytes(args.budget)
    largest = largest_fitting(budget_bytes, len(labels))  # a budget that nothing fits ends it here
    limits = Limits(budget_bytes // N_MEMBERS, args.ram, args.macs)
    if args.prune_from:
        return {name: prune.smaller_shape(load_run(args.prune_from / name), name, limits) for name in PRESETS}
    if args.shapes:
        return read_shapes(args.shapes, limits, len(labels))
    if args.search is None:
        return heard_by(largest, relative=not args.absolute_level)
    nets = search(args, limits)
    return {name: Shape.from_json(nets[name]["finalists"][0]["shape"]) for name in PRESETS}


def read_shapes(path, limits, n_classes):
    """What a search has chosen, from the search.json it wrote. Raises ValueError."""
    nets = read_json(path)
    try:
        shapes = {name: Shape.from_json(nets[name]["finalists"][0]["shape"]) for name in PRESETS}
        fitting = {name: limits.hold(shape, n_classes) for name, shape in shapes.items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what --search writes ({type(error).__name__}: {error})") from error
    for name, shape in shapes.items():
        if not fitting[name]:
            raise ValueError(f"{path}: {name}, {shape}, takes more than {limits.file_bytes:,} bytes: search again")
    return shapes


def search(args, limits):
    """Search the three spectrograms side by side -> {name: {"finalists", "trials"}}, also written beside the runs."""
    from compress import study  # optuna: main has made sure that it is there

    folder = args.runs / "search"
    storage = args.storage or str(folder / "journal.log")
    tasks = [
        study.Task(
            name, args.data, args.fold, limits, args.search, args.search_epochs, args.epochs, args.seed,
            storage, folder, args.cache,
        )
        for name in PRESETS
    ]  # fmt: skip
    print(
        f"searching: {args.search:g} h of trials per spectrogram, {args.search_epochs} epochs each, shared by {storage}",
        flush=True,
    )
    found = {name: values for name, *values in side_by_side(study.searched, [(task,) for task in tasks])}
    nets = {name: dict(zip(("finalists", "trials"), found[name])) for name in PRESETS}
    write_atomic(folder / "search.json", lambda path: path.write_text(json.dumps(nets, indent=1) + "\n"))
    write_atomic(folder / "pareto.png", lambda path: path.write_bytes(pareto.png(nets)))
    print(f"{pareto.text(nets)}\nmade {folder}/search.json and pareto.png", flush=True)
    return nets


def evaluate(folder, runs, clips, labels, cache):
    """Each net and PROD on held-out clips, float (torch) and int8 (each format's engine) -> {row: {column: scores}}."""
    table = {}
    for column in COLUMNS:
        bundle = Bundle.load(folder, None if column == "float" else column)
        log_p = []
        for member, run in zip(bundle.members, runs):
            statics = features(clips, member.frontend, cache)
            if column == "float":
                log_p.append(clip_log_probabilities(run, statics))
            else:
                log_p.append(np.stack([member.clip_log_p(static) for static in statics]))
        rows = {member.name: p for member, p in zip(bundle.members, log_p)}
        rows["PROD"] = fused(bundle, np.stack(log_p))
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


def check(args, dataset):
    """Raises ValueError for what would otherwise end this call after hours of training, or spoil what is there."""
    check_classes(dataset)
    check_target(args.out)
    if not args.taught_by:
        load_teachers(args.teacher, dataset, args.fold)
    for name in PRESETS if args.prune_from else ():
        prune.check_source(load_run(args.prune_from / name), args.prune_from / name, dataset, args.fold)
    if args.prune_from:
        shapes_for(args, dataset.labels)  # whether the wide nets can be pruned to this budget
    check_n(args.workers)
    _recipe(args)
    if args.qat_epochs:
        _qat_recipe(args)


def identity(args, clips):
    """All that a bundle and its evaluation depend on, as JSON holds it. clips: of the data set."""
    later = {
        "taught_by": args.taught_by and parse_bytes(args.taught_by),
        "quietest_db": None if args.absolute_level or args.shapes or args.prune_from else QUIETEST_DB,
        "search": args.search,
        "search_epochs": args.search and args.search_epochs,
        "ram": args.ram,
        "macs": args.macs,
        "shapes": args.shapes and hashlib.sha256(args.shapes.read_bytes()).hexdigest(),
        "prune_from": args.prune_from and [weights_digest(args.prune_from / name) for name in PRESETS],
    }
    return {
        "budget_bytes": parse_bytes(args.budget),
        "data": str(args.data.resolve()),
        "out": str(args.out.resolve()),
        "clips": fingerprint(clips),
        "files": _files(clips),
        "teachers": [weights_digest(path) for path in args.teacher],
        "fold": args.fold,
        "epochs": args.epochs,
        "qat_epochs": args.qat_epochs,
        "seed": args.seed,
        "quantization": QUANTIZATION,
        "recipe": _recipe(args).to_json(),
        "certainty": CERTAINTY,
        **{name: value for name, value in later.items() if value is not None},  # those of before must stay the same
    }


def _files(clips):
    """Changes where a recording is replaced under its name."""
    stats = sorted([clip.path.name, clip.path.stat().st_size, clip.path.stat().st_mtime_ns] for clip in clips)
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


def evaluation_path(args):
    return args.runs / ("evaluation-qat.json" if args.qat_epochs else "evaluation.json")


def finished_path(args):
    """Holds the identity of the command whose bundle and evaluation are there, whole."""
    return evaluation_path(args).with_name(evaluation_path(args).name.replace("evaluation", "finished"))


def is_finished(args, clips):
    """Whether this very command has written its bundle and its evaluation."""
    if not (args.out / "bundle.json").is_file():
        return False
    try:
        if args.fold:
            table = read_json(evaluation_path(args))
            for name in (*PRESETS, "PROD"):
                np.array([table[name][column]["confusion"] for column in COLUMNS], int)
        return read_json(finished_path(args)) == identity(args, clips)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # missing or damaged: all of it is made anew


def make(args, dataset):
    """The whole way to a bundle at --out, and to its scores where a fold is held out. What is done is left as it is."""
    if is_finished(args, dataset.clips):  # exported again, it would lose what export.rules has learned since
        print(f"{args.out} is done; delete {finished_path(args)} to make it anew", flush=True)
        return
    budget_bytes = parse_bytes(args.budget)
    _, test_clips = split(dataset, args.fold)
    check(args, dataset)
    for old in (finished_path(args), evaluation_path(args)):
        old.unlink(missing_ok=True)
    held_out = f"fold {args.fold} ({len(test_clips)} clips) held out" if test_clips else "nothing held out"
    print(f"{len(dataset.clips)} recordings of {len(dataset.labels)} classes, {held_out}", flush=True)
    shapes = shapes_for(args, dataset.labels)
    if args.taught_by:
        print(f"first the nets of {args.taught_by} that teach", flush=True)
        larger = teachers_of(args)
        train_members(shapes_for(larger, dataset.labels), larger, dataset)
    train_members(shapes, args, dataset)
    runs = [load_run(args.runs / name) for name in PRESETS]
    for name, run in zip(PRESETS, runs):
        if (
            run.meta["data"] != data_facts(dataset, args.fold, run.frontend.sr)
            or run.meta["recipe"]["seed"] != args.seed
        ):
            raise ValueError(f"{args.runs / name} was trained by another command meanwhile: give each its own --runs")
    deployed = [tuned(name, args) for name in PRESETS] if args.qat_epochs else runs
    bundle = export(deployed, args.out, args.data, args.fold, cache=args.cache)
    sizes = {fmt: [member.files[fmt]["bytes"] for member in bundle.members] for fmt in ("tflite", "onnx")}
    assert all(fits(s, budget_bytes) for s in sizes.values()), f"{sizes} do not fit {budget_bytes}: raise SLACK_BYTES"
    if test_clips:
        table = evaluate(args.out, runs, test_clips, dataset.labels, args.cache)
        write_atomic(evaluation_path(args), lambda path: path.write_text(json.dumps(table, indent=1)))
        print(evaluation_text(table, len(test_clips)))
    facts = json.dumps(identity(args, dataset.clips), indent=1)
    write_atomic(finished_path(args), lambda path: path.write_text(f"{facts}\n"))
    weighed = ", ".join(f"{sum(s):,} bytes of {fmt}" for fmt, s in sizes.items())
    print(f"made {args.out}: {weighed} in {budget_bytes:,}", flush=True)


def main(argv=None):
    args = arguments(argv)
    dataset = load_dataset(args.data)
    if args.fold is None:
        args.fold = dataset.folds[-1]
    _, test_clips = split(dataset, args.fold)
    make(args, dataset)
    print("\n" + (args.out / "report.md").read_text())
    example = (test_clips or dataset.clips)[0].path
    stream = f"python -m runtime.stream --bundle {args.out}"
    print(f"next: {stream} --wav {example}\n  or: {stream} --mic")


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
