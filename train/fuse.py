"""Every combination of spectrograms, fused by Mean, Prod and Max.  python -m train.fuse RUN RUN ... [--json FILE]

P1's Tables 5 and 6 over trained runs, from the predictions they keep: per system, each set of its spectrograms, over all
folds together. The Mean of all is SPSMR of P2; PROD is P3's. Runs of several folds: each spectrogram needs all of them,
and a fourth column is the product with a weight for each net, fitted on the other folds' test clips (out of fold).
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from runtime import command
from runtime.files import write_text
from runtime.fusion import FUSIONS, TINY, log_softmax
from train.data import load_dataset
from train.features import CACHE
from train.results import by_member, load_results, pooled, pooled_folds, pooled_groups
from train.scores import accuracy_and_loss, difference, difference_text, intervals

MAX_MEMBERS = 10  # 1023 combinations
ORDER = ("mean", "prod", "max")
WEIGHTED = "weighted"
HEADS = {"mean": "Mean", "prod": "Prod", "max": "Max", WEIGHTED: "weighted Prod"}


def fit_weights(truth, log_p):
    """(clips,), (members, clips, classes) -> (members,) weights >= 0 of a product with the least log loss.

    The product is proportional to p_1^w_1 p_2^w_2 ...: a weight for each net and a temperature for all in one. Its log
    loss is convex in the weights (a softmax regression), so where the search starts does not matter.
    """
    from scipy.optimize import minimize

    log_p = np.maximum(log_p, np.log(TINY))
    right = log_p[:, np.arange(len(truth)), truth]  # (members, clips)

    def loss(weights):
        said = log_softmax(np.tensordot(weights, log_p, 1))  # (clips, classes)
        slope = (np.exp(said) * log_p).sum(2) - right  # (members, clips): the expected less the right one's
        return -said[np.arange(len(truth)), truth].mean(), slope.mean(1)

    found = minimize(loss, np.full(len(log_p), 1 / len(log_p)), jac=True, bounds=[(0, None)] * len(log_p))
    return found.x


def weighted_product(log_p, weights):
    """(members, clips, classes), (members,) -> (clips, classes): log of the renormalised product of p ** weight."""
    return log_softmax(np.tensordot(weights, np.maximum(log_p, np.log(TINY)), 1))


def weighted_out_of_fold(truth, log_p, folds):
    """-> (clips, classes): each fold's clips fused with weights that were fitted on the clips of the other folds."""
    fused = np.zeros(log_p.shape[1:])
    for fold in np.unique(folds):
        here = folds == fold
        fused[here] = weighted_product(log_p[:, here], fit_weights(truth[~here], log_p[:, ~here]))
    return fused


def fused_by(kind, truth, log_p, folds=None):
    """(clips,), (members, clips, classes) -> (clips, classes) fused by a key of HEADS."""
    if kind == WEIGHTED:
        return weighted_out_of_fold(truth, log_p, folds)
    return np.stack([FUSIONS[kind](log_p[:, i]) for i in range(len(truth))])


