"""Train a net on recordings with several labels.

python -m train.tags attentive --frontend p0_mel --frontend p0_logmel --frontend p0_mfcc --data chime_home --fold 1 --out RUN
"""

import argparse
import dataclasses
from pathlib import Path

from runtime import command
from runtime.papers import PAPERS
from train.features import CACHE, PLANES, PatchShape, Stack, features
from train.loop import clip_tag_probabilities, fit
from train.systems import SYSTEMS, arguments
from train.tagging import equal_error_rates, load_tagged, split_tagged, targets
from train.trainer import fitting, new_run

SR = 16000  # of CHiME-Home's mono chunks, on which DCASE 2016 judged
FRAMES, STRIDE = 96, 21  # two patches in a chunk: 4 s have 125 of P0's frames, deltas leave 117


def train_tags(model_name, kwargs, frontend, patch, data, fold, recipe, folder, *, cache=CACHE, say=print):
    """Train on all folds but one, 0 for the evaluation set; save the run. -> (Run, {label or "mean": equal error rate})."""
    fitting(model_name, frontend, patch, recipe)
    dataset = load_tagged(data)
    train_clips, test_clips = split_tagged(dataset, fold)
    train_statics, test_statics = (features(clips, frontend, cache) for clips in (train_clips, test_clips))
    run = new_run(model_name, kwargs, frontend, patch, dataset.labels, train_statics, recipe)
    truth = targets(train_clips, dataset.labels)
    identity = [frontend.to_json(), patch.to_json(), [clip.path.name for clip in train_clips], truth.tolist()]
    history = fit(run, train_statics, truth, recipe, folder, identity=identity, say=say)
    scores = clip_tag_probabilities(run, test_statics)
    rates = equal_error_rates(scores, targets(test_clips, dataset.labels), dataset.labels)
    known = {label: rate for label, rate in rates.items() if rate == rate}  # NaN is no JSON
    run.meta |= {
        "tags": True,
        "scores": {"equal_error_rate": known},
        "history": history,
        "data": {"name": dataset.name, "fold": fold, "n_train": len(train_clips), "n_test": len(test_clips)},
        "recipe": recipe.to_json(),
    }
    run.save(folder)
    return run, rates


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.tags", description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SYSTEMS, help="system, as of python -m train")
    parser.add_argument("--data", type=Path, required=True, help="chime_home, the folder of CHiME-Home")
    parser.add_argument(
        "--fold", type=int, required=True, help="1 to 5 of the development set; 0 tests the evaluation set"
    )
    parser.add_argument(
        "--frontend",
        choices=PAPERS,
        metavar="NAME",
        required=True,
        action="append",
        help=f"a paper's spectrogram; repeat for nets that fuse several: {', '.join(PAPERS)}",
    )
    parser.add_argument("--planes", choices=PLANES, help="what a net sees of a spectrogram (default: the system's)")
    parser.add_argument("--shape", default="full", help="size, as of python -m train")
    parser.add_argument("--epochs", type=int, help="passes over the recordings (default: the system's)")
    parser.add_argument("--batch-size", type=int, help="patches of one step (default: the system's)")
    parser.add_argument("--lr", type=float, help="Adam's peak learning rate (default: the system's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    args = parser.parse_args(argv)
    system = SYSTEMS[args.model]
    given = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "seed": args.seed}
    recipe = dataclasses.replace(system.recipe, **{name: value for name, value in given.items() if value is not None})
    patch = PatchShape(FRAMES, STRIDE, args.planes or system.patch.planes)
    frontends = tuple(dataclasses.replace(PAPERS[name], sr=SR) for name in args.frontend)
    frontend = frontends[0] if len(frontends) == 1 else Stack(frontends)
    _, rates = train_tags(
        args.model, arguments(args.model, args.shape, frontend, patch), frontend, patch, args.data, args.fold, recipe,
        args.out, cache=args.cache, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    for label, rate in rates.items():
        print(f"equal error rate {rate:6.1%}  {label}" if rate == rate else f"equal error rate      -  {label}")
    print(f"made {args.out}/model.safetensors")


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
