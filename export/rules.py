"""Learn a bundle's temperatures, thresholds and levels.  python -m export.rules BUNDLE [--data PATH] [--folds RUNS]

From recordings that the nets were not trained on: the fold that the bundle held out or, where it was trained on
everything, each fold through the nets of `python -m compress.folds` that held it out. What is fitted on one part of them is
measured on another; the bundle keeps what is fitted on all, and those figures.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.assemble import finish
from export.crossfit import learn, text
from export.traces import Trace, hear
from runtime import command
from runtime.bundle import Bundle
from runtime.level import Levels, clip_level
from runtime.member import Member
from runtime.rules import Rules
from train.data import RECORDINGS, Clip, Dataset, check_heard, load_dataset, split
from train.features import CACHE, features

N_PARTS = 4  # of a single held-out fold
UNKNOWN = (
    0.25  # share of unknown sounds that may be reported: about the best F1 with as many unknown sounds as known, LOG.md
)
PERCENTILES = (5, 50, 95)


def held_out(bundle: Bundle) -> int:
    """-> the fold that no member of the bundle was trained on; 0: none, everything was. Raises ValueError."""
    try:
        folds = {bundle.provenance["runs"][member.name]["data"]["fold"] or 0 for member in bundle.members}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{bundle.folder}: its provenance does not say what its nets were trained on") from error
    if len(folds) != 1 or not isinstance(next(iter(folds)), int):
        raise ValueError(f"{bundle.folder}: its nets held out different folds ({folds}): no recording is new to all")
    return int(folds.pop())


def unheard(bundle: Bundle, dataset: Dataset, runs: Path | None) -> list[Trace]:
    """Traces of recordings through nets that were not trained on them. Raises ValueError where there are none."""
    fold = held_out(bundle)
    if fold and runs is not None:
        raise ValueError(
            f"{bundle.folder} held out fold {fold}, which will judge it: leave --folds out, or train the bundle on "
            "everything (python -m compress.cnn7 --fold 0)"
        )
    if fold:
        _check_heard(bundle, dataset, fold)
        clips = split(dataset, fold)[1]
        groups = sorted({clip.group for clip in clips})
        if len(groups) < 2:
            raise ValueError(f"{dataset.name}: fold {fold} holds {len(groups)} recordings, wanted 2 and more")
        return hear(bundle, clips, [groups.index(clip.group) % N_PARTS for clip in clips], fold)
    if runs is None:
        raise ValueError(
            f"{bundle.folder} was trained on every fold, its own recordings would flatter it: "
            "give --folds RUNS, made by `python -m compress.folds`"
        )
    bundles = bundles_of_folds(runs, dataset, bundle.format)
    for other in bundles.values():
        check_alike(bundle, other)
    return hear_folds(bundles, dataset)


def _check_heard(bundle: Bundle, dataset: Dataset, fold: int) -> None:
    for member in bundle.members:
        check_heard(bundle.provenance["runs"][member.name]["data"], dataset, fold, bundle.folder)


def fold_folders(runs: Path, folds: Sequence[int], name: str = "bundle") -> dict[int, Path]:
    """-> {fold: the bundle of that name in a --runs folder of compress.folds}. Raises ValueError for a fold without."""
    found = {fold: runs / f"fold{fold}" / name for fold in folds}
    for fold, folder in found.items():
        if not (folder / "bundle.json").is_file():
            raise ValueError(
                f"{runs}: no {name} of fold {fold} ({folder}): give a --runs folder of compress.folds that has finished"
            )
    return found


def bundles_of_folds(runs: Path, dataset: Dataset, fmt: str | None = None) -> dict[int, Bundle]:
    """-> {fold: the bundle of compress.folds that held it out}. Raises ValueError for one that did not."""
    bundles = {}
    for fold, folder in fold_folders(runs, dataset.folds).items():
        bundle = bundles[fold] = Bundle.load(folder, fmt)
        if (own := held_out(bundle)) != fold:
            raise ValueError(f"{bundle.folder} held out fold {own}, not {fold}: it knows what would judge it")
        _check_heard(bundle, dataset, fold)
    return bundles


def hear_folds(bundles: dict[int, Bundle], dataset: Dataset) -> list[Trace]:
    """Each fold's recordings through the bundle that held it out; a trace's part is its fold."""
    clips = {fold: split(dataset, fold)[1] for fold in bundles}
    return [t for fold, one in bundles.items() for t in hear(one, clips[fold], [fold] * len(clips[fold]), fold)]


def check_alike(bundle: Bundle, other: Bundle) -> None:
    """Raises ValueError for a bundle of a fold that is none of the same system, of which nothing can be learned."""
    shapes = [[(m.name, m.frontend, m.patch) for m in b.members] for b in (bundle, other)]
    if shapes[0] != shapes[1] or other.labels != bundle.labels or other.fuse != bundle.fuse:
        raise ValueError(f"{other.folder} differs from {bundle.folder} in labels, front ends or fusion: fit them alike")


def levels_of(bundle: Bundle, clips: Sequence[Clip], cache: Path = CACHE) -> Levels | None:
    """The range of levels of the clips in the bands of the bundle's first member that hears them; None: none does.

    Where the patches of all members are relative, the quiet end is where that ends for half of the clips.
    """
    member = next((member for member in bundle.members if member.hears_level), None)
    if member is None:
        return None
    levels_db = [clip_level(static) for static in features(clips, member.frontend, cache)]
    low, mid, high = np.percentile(levels_db, PERCENTILES, axis=0)
    low = np.minimum(low, mid - min(_headroom_db(one, clips, cache) for one in bundle.members))
    return Levels(member.name, *(tuple(row.round(2).tolist()) for row in (low, mid, high)))


def _headroom_db(member: Member, clips: Sequence[Clip], cache: Path) -> float:
    """How much quieter half of the clips may become before their patches cease to be relative."""
    patch = member.patch
    if patch.quietest_db is None:
        return 0.0
    references_db = [patch.reference_db(static) for static in features(clips, member.frontend, cache)]
    return float(np.median(references_db)) - patch.quietest_db


def store(
    bundle: Bundle, temperatures: Sequence[float], rules: Rules, levels: Levels | None, figures: dict[str, Any]
) -> None:
    """Write what was learned into the bundle's folder, all of it or nothing; its model files stay as they are."""
    folder = bundle.folder.resolve()
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        samples = golden["samples"]
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        shutil.copytree(folder, partial)
        values = json.loads((partial / "bundle.json").read_text())
        for member, temperature in zip(values["members"], temperatures):
            member["temperature"] = temperature
        values |= {"rules": rules.to_json()} | ({"levels": levels.to_json()} if levels else {})
        values["provenance"]["rules"] = figures
        (partial / "bundle.json").write_text(json.dumps(values, indent=1) + "\n")
        finish(partial, folder, samples)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    if not 0.01 <= args.unknown <= 1:
        raise ValueError(f"--unknown {args.unknown}: choose 0.01 to 1")
    dataset, bundle = load_dataset(args.data), Bundle.load(args.bundle)
    if dataset.labels != bundle.labels:
        raise ValueError(
            f"{args.data} has other classes ({', '.join(dataset.labels)[:80]}) than {args.bundle}: name its own --data"
        )
    if len(dataset.labels) < 3:
        raise ValueError(
            f"{args.data} has 2 classes: with one left out there is nothing to choose from, wanted 3 and more"
        )
    bundle.check()
    traces = unheard(bundle, dataset, args.folds)
    temperatures, rules, figures = learn(traces, bundle, args.unknown)
    levels = levels_of(bundle, split(dataset, held_out(bundle))[0], args.cache)
    figures |= {"data": dataset.name, "nets": "one fold held out" if held_out(bundle) else "every fold held out once"}
    store(bundle, temperatures, rules, levels, figures)
    print(text(figures, rules))
    print(
        f"\n{figures['recordings']} recordings and {figures['after']['room_minutes']:g} min of empty rooms, each measured "
        f"with what was fitted on the others\nstored in {args.bundle}; next: python -m runtime.bundle {args.bundle} --check"
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export.rules", description="Learn a bundle's temperatures, thresholds and levels."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder; what is learned is stored in it")
    parser.add_argument(
        "--data", type=Path, default=RECORDINGS, help="what it was trained on (default: the shipped ones)"
    )
    parser.add_argument(
        "--folds",
        type=Path,
        metavar="RUNS",
        help="folder of python -m compress.folds, for a bundle trained on all of it",
    )
    parser.add_argument(
        "--unknown",
        type=float,
        default=UNKNOWN,
        metavar="SHARE",
        help=f"of unknown sounds that may be reported as something, 0.01 to 1 (default {UNKNOWN})",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, stopped="stopped; the bundle is as it was")
