"""Train a full-size or small net on one kind of spectrogram.  python -m train cnn7 --frontend mel --data PATH --fold 1"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from runtime import command
from runtime.frontend import PRESETS
from runtime.papers import PAPERS
from train import scores, vgg
from train.data import RECORDINGS
from train.features import CACHE, PLANES, Stack
from train.loop import fabric_of
from train.recipe import CHOICES
from train.relevance import SMALL_FRAMES
from train.systems import SYSTEMS, arguments, described
from train.trainer import train
from train.workers import workers

FRONTENDS = {
    **{name: dataclasses.replace(frontend, hop_length=1120) for name, frontend in PRESETS.items()},
    **PAPERS,
    "frames_16k": SMALL_FRAMES,
}
# Flags that replace a value of the system's recipe.
RECIPE_FLAGS = {
    "epochs": (int, "passes over the recordings"),
    "batch_size": (int, "patches of one step"),
    "optimizer": (str, "adam, or sgd with momentum"),
    "lr": (float, "the peak learning rate"),
    "weight_decay": (float, "l2"),
    "gain_db": (float, "each patch louder or quieter by up to this"),
    "mixup_alpha": (float, "alpha of the Beta distribution, 0 for none"),
    "mask_frames": (int, "SpecAugment: frames hidden at most"),
    "mask_bands": (int, "SpecAugment: bands hidden at most"),
    "distill": (float, "weight of the teachers' opinion, 0..1"),
    "schedule": (str, "learning rate over the epochs"),
    "cycles": (int, "of the cosine schedule, equally long"),
    "shares": (str, "distribution of mixup's shares; between: two sounds heard at once, Tokozume 2018"),
    "crops": (str, "a random patch of each clip per epoch, or every patch"),
    "precision": (
        str,
        "of the forward pass; bfloat16 is 2.6 times as fast with AMX, 1.7 times with AVX-512 BF16, slow on other processors",
    ),
    "mixstyle": (float, "chance of a batch to undergo Freq-MixStyle, 0..1"),
    "average": (float, "keep the running average of the weights, with this decay per step; 0: the last weights"),
    "vary_every": (
        int,
        "half of the patches varied in speed, microphone and room, anew after so many epochs; 0: none",
    ),
    "noise_share": (float, "made room noises beside each recording, or patch of a grid, of no class; 0: none"),
}
RECIPE_SWITCHES = {
    "oversample": "classes equally often per epoch",
    "roll": "each patch begun at a random frame and carried on, round, at its beginning",
}


def main(argv=None):
    args = _arguments(argv)
    system = SYSTEMS[args.model]
    frontend, patch = _frontend(args), _patch(args, system)
    name, kwargs = _net(args, frontend, patch)
    given = {
        field: getattr(args, field) for field in [*RECIPE_FLAGS, *RECIPE_SWITCHES] if getattr(args, field) is not None
    }
    recipe = dataclasses.replace(system.recipe, seed=args.seed, **given)
    if not 1 <= args.threads <= 256:
        raise ValueError(f"threads {args.threads}: choose 1 to 256")
    torch.set_num_threads(args.threads)
    folder = args.out or Path("runs") / _folder_name(args)
    fabric = fabric_of(recipe, args.accelerator, args.devices)
    fabric.launch()  # where there are several devices: this command once more for each of the others
    say = (lambda line: print(line, flush=True)) if fabric.is_global_zero else (lambda line: None)
    with workers(args.workers) as starmap:
        run, _ = train(
            name, kwargs, frontend, patch, args.data, args.fold, recipe, folder,
            teachers=args.teacher, cache=args.cache, fabric=fabric, say=say, starmap=starmap,
        )  # fmt: skip
    if not fabric.is_global_zero:
        return
    if run.meta["scores"]:
        print(scores.text(run.meta["scores"]["last"]))
        best = run.meta["scores"]["best_on_test_fold"]
        print(f"best epoch {best['epoch']}: {best['accuracy']:.1%} (chosen on the test fold, so too high an estimate)")
    print(f"made {folder}/model.safetensors")
    if name == "learned":
        print(f"next: python -m train.centres {folder} --plot centres.png")
    print(f"next: python -m export {folder} --data {args.data} --to BUNDLE{_export_flag(args, kwargs)}")


def _frontend(args):
    """-> the Frontend, or the Stack of those named."""
    frontends = [FRONTENDS[name] for name in args.frontend]
    given = {"hop_length": args.hop_length, "n_fft": args.n_fft, "win_length": args.win_length}
    given = {name: value for name, value in given.items() if value is not None}
    frontends = [dataclasses.replace(frontend, **given) for frontend in frontends]
    return frontends[0] if len(frontends) == 1 else Stack(tuple(frontends))


def _patch(args, system):
    """-> the PatchShape of the system, with what was asked for instead."""
    given = {
        "n_frames": args.patch_frames,
        "stride": args.stride,
        "planes": args.planes,
        "quietest_db": args.quietest_db,
    }
    if system.patch.planes == "static" and args.frontend == ["p1_mfcc"]:
        given["planes"] = args.planes or "stacked"
    return dataclasses.replace(system.patch, **{name: value for name, value in given.items() if value is not None})


def _net(args, frontend, patch):
    """-> name in train.models.MODELS, its arguments apart from n_classes."""
    stacked = isinstance(frontend, Stack)
    if args.fusion and not stacked:
        raise ValueError(f"--fusion {args.fusion} takes several spectrograms: repeat --frontend")
    if args.sub_bands > 1 and (stacked or frontend.kind == "frames"):
        raise ValueError(f"--sub-bands {args.sub_bands}: SPSMF cuts up one spectrogram, name one --frontend")
    given = [("fusion", args.fusion)] if args.fusion else []
    kwargs = arguments(args.model, args.shape, frontend, patch, given + args.set)
    if args.sub_bands == 1 and not args.frame_decisions:
        return args.model, kwargs
    strategies = {"n_sub_bands": args.sub_bands, "frame_decisions": args.frame_decisions}
    return "strategies", {"net": args.model, "kwargs": kwargs, **strategies}


def _export_flag(args, kwargs):
    """Which of python -m export's writers has a form for the net."""
    if args.model != "cnn7" or args.sub_bands > 1:
        return " --converters"
    return " --float" if kwargs.get("kwargs", kwargs).get("order") == "paper" else ""