def combinations(members, folds=None):
    """{name: (truth, (clips, classes) log probabilities)} -> [{"members", "mean", "prod", "max"}], fewest members first.

    Each fusion's value: {"accuracy", "log_loss", "n"}. Mean is eq. (20) of P1, Prod its eq. (23), Max its eq. (24).
    folds: (clips,) the fold of each clip; of two or more, there are "weighted" and, fitted on all clips, "weights" too.
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
            several = folds is not None and len(np.unique(folds)) > 1
            kinds = [*ORDER, WEIGHTED] if several else ORDER
            scores = {kind: accuracy_and_loss(truth, fused_by(kind, truth, log_p, folds)) for kind in kinds}
            weights = {"weights": [round(float(w), 4) for w in fit_weights(truth, log_p)]} if several else {}
            rows.append({"members": list(names), **scores, **weights})
    return rows


def against_best_single(members, groups):
    """PROD of all members beside the best of them: {"single", "interval", "single_interval", "difference"}.

    The best is chosen on the same clips, which flatters it. Intervals: train.scores.bootstrap over recordings.
    """
    truth = next(iter(members.values()))[0]
    single = max(members, key=lambda name: accuracy_and_loss(*members[name])["accuracy"])
    prod = fused_by("prod", truth, np.stack([log_p for _, log_p in members.values()]))
    return {
        "prod": accuracy_and_loss(truth, prod),
        "interval": intervals(truth, prod, groups),
        "single": single,
        "single_score": accuracy_and_loss(*members[single]),
        "single_interval": intervals(*members[single], groups),
        "difference": difference(truth, prod, members[single][1], groups),
        "groups": len(set(groups)),
    }


def against_text(row, known):
    """A row of `against_best_single` as lines. known: whether `groups` are the recordings that clips were cut from."""
    drawn = f"{row['groups']} recordings" if known else f"{row['groups']} clips (--data PATH: recordings instead)"
    lines = [f"95 % intervals by bootstrap over {drawn}:"]
    for name, score, interval in (
        ("PROD of all", row["prod"], row["interval"]),
        (f"best single, {row['single']}", row["single_score"], row["single_interval"]),
    ):
        low, high = interval["accuracy"]
        lines.append(f"  {name}: {score['accuracy']:.1%} [{low:.1%}, {high:.1%}]")
    return "\n".join([*lines, f"  difference, paired: {difference_text(row['difference'])}"])


def text(title, rows):
    """The rows as lines for a terminal, the best of each size marked."""
    width = max(len(" + ".join(row["members"])) for row in rows)
    kinds = [kind for kind in HEADS if kind in rows[0]]
    lines = [title, " " * (width + 2) + "".join(f"{HEADS[kind]:>16}" for kind in kinds)]
    best = {(len(row["members"]), kind): 0.0 for row in rows for kind in kinds}
    for row in rows:
        for kind in kinds:
            key = len(row["members"]), kind
            best[key] = max(best[key], row[kind]["accuracy"])
    for row in rows:
        line = f"  {' + '.join(row['members']):{width}}"
        for kind in kinds:
            score = row[kind]
            mark = "*" if score["accuracy"] == best[len(row["members"]), kind] else " "
            line += f"{score['accuracy']:>8.1%}{mark}{score['log_loss']:>7.3f}"
        lines.append(line)
    return "\n".join(lines)


def tables(results, across=False):
    """Results -> {title: rows of `combinations`}, one table per system of two spectrograms or more; or one over all."""
    return {title: combinations(members, folds) for title, members, folds, _ in _systems(results, across)}


def comparisons(results, across=False):
    """Results -> {title, as in `tables`: (`against_best_single`, whether recordings are known)}."""
    systems = _systems(results, across)
    return {title: (against_best_single(members, groups), known) for title, members, _, (groups, known) in systems}


def _systems(results, across):
    """-> [(title, members as of `combinations`, (clips,) folds, (their groups, whether those are known))]"""
    by_system = {}
    for result in results:
        by_system.setdefault("all systems" if across else result.system, []).append(result)
    out = []
    for system, runs in sorted(by_system.items()):
        grouped = by_member(runs)
        members = {
            f"{name} {spectrogram}" if across else spectrogram: pooled(some)
            for (name, spectrogram), some in grouped.items()
        }
        if len(members) > 1:
            one = next(iter(grouped.values()))
            folds = ", ".join(str(run.fold) for run in one)
            title = f"{system}, folds {folds}, {sum(len(run.truth) for run in one)} clips: accuracy, log loss"
            out.append((title, members, pooled_folds(one), pooled_groups(one)))
    if not out:
        raise ValueError("nothing to fuse: name runs of one system on several spectrograms, or several with --across")
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.fuse", description=__doc__.split("  ")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder that python -m train --fold made")
    parser.add_argument("--across", action="store_true", help="combine systems too, not only one's spectrograms")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="what the runs were trained on: scores those that kept no predictions"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables here too")
    args = parser.parse_args(argv)
    results = load_results(args.runs, args.data and load_dataset(args.data), args.cache)
    made, compared = tables(results, args.across), comparisons(results, args.across)
    print("\n\n".join(f"{text(title, rows)}\n{against_text(*compared[title])}" for title, rows in made.items()))
    print("\n* best of its size")
    if args.json:
        for title, rows in made.items():
            rows[-1]["against_best_single"] = compared[title][0]  # the row of all members
        write_text(args.json, json.dumps(made, indent=1) + "\n")
        print(f"made {args.json}")


if __name__ == "__main__":
    command.run(main)
