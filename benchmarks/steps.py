"""How long a net takes to train beside the deployed CNN-7.  python -m benchmarks.steps [--json]

One step of the training loop's kind (batches of 8 patches of 3 x 128 x 128, Adam, one thread, channels last) of each net in
turn, so that all of them meet the same neighbours; processor time of the thread, median of the rounds. Only the ratios
mean something.
"""

import argparse
import json
import sys
import time
from statistics import median

import torch
import torch.nn.functional as F

from runtime import command
from train.loop import _keep_memory, fabric_of, fastest_precision
from train.models import MODELS
from train.recipe import Recipe
from train.systems import SYSTEMS

REFERENCE = ("cnn7", "deployed")
NETS = [REFERENCE, *((name, shape) for name in ("cpmobile", "bcresnet") for shape in ("small", "full"))]
BATCH, N_CLASSES, SEED = 8, 10, 0


def stepper(name, shape, fabric):
    """-> a function that does one step of training on random patches."""
    torch.manual_seed(SEED)
    model = MODELS[name](n_classes=N_CLASSES, **SYSTEMS[name].shapes[shape]).to(memory_format=torch.channels_last)
    learner, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters()))
    x = torch.randn(BATCH, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    target = torch.randint(N_CLASSES, (BATCH,))

    def step():
        loss = F.cross_entropy(learner(x).float(), target)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()

    return step


def measure(rounds, precision):
    """-> rows: net, milliseconds of a step, the same beside the reference's."""
    fabric = fabric_of(Recipe(precision=precision))
    steps = {net: stepper(*net, fabric) for net in NETS}
    seconds = {net: [] for net in NETS}
    for i in range(rounds + 2):  # the first two build kernels
        for net, step in steps.items():
            began = time.thread_time()
            step()
            seconds[net] += [time.thread_time() - began] if i >= 2 else []
        print(f"\rround {i + 1}/{rounds + 2}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    middle = {net: median(values) for net, values in seconds.items()}
    return [
        {"net": " ".join(net), "step_ms": round(1e3 * s, 1), "ratio": round(s / middle[REFERENCE], 2)}
        for net, s in middle.items()
    ]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__.split("  ")[0])
    parser.add_argument("--rounds", type=int, default=20, help="steps of each net (default 20, about 10 s in all)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=fastest_precision())
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    args = parser.parse_args()
    if not 1 <= args.rounds <= 10_000:
        raise ValueError(f"--rounds {args.rounds}: choose 1 to 10000")
    torch.set_num_threads(1)
    _keep_memory()  # as the loop does
    rows = measure(args.rounds, args.precision)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{args.precision}, {BATCH} patches a step")
    for row in rows:
        print(f"{row['net']:15}  {row['step_ms']:7.1f} ms  {row['ratio']:.2f} of {' '.join(REFERENCE)}")


if __name__ == "__main__":
    command.run(main)