def _folder_name(args):
    options = [f"-{args.fusion}"] if args.fusion else []
    options += [f"-{name}={value}" for name, value in args.set]
    options += [f"-spsmf{args.sub_bands}"] if args.sub_bands > 1 else []
    options += ["-spsmt"] if args.frame_decisions else []
    fold = "all" if args.fold is None else f"fold{args.fold}"
    return f"{args.model}-{args.shape}{''.join(options)}-{'+'.join(args.frontend)}-{fold}-seed{args.seed}"


def _option(text):
    """NAME=VALUE, the value a number, true, false, or a word."""
    name, equals, value = text.partition("=")
    if not name or not equals or "/" in value:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE, without a slash")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m train", description=__doc__.split("  ")[0], epilog=described(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", choices=SYSTEMS, help="system, see below")
    parser.add_argument(
        "--data",
        type=Path,
        default=RECORDINGS,
        help="ESC-50, UrbanSound8K, TUT, TAU, LITIS Rouen or folder-per-class (default: the shipped recordings)",
    )
    parser.add_argument("--fold", type=int, help="hold this fold out and score on it (default: train on everything)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/MODEL-SHAPE-FRONTEND-FOLD-SEED)")
    _net_options(parser.add_argument_group("the net"))
    _heard_options(parser.add_argument_group("what it hears"))
    _recipe_options(parser.add_argument_group("the recipe", "defaults: the system's paper; cnn7's are ours"))
    _machine_options(parser.add_argument_group("the machine"))
    return parser.parse_args(argv)


def _net_options(group):
    group.add_argument("--shape", default="full", help="size, see below (default full: as printed)")
    group.add_argument(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the net, over its shape's: heads=4, skip=false, bank=sinc, late=false; repeat for several",
    )
    group.add_argument("--sub-bands", type=int, default=1, help="SPSMF (P2): a net for each of so many sub-bands")
    group.add_argument(
        "--frame-decisions", action="store_true", help="SPSMT (P2): the classifier decides on every frame"
    )
    group.add_argument(
        "--fusion", choices=vgg.FUSIONS, help="where several spectrograms meet: EF, MF, LF of P2 (default early)"
    )


def _heard_options(group):
    group.add_argument(
        "--frontend",
        choices=FRONTENDS,
        metavar="NAME",
        required=True,
        action="append",
        help=f"spectrogram; repeat for nets that fuse several: {', '.join(FRONTENDS)}",
    )
    group.add_argument(
        "--hop-length",
        type=int,
        help="samples; P3's 620, 1120, 1850 give patches of 1.8, 3.3, 5.4 s (default: mel, gam, cqt 1120, others their own)",
    )
    group.add_argument("--n-fft", type=int, help="samples of the FFT (default: the spectrogram's, 8192 in P3)")
    group.add_argument("--win-length", type=int, help="samples of the window (default: the spectrogram's, 4096 in P3)")
    group.add_argument("--patch-frames", type=int, help="frames of a patch (default: the system's; cnn7 128)")
    group.add_argument("--stride", type=int, help="frames between patches (default: the system's; cnn7 32)")
    group.add_argument("--planes", choices=PLANES, help="what a net sees of a spectrogram (default: the system's)")
    group.add_argument(
        "--quietest-db",
        type=float,
        help="hear patches relative to their loudest frame, or to this level, of the mean of the bands, where that is "
        "quieter (compress.cnn7: mel, window 1024, -42; gam -63, cqt -50; default: relative to full scale)",
    )


def _recipe_options(group):
    for field, (kind, text) in RECIPE_FLAGS.items():
        names = ["--mixup"] if field == "mixup_alpha" else [f"--{field.replace('_', '-')}"]
        group.add_argument(*names, dest=field, type=kind, choices=CHOICES.get(field), help=text)
    for field, text in RECIPE_SWITCHES.items():
        group.add_argument(f"--{field}", action=argparse.BooleanOptionalAction, help=text)
    group.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        help="run to distil from, of any spectrogram; several teach by their product",
    )


def _machine_options(group):
    group.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the net's steps")
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes beside those threads that make spectrograms and, an epoch ahead, variations (default 0: none)",
    )
    group.add_argument(
        "--accelerator", choices=("auto", "cpu", "cuda"), default="auto", help="default auto: a GPU, or cpu"
    )
    group.add_argument(
        "--devices", type=int, default=1, help="GPUs, or processes on the cpu, that share every batch (default 1)"
    )


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
