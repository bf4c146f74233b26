"""Train a full-size or small net on one kind of spectrogram.  python -m train cnn7 --frontend mel --data PATH --fold 1"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from runtime import command
from runtime.frontend import PRESETS
from runtime.papers import PAPERS
from train import scores
from train.data import RECORDINGS
from train.features import CACHE, PatchShape
from train.loop import Recipe
from train.models import MODELS
from train.relevance import SMALL_FRAMES
from train.trainer import SHAPES, train

FRONTENDS = {
    **{name: dataclasses.replace(frontend, hop_length=1120) for name, frontend in PRESETS.items()},
    **PAPERS,
    "frames_16k": SMALL_FRAMES,
}


def main(argv=None):
    args = _arguments(argv)
    frontend = FRONTENDS[args.frontend]
    if args.hop_length is not None:
        frontend = dataclasses.replace(frontend, hop_length=args.hop_length)
    patch = PatchShape(args.patch_frames, args.stride)
    fold = "all" if args.fold is None else f"fold{args.fold}"
    changed = "".join(f"-{name}={value}" for name, value in args.set)
    folder = args.out or Path("runs") / f"{args.model}-{args.shape}{changed}-{args.frontend}-{fold}-seed{args.seed}"
    recipe = Recipe(
        epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, mixup_alpha=args.mixup, seed=args.seed,
        distill=args.distill,
    )  # fmt: skip
    if not 1 <= args.threads <= 256:
        raise ValueError(f"threads {args.threads}: choose 1 to 256")
    torch.set_num_threads(args.threads)
    run, _ = train(
        args.model, SHAPES[args.shape] | dict(args.set), frontend, patch, args.data, args.fold, recipe, folder,
        teachers=args.teacher, cache=args.cache, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    if run.meta["scores"]:
        print(scores.text(run.meta["scores"]["last"]))
        best = run.meta["scores"]["best_on_test_fold"]
        print(f"best epoch {best['epoch']}: {best['accuracy']:.1%} (chosen on the test fold, so too high an estimate)")
    print(f"made {folder}/model.safetensors")
    if args.model == "learned":
        print(f"next: python -m train.centres {folder} --plot centres.png")
    elif args.model == "cnn7":
        numbers = " --float" if run.model.kwargs.get("order") == "paper" else ""  # the paper's order has no int8 form
        print(f"next: python -m export {folder} --data {args.data} --to BUNDLE{numbers}")


def _option(text):
    """NAME=VALUE, the value a number, true, false, or a word."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__.split("  ")[0])
    parser.add_argument("model", choices=MODELS, help="architecture")
    parser.add_argument(
        "--frontend", choices=FRONTENDS, metavar="NAME", required=True, help=f"spectrogram: {', '.join(FRONTENDS)}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=RECORDINGS,
        help="ESC-50, UrbanSound8K, TUT, TAU, LITIS Rouen or folder-per-class (default: the shipped recordings)",
    )
    parser.add_argument("--fold", type=int, help="hold this fold out and score on it (default: train on everything)")
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="full",
        help="cnn7: full (Table I of P3), cr, cr+dc (its compressed forms), deployed; "
        "learned: p4 (9 convolutions), p4_urban8k (CNN-LSTM), p4_small (scaled down for a CPU); "
        "attentive: p0 (hybrid fusion), p0_small (scaled down)",
    )
    parser.add_argument(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one argument of the net, over its shape's: heads=4, skip=false, bank=sinc; repeat for several",
    )
    parser.add_argument(
        "--hop-length",
        type=int,
        help="samples; P3's 620, 1120, 1850 give patches of 1.8, 3.3, 5.4 s (default: mel, gam, cqt 1120, others their own)",
    )
    parser.add_argument("--patch-frames", type=int, default=128, help="frames of a patch (default 128)")
    parser.add_argument("--stride", type=int, default=32, help="frames between patches (default 32)")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="Adam's peak learning rate")
    parser.add_argument(
        "--mixup", type=float, default=Recipe.mixup_alpha, help="alpha of the Beta distribution, 0 for none"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        help="run of the same spectrogram to distil from; repeat for several",
    )
    parser.add_argument("--distill", type=float, default=Recipe.distill, help="weight of the teachers' opinion, 0..1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/MODEL-SHAPE-FRONTEND-FOLD-SEED)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
