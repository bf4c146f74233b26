"""Every combination of spectrograms, fused by Mean, Prod and Max.  python -m train.fuse RUN RUN ... [--json FILE]

P1's Tables 5 and 6 over trained runs, from the predictions they keep: per system, each set of its spectrograms, over all
folds together. The Mean of all is SPSMR of P2; PROD is P3's. Runs of several folds: each spectrogram needs all of them.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from runtime import command
from runtime.files import write_text
from runtime.fusion import FUSIONS
from train.results import by_member, load_results, pooled
from train.scores import accuracy_and_loss

MAX_MEMBERS = 10  # 1023 combinations
ORDER = ("mean", "prod", "max")


def combinations(members):
    """{name: (truth, (clips, classes) log probabilities)} -> [{"members", "mean", "prod", "max"}], fewest members first.

    Each fusion's value: {"accuracy", "log_loss", "n"}. Mean is eq. (20) of P1, Prod its eq. (23), Max its eq. (24).
    """
    if len(members) > MAX_MEMBERS:
        raise ValueError(
            f"{len(members)} members make {2 ** len(members) - 1} combinations: name {MAX_MEMBERS} at most"
        )
    rows = []
    for size in range(1, len(members) + 1):
        for names in itertools.combinations(members, size):
            truth = members[names[0]][0]
            log_p = np.stack([members[name][1] for name in names])  # (members, clips, classes)
            fused = {kind: np.stack([FUSIONS[kind](log_p[:, i]) for i in range(len(truth))]) for kind in ORDER}
            rows.append({"members": list(names), **{kind: accuracy_and_loss(truth, fused[kind]) for kind in ORDER}})
    return rows


def text(title, rows):
    """The rows as lines for a terminal, the best of each size marked."""
    width = max(len(" + ".join(row["members"])) for row in rows)
    lines = [title, " " * (width + 2) + "".join(f"{kind.capitalize():>16}" for kind in ORDER)]
    best = {(len(row["members"]), kind): 0.0 for row in rows for kind in ORDER}
    for row in rows:
        for kind in ORDER:
            key = len(row["members"]), kind
            best[key] = max(best[key], row[kind]["accuracy"])
    for row in rows:
        line = f"  {' + '.join(row['members']):{width}}"
        for kind in ORDER:
            score = row[kind]
            mark = "*" if score["accuracy"] == best[len(row["members"]), kind] else " "
            line += f"{score['accuracy']:>8.1%}{mark}{score['log_loss']:>7.3f}"
        lines.append(line)
    return "\n".join(lines)


def tables(results, across=False):
    """Results -> {title: rows of `combinations`}, one table per system of two spectrograms or more; or one over all."""
    by_system = {}
    for result in results:
        by_system.setdefault("all systems" if across else result.system, []).append(result)
    out = {}
    for system, runs in sorted(by_system.items()):
        members = {
            f"{name} {spectrogram}" if across else spectrogram: pooled(some)
            for (name, spectrogram), some in by_member(runs).items()
        }
        if len(members) > 1:
            folds = ", ".join(str(fold) for fold in sorted({run.fold for run in runs}))
            n = len(next(iter(members.values()))[0])
            out[f"{system}, folds {folds}, {n} clips: accuracy, log loss"] = combinations(members)
    if not out:
        raise ValueError("nothing to fuse: name runs of one system on several spectrograms, or several with --across")
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.fuse", description=__doc__.split("  ")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder that python -m train --fold made")
    parser.add_argument("--across", action="store_true", help="combine systems too, not only one's spectrograms")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables here too")
    args = parser.parse_args(argv)
    made = tables(load_results(args.runs), args.across)
    print("\n\n".join(text(title, rows) for title, rows in made.items()))
    print("\n* best of its size")
    if args.json:
        write_text(args.json, json.dumps(made, indent=1) + "\n")
        print(f"made {args.json}")


if __name__ == "__main__":
    command.run(main)
