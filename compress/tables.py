"""P3's own tables on any data set.  python -m compress.tables sizes|lengths|fusion|classes --data PATH [--fold K]

    sizes     CNN-7, with channel restriction (CR), with decomposed convolutions too (CR+DC): mel, hop 620
    lengths   CR+DC on three spectrograms, four time lengths each, with augmentation and without
    fusion    CR+DC on three spectrograms of hop 1850, fused by Mean, Prod, Max and a weighted Prod
    classes   the same nets and their PROD, class by class

Each trains what it lacks below --runs, fold by fold, and leaves what is finished; fusion and classes also take trained
nets, --nets RUN RUN ... Adam, 100 epochs, patches of 128 frames half overlapping and of 200, mixup and SpecAugment are the
paper's; what it leaves open (learning rate, batch, the widths of SpecAugment) is ours, see train.loop.Recipe.
"""

import argparse
import dataclasses
import os
from pathlib import Path

import torch

from compress import tables_of_runs
from compress.deployed import n_looped
from compress.recipe import NO_AUGMENTATION
from compress.workers import MAX_JOBS, side_by_side
from compress.written import write_table
from runtime import command
from runtime.files import read_json
from runtime.frontend import PRESETS
from train.data import RECORDINGS, check_heard, load_dataset, split
from train.features import CACHE, PatchShape, features
from train.recipe import Recipe
from train.results import load_results
from train.scores import PREDICTIONS
from train.systems import SYSTEMS
from train.trainer import train

TABLES = ("sizes", "lengths", "fusion", "classes")
LENGTHS = {620: 128, 1120: 128, 1850: 128, 2048: 200}  # hop -> frames of a patch: P3's 1, 2, 5 and 10 s
EPOCHS = 100


@dataclasses.dataclass(frozen=True)
class Net:
    """One entry of a table: a shape of CNN-7 in train.systems, what it hears, and whether with augmentation."""

    shape: str
    spectrogram: str
    hop_length: int
    augmented: bool

    @property
    def name(self):
        return f"{self.shape}-{self.spectrogram}-{self.hop_length}-{'augmented' if self.augmented else 'plain'}"

    @property
    def frontend(self):
        return dataclasses.replace(PRESETS[self.spectrogram], hop_length=self.hop_length)

    @property
    def patch(self):
        n_frames = LENGTHS[self.hop_length]
        return PatchShape(n_frames, 64 if n_frames == 128 else n_frames)  # half overlapping; 200 frames: one of 10 s

    def recipe(self, epochs, batch_size, seed):
        """Without random gain, which is not the paper's."""
        given = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "gain_db": 0.0}
        return Recipe(**given | ({} if self.augmented else NO_AUGMENTATION))


def nets_of(table, spectrograms=tuple(PRESETS), hops=tuple(LENGTHS)):
    """-> the Nets that a table needs; `spectrograms` and `hops` choose among those of "lengths"."""
    if table == "sizes":  # without augmentation, as P3's comparison of sizes
        return [Net(shape, "mel", 620, False) for shape in ("full", "cr", "cr+dc")]
    if table == "lengths":
        return [Net("cr+dc", name, hop, on) for on in (False, True) for name in spectrograms for hop in hops]
    return [Net("cr+dc", name, 1850, True) for name in PRESETS]


def train_net(net, data, fold, recipe, folder, cache):
    """One training in this process, one thread. -> net, fold"""
    torch.set_num_threads(1)
    train(
        "cnn7", SYSTEMS["cnn7"].shapes[net.shape], net.frontend, net.patch, data, fold, recipe, folder, cache=cache,
        say=lambda line: print(f"{net.name} fold {fold}: {line}", flush=True),
    )  # fmt: skip
    return net, fold


def is_finished(net, fold, recipe, dataset, folder):
    """Whether `folder` holds this very training, whole. One of another data set or recipe is trained anew."""
    if not all((folder / name).is_file() for name in ("meta.json", "model.safetensors", PREDICTIONS)):
        return False
    try:
        meta = read_json(folder / "meta.json")
        check_heard(meta.get("data"), dataset, fold, folder)
    except ValueError:
        return False
    if max(clip.path.stat().st_mtime for clip in dataset.clips) > (folder / "meta.json").stat().st_mtime:
        return False  # recordings came later: train.trainer looks whether they are others
    wanted = {"frontend": net.frontend.to_json(), "patch": net.patch.to_json(), "recipe": recipe.to_json(),
              "labels": list(dataset.labels)}  # fmt: skip
    return meta["data"].get("name") == dataset.name and all(meta.get(key) == value for key, value in wanted.items())


