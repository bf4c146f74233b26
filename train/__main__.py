"""Train a full-size or small net on one kind of spectrogram.  python -m train cnn7 --frontend mel --data PATH --fold 1"""

import argparse
import dataclasses
from pathlib import Path

import torch

from runtime import command
from runtime.frontend import PRESETS
from runtime.papers import PAPERS
from train import scores, vgg
from train.data import RECORDINGS
from train.features import CACHE, Stack
from train.loop import CHOICES
from train.systems import SYSTEMS, described
from train.trainer import train

FRONTENDS = {
    **{name: dataclasses.replace(frontend, hop_length=1120) for name, frontend in PRESETS.items()},
    **{name: frontend for name, frontend in PAPERS.items() if frontend.kind != "frames"},
}
# Flags that replace a value of the system's recipe.
RECIPE_FLAGS = {
    "epochs": (int, "passes over the recordings"),
    "batch_size": (int, "patches of one step"),
    "lr": (float, "Adam's peak learning rate"),
    "weight_decay": (float, "l2"),
    "gain_db": (float, "each patch louder or quieter by up to this"),
    "mixup_alpha": (float, "alpha of the Beta distribution, 0 for none"),
    "mask_frames": (int, "SpecAugment: frames hidden at most"),
    "mask_bands": (int, "SpecAugment: bands hidden at most"),
    "distill": (float, "weight of the teachers' opinion, 0..1"),
    "schedule": (str, "learning rate over the epochs"),
    "shares": (str, "distribution of mixup's shares"),
    "crops": (str, "a random patch of each clip per epoch, or every patch"),
}


def main(argv=None):
    args = _arguments(argv)
    system = SYSTEMS[args.model]
    frontend = _frontend(args, system)
    name, kwargs = _net(args, system, frontend)
    planes = "stacked" if system.patch.planes == "static" and args.frontend == ["p1_mfcc"] else system.patch.planes
    lengths = {"n_frames": args.patch_frames, "stride": args.stride}
    patch = dataclasses.replace(
        system.patch, planes=planes, **{name: length for name, length in lengths.items() if length is not None}
    )
    given = {field: getattr(args, field) for field in [*RECIPE_FLAGS, "oversample"] if getattr(args, field) is not None}
    recipe = dataclasses.replace(system.recipe, seed=args.seed, **given)
    if not 1 <= args.threads <= 256:
        raise ValueError(f"threads {args.threads}: choose 1 to 256")
    torch.set_num_threads(args.threads)
    folder = args.out or Path("runs") / _folder_name(args)
    run, _ = train(
        name, kwargs, frontend, patch, args.data, args.fold, recipe, folder,
        teachers=args.teacher, cache=args.cache, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    if run.meta["scores"]:
        print(scores.text(run.meta["scores"]["last"]))
        best = run.meta["scores"]["best_on_test_fold"]
        print(f"best epoch {best['epoch']}: {best['accuracy']:.1%} (chosen on the test fold, so too high an estimate)")
    print(f"made {folder}/model.safetensors")
    if frontend.kind != "stack":  # no bundle holds several spectrograms for one net
        deployed = name == "cnn7" and run.model.kwargs["order"] == "deploy"  # the others have no int8 form
        print(f"next: python -m export {folder} --data {args.data} --to BUNDLE{'' if deployed else ' --float'}")


def _frontend(args, system):
    """-> the Frontend, or the Stack of those named."""
    frontends = [FRONTENDS[name] for name in args.frontend]
    if args.hop_length is not None:
        frontends = [dataclasses.replace(frontend, hop_length=args.hop_length) for frontend in frontends]
    if len(frontends) == 1:
        return frontends[0]
    if not system.fuses:
        fusing = ", ".join(name for name, other in SYSTEMS.items() if other.fuses)
        raise ValueError(
            f"{args.model} hears one spectrogram, not {len(frontends)}: train one run each and fuse them with "
            f"python -m train.fuse, or take {fusing}"
        )
    return Stack(tuple(frontends))


def _net(args, system, frontend):
    """-> name in train.models.MODELS, its arguments apart from n_classes."""
    if args.shape not in system.shapes:
        raise ValueError(f"shape {args.shape!r}: {args.model} comes as {', '.join(system.shapes)}")
    kwargs = dict(system.shapes[args.shape])
    if isinstance(frontend, Stack):
        if args.sub_bands > 1:
            raise ValueError(f"--sub-bands {args.sub_bands}: SPSMF cuts up one spectrogram, name one --frontend")
        kwargs |= {"bands": frontend.bands, "fusion": args.fusion or "early"}
    elif args.fusion:
        raise ValueError(f"--fusion {args.fusion} takes several spectrograms: repeat --frontend")
    if args.sub_bands == 1 and not args.frame_decisions:
        return args.model, kwargs
    strategies = {"n_sub_bands": args.sub_bands, "frame_decisions": args.frame_decisions}
    return "strategies", {"net": args.model, "kwargs": kwargs, **strategies}


def _folder_name(args):
    options = [f"-{args.fusion}"] if args.fusion else []
    options += [f"-spsmf{args.sub_bands}"] if args.sub_bands > 1 else []
    options += ["-spsmt"] if args.frame_decisions else []
    fold = "all" if args.fold is None else f"fold{args.fold}"
    return f"{args.model}-{args.shape}{''.join(options)}-{'+'.join(args.frontend)}-{fold}-seed{args.seed}"


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m train", description=__doc__.split("  ")[0], epilog=described(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", choices=SYSTEMS, help="system, see below")
    parser.add_argument(
        "--frontend",
        choices=FRONTENDS,
        metavar="NAME",
        required=True,
        action="append",
        help=f"spectrogram; repeat for nets that fuse several: {', '.join(FRONTENDS)}",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=RECORDINGS,
        help="ESC-50, TAU or folder-per-class (default: the shipped recordings)",
    )
    parser.add_argument("--fold", type=int, help="hold this fold out and score on it (default: train on everything)")
    parser.add_argument("--shape", default="full", help="size, see below (default full: as printed)")
    parser.add_argument("--sub-bands", type=int, default=1, help="SPSMF (P2): a net for each of so many sub-bands")
    parser.add_argument(
        "--frame-decisions", action="store_true", help="SPSMT (P2): the classifier decides on every frame"
    )
    parser.add_argument(
        "--fusion", choices=vgg.FUSIONS, help="where several spectrograms meet: EF, MF, LF of P2 (default early)"
    )
    parser.add_argument(
        "--hop-length",
        type=int,
        help="samples; P3's 620, 1120, 1850 give patches of 1.8, 3.3, 5.4 s (default: mel, gam, cqt 1120, others their own)",
    )
    parser.add_argument("--patch-frames", type=int, help="frames of a patch (default: the system's; cnn7 128)")
    parser.add_argument("--stride", type=int, help="frames between patches (default: the system's; cnn7 32)")
    recipe = parser.add_argument_group("the recipe", "defaults: the system's paper; cnn7's are ours")
    for field, (kind, text) in RECIPE_FLAGS.items():
        names = ["--mixup"] if field == "mixup_alpha" else [f"--{field.replace('_', '-')}"]
        recipe.add_argument(*names, dest=field, type=kind, choices=CHOICES.get(field), help=text)
    recipe.add_argument("--oversample", action=argparse.BooleanOptionalAction, help="classes equally often per epoch")
    recipe.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        help="run of the same spectrogram to distil from; repeat for several",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/MODEL-SHAPE-FRONTEND-FOLD-SEED)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
