"""A learned filterbank's centre frequencies beside mel's.  python -m train.centres RUN --plot centres.png"""

import argparse
from pathlib import Path

import numpy as np

from runtime import command
from runtime.files import write_atomic
from train.learned import mel_spaced
from train.run import load_run


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.centres", description=__doc__.split("  ")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that python -m train learned made")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw them too")
    args = parser.parse_args(argv)
    run = load_run(args.run)
    if run.name != "learned":
        raise ValueError(f"{args.run} is a {run.name}: only a run of learned has filters to show")
    learned = run.model.bank.centers_hz()
    mel = mel_spaced(len(learned), run.frontend.sr)
    print("filter    mel Hz  learned Hz")
    for i, (before, after) in enumerate(zip(mel, learned)):
        print(f"{i:6} {before:9.1f} {after:11.1f}")
    change = np.abs(learned / mel - 1)
    print(f"median change {np.median(change):.1%}, largest {change.max():.1%}")
    if args.plot:
        write_atomic(args.plot, lambda path: plot(path, mel, learned, run.model.kwargs["bank"]))
        print(f"made {args.plot}")


def plot(path, mel, learned, name):
    """PNG: centre frequency over filter number, both in kHz."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(mel / 1000, color="tab:gray", label="mel")
    axes.plot(learned / 1000, ".", color="tab:blue", label=f"learned ({name})")
    axes.set_xlabel("filter, ordered by its centre")
    axes.set_ylabel("centre frequency, kHz")
    axes.legend()
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    command.run(main, "stopped; nothing was drawn")
