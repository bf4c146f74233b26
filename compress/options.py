"""The options of compress.cnn7, and what does not go together."""

import argparse
import importlib.util
import math
from pathlib import Path

from compress.recipe import EPOCHS, NOISE_SHARE
from compress.size import parse_bytes
from runtime.frontend import PRESETS
from train.data import RECORDINGS
from train.features import CACHE

SEARCH_EPOCHS = 18  # of a trial
TEACHERS = "teachers"  # folder of --runs for the nets of --taught-by


def arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m compress.cnn7", description="Shrink CNN-7 to a byte budget.")
    parser.add_argument(
        "--budget", required=True, help="bytes for the three deployed files of one format, such as 128kb"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=RECORDINGS,
        help="a folder of recordings per class, ESC-50, TAU or another known layout (default: those that ship)",
    )
    parser.add_argument(
        "--fold", type=int, help="fold to hold out and score on; 0: train on everything (default: the last one)"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="trained run to distil from, of any spectrogram; several teach by their geometric mean",
    )
    parser.add_argument(
        "--taught-by",
        metavar="BUDGET",
        help="first train three larger nets, of 1mb say, in the teachers folder of --runs, and distil from these",
    )
    parser.add_argument(
        "--prune-from", type=Path, metavar="RUNS", help="--runs of a larger budget: prune its nets and train them on"
    )
    _training_options(parser)
    _search_options(
        parser.add_argument_group(
            "the search", "a shape per spectrogram by its log loss on training clips; needs the extra 'search'"
        )
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept (default %(default)s)")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that make spectrograms, noises and, for each of the three trainings, variations (default 0: none)",
    )
    parser.add_argument(
        "--runs", type=Path, help="where the three trainings are kept (default: runs/, as --out is called)"
    )
    parser.add_argument("--out", type=Path, default=Path("bundles/cnn7"), help="bundle to write (default bundles/cnn7)")
    args = parser.parse_args(argv)
    args.runs = args.runs or Path("runs") / args.out.name
    _check(args)
    if args.noise_share is None:
        args.noise_share = NOISE_SHARE
    own = {(args.runs / name).resolve() for name in PRESETS}
    for source in [*args.teacher, *(args.prune_from / name for name in PRESETS if args.prune_from)]:
        if source.resolve() in own:
            raise ValueError(f"{source} would be overwritten by what learns from it: choose other --runs")
    if args.taught_by:
        args.teacher = [args.runs / TEACHERS / name for name in PRESETS]
    return args


def _training_options(parser):
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training (default %(default)s)")
    parser.add_argument("--no-augmentation", action="store_true", help="recordings as they are, to see what it buys")
    parser.add_argument(
        "--noise-share",
        type=float,
        help="made room noises beside each recording, of no class; 0 where a class is noise itself "
        f"(default {NOISE_SHARE:g})",
    )
    parser.add_argument(
        "--absolute-level",
        action="store_true",
        help="hear dB of full scale, not of each patch's loudest frame: where level tells classes apart, and the microphone "
        "that will listen is as loud as those that recorded",
    )
    parser.add_argument(
        "--qat-epochs", type=int, default=0, help="train on with int8 rounding for so many epochs (default 0)"
    )


def _search_options(group):
    group.add_argument(
        "--search",
        type=float,
        metavar="HOURS",
        help="of trials per spectrogram, all calls together (default: no search)",
    )
    group.add_argument("--shapes", type=Path, metavar="FILE", help="search.json of a search: the shapes it has chosen")
    group.add_argument("--search-epochs", type=int, help=f"of a trial (default {SEARCH_EPOCHS})")
    group.add_argument("--ram", type=parse_bytes, help="bytes of tensor arena that each net may take, such as 256kb")
    group.add_argument("--macs", type=int, help="multiply-accumulates of a patch that each net may take")
    group.add_argument(
        "--storage",
        help="file, or URL of a database, that the same command on other machines shares (default: in --runs)",
    )


def _check(args):
    """Raises ValueError for what does not go together or no search can have, ImportError where none can be made."""
    if args.taught_by and (args.teacher or args.prune_from):
        raise ValueError("--taught-by takes no --teacher and no --prune-from: it trains the teachers")
    if args.taught_by and parse_bytes(args.taught_by) <= parse_bytes(args.budget):
        raise ValueError(f"--taught-by {args.taught_by} is no more than --budget {args.budget}: give a larger one")
    if args.shapes and not args.shapes.is_file():
        raise ValueError(f"--shapes {args.shapes}: no such file; --search leaves search/search.json in its --runs")
    if args.shapes and (args.prune_from or args.search is not None):
        raise ValueError("--shapes takes no --search and no --prune-from: it says the shapes")
    if args.no_augmentation and (args.prune_from or args.search is not None):
        raise ValueError("--no-augmentation takes no --search and no --prune-from: those have recipes of their own")
    if args.no_augmentation and args.noise_share:
        raise ValueError("--no-augmentation takes no --noise-share: it hears the recordings alone")
    if args.absolute_level and (args.shapes or args.prune_from or args.search is not None):
        raise ValueError("--absolute-level takes no --search, --shapes or --prune-from: these say what is heard")
    if args.prune_from and (args.teacher or args.search is not None):
        raise ValueError("--prune-from takes no --teacher and no --search: the wider nets give the shape and teach it")
    if args.search is None:
        for name in ("search_epochs", "ram", "macs", "storage"):
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} {getattr(args, name)} is for a search: add --search HOURS"
                )
        return
    if not 0 < args.search < math.inf:
        raise ValueError(f"--search {args.search:g}: give hours above 0, such as 2 or 0.5")
    if args.search_epochs is None:
        args.search_epochs = SEARCH_EPOCHS
    if not 1 <= args.search_epochs <= 100_000:
        raise ValueError(f"--search-epochs {args.search_epochs}: choose 1 to 100000")
    if args.macs is not None and args.macs < 1:
        raise ValueError(f"--macs {args.macs}: give a number of at least 1")
    if importlib.util.find_spec("optuna") is None:
        raise ImportError("--search needs optuna: pip install 'tinyear[search]'")
