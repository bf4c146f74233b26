"""Train a net on recordings with several labels.  python -m train.tags attentive --data chime_home --fold 1 --out RUN"""

import argparse
import dataclasses
from pathlib import Path

from runtime import command
from runtime.papers import PAPERS
from train.features import CACHE, PatchShape, features
from train.loop import Recipe, clip_tag_probabilities, fit
from train.models import MODELS
from train.tagging import equal_error_rates, load_tagged, split_tagged, targets
from train.trainer import SHAPES, fitting, new_run

SR = 16000  # of CHiME-Home's mono chunks, on which DCASE 2016 judged
PATCH = PatchShape(96, 21)  # two of them in a chunk: 4 s have 125 of P0's frames
RECIPE = Recipe(epochs=10, batch_size=100, lr=1e-3, mixup_alpha=0.0)  # P0's; its l2 is 0.005, ours the recipe's


def train_tags(model_name, kwargs, frontend, patch, data, fold, recipe, folder, *, cache=CACHE, say=print):
    """Train on all folds but one, 0 for the evaluation set; save the run. -> (Run, {label or "mean": equal error rate})."""
    dataset = load_tagged(data)
    kwargs = fitting(model_name, kwargs, frontend, patch)
    train_clips, test_clips = split_tagged(dataset, fold)
    train_statics, test_statics = (features(clips, frontend, cache) for clips in (train_clips, test_clips))
    run = new_run(model_name, kwargs, frontend, patch, dataset.labels, train_statics, recipe)
    truth = targets(train_clips, dataset.labels)
    identity = [frontend.to_json(), dataclasses.asdict(patch), [clip.path.name for clip in train_clips], truth.tolist()]
    history = fit(run, train_statics, truth, recipe, folder, identity=identity, say=say)
    scores = clip_tag_probabilities(run, test_statics)
    rates = equal_error_rates(scores, targets(test_clips, dataset.labels), dataset.labels)
    known = {label: rate for label, rate in rates.items() if rate == rate}  # NaN is no JSON
    run.meta = {
        "tags": True,
        "scores": {"equal_error_rate": known},
        "history": history,
        "data": {"name": dataset.name, "fold": fold, "n_train": len(train_clips), "n_test": len(test_clips)},
        "recipe": dataclasses.asdict(recipe),
    }
    run.save(folder)
    return run, rates


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.tags", description=__doc__.split("  ")[0])
    parser.add_argument("model", choices=MODELS, help="architecture")
    parser.add_argument("--data", type=Path, required=True, help="chime_home, the folder of CHiME-Home")
    parser.add_argument(
        "--fold", type=int, required=True, help="1 to 5 of the development set; 0 tests the evaluation set"
    )
    parser.add_argument(
        "--frontend", choices=sorted(PAPERS), default="p0_logmel", metavar="NAME", help="a paper's spectrogram"
    )
    parser.add_argument("--shape", choices=SHAPES, default="p0", help="p0 (default); p0_small: scaled down for a CPU")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--batch-size", type=int, default=RECIPE.batch_size)
    parser.add_argument("--lr", type=float, default=RECIPE.lr, help="Adam's peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    args = parser.parse_args(argv)
    recipe = dataclasses.replace(RECIPE, epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, seed=args.seed)
    frontend = dataclasses.replace(PAPERS[args.frontend], sr=SR)
    _, rates = train_tags(
        args.model, SHAPES[args.shape], frontend, PATCH, args.data, args.fold, recipe, args.out,
        cache=args.cache, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    for label, rate in rates.items():
        print(f"equal error rate {rate:6.1%}  {label}" if rate == rate else f"equal error rate      -  {label}")
    print(f"made {args.out}/model.safetensors")


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on from the last epoch")