def trained(nets, args, dataset, folds):
    """Train what is not there. -> {net: folders of its runs, by fold}"""
    recipes = {net: net.recipe(args.epochs, args.batch_size, args.seed) for net in nets}
    folder = {(net, fold): args.runs / f"fold{fold}" / net.name for net in nets for fold in folds}
    missing = [key for key in folder if not is_finished(*key, recipes[key[0]], dataset, folder[key])]
    print(f"{len(folder) - len(missing)} of {len(folder)} trainings are done, {len(missing)} to do", flush=True)
    for frontend in dict.fromkeys(net.frontend for net, _ in missing):
        features(dataset.clips, frontend, args.cache)  # once, here: the trainings that share the cache start together
    calls = [(net, args.data, fold, recipes[net], folder[net, fold], args.cache) for net, fold in missing]
    for i, (net, fold) in enumerate(side_by_side(train_net, calls, args.jobs), 1):
        print(f"{net.name} fold {fold} is trained: {i} of {len(calls)}", flush=True)
    return {net: [folder[net, fold] for fold in folds] for net in nets}


def made(args):
    """-> the table: {"title", "rows", ...} as its writers in compress.tables_of_runs take it."""
    dataset = load_dataset(args.data)
    folds = list(dict.fromkeys(args.fold or dataset.folds))
    for fold in folds:  # before anything is computed
        if not split(dataset, fold)[1]:
            raise ValueError(f"--fold {fold} holds nothing out: choose some of {', '.join(map(str, dataset.folds))}")
    if args.nets:
        return tables_of_runs.MADE[args.table](load_results(args.nets, dataset, args.cache))
    nets = nets_of(args.table, args.spectrogram or tuple(PRESETS), args.hop_length or tuple(LENGTHS))
    folders = trained(nets, args, dataset, folds)
    results = {net: load_results(folders[net]) for net in nets}
    if args.table == "sizes":
        return tables_of_runs.sizes({net.shape: some for net, some in results.items()})
    if args.table == "lengths":
        hops = {net.hop_length: net for net in nets}
        looped = {hop: n_looped(dataset.clips, net.frontend, net.patch.n_static) for hop, net in hops.items()}
        return tables_of_runs.lengths(results, looped, len(dataset.clips))
    return tables_of_runs.MADE[args.table]([result for some in results.values() for result in some])


def main(argv=None):
    args = _arguments(argv)
    table = made(args)
    text = tables_of_runs.TEXTS[args.table](table)
    print(f"\n{text}")
    path = args.runs / args.table
    write_table(path, text, table, tables_of_runs.PLOTS[args.table])
    print(f"\nmade {path}.txt, .json and .png")


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m compress.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="any data set (default: the shipped recordings)")
    parser.add_argument("--fold", type=int, action="append", help="hold this one out; repeat (default: each in turn)")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="folder of trainings and tables")
    parser.add_argument("--nets", type=Path, nargs="+", metavar="RUN", help="fuse these trained nets; trains nothing")
    parser.add_argument(
        "--spectrogram", choices=PRESETS, action="append", help="lengths: only this one; repeat (default: all three)"
    )
    parser.add_argument(
        "--hop-length", type=int, choices=LENGTHS, action="append", help="lengths: only this one; repeat (default: all)"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: the paper's {EPOCHS}")
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size, help="patches of one step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, MAX_JOBS),
        help="trainings side by side (default: one for each core)",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    args = parser.parse_args(argv)
    if args.table != "lengths" and (args.spectrogram or args.hop_length):
        parser.error(f"--spectrogram and --hop-length are for lengths: {args.table} needs all of its nets")
    if args.nets and args.table not in tables_of_runs.MADE:
        parser.error(f"--nets: {args.table} compares nets of several shapes or lengths, and trains them")
    return args


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
