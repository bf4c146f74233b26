"""P3's tables out of trained runs: their numbers as JSON, as text, as pictures. The command: compress.tables."""

import numpy as np

from compress.size import NETS, paper_parameters
from train import fuse
from train.compare import macs
from train.results import by_member, pooled, pooled_groups
from train.run import load_run
from train.scores import accuracy_and_loss, difference, difference_text, intervals, plain

SIZES = {"full": "CNN-7", "cr": "CNN-7 CR", "cr+dc": "CNN-7 CR+DC"}  # shape of train.systems -> name in compress.size
PRINTED = {"full": 59.7, "cr": 57.1, "cr+dc": 56.7}  # % on TAU 2020, mel, P3


def _scored(results):
    """Runs of one net, by fold -> its scores and their intervals over all folds together."""
    truth, log_p = pooled(results)
    groups, known = pooled_groups(results)
    drawn = f"{len(set(groups))} {'recordings' if known else 'clips'}"
    return {**accuracy_and_loss(truth, log_p), "interval": intervals(truth, log_p, groups), "drawn": drawn}


def _title(results):
    folds = ", ".join(str(result.fold) for result in results)
    return f"{results[0].data}, folds {folds} held out in turn, {sum(len(r.truth) for r in results)} clips, last epoch"


def sizes(by_shape):
    """{shape: Results by fold} -> the table of CNN-7, CR and CR+DC, each compared with the first clip by clip."""
    rows, first = [], next(iter(by_shape.values()))
    for shape, results in by_shape.items():
        run = load_run(results[0].folder)
        parameters, (planes, bands) = paper_parameters(run.model), run.mean.shape
        truth, log_p = pooled(results)
        rows.append({
            "net": SIZES[shape],
            "parameters": parameters,
            "float_bytes": 4 * parameters,
            "printed_kb": NETS[SIZES[shape]][2],
            "macs": macs(run.model, (planes, run.patch.n_frames, bands)),
            **_scored(results),
            "printed_accuracy_tau": PRINTED[shape],
            "to_first": difference(truth, log_p, pooled(first)[1], pooled_groups(results)[0]),
        })  # fmt: skip
    return {"title": f"{_title(first)}; mel, patches of 1.8 s, no augmentation", "rows": rows}


def sizes_text(table):
    head = f"{'net':<12}{'parameters':>11}{'float bytes':>12}{'KB':>8}{'P3: KB':>8}{'MMAC':>7}{'accuracy':>10}"
    lines = [table["title"], f"{head}{'95 % interval':>18}{'log loss':>10}{'P3, TAU':>9}"]
    for row in table["rows"]:
        interval = "{:.1%} to {:.1%}".format(*row["interval"]["accuracy"])
        lines.append(
            f"{row['net']:<12}{row['parameters']:>11,}{row['float_bytes']:>12,}{row['float_bytes'] / 1024:>8.1f}"
            f"{row['printed_kb']:>8}{row['macs'] / 1e6:>7.1f}{row['accuracy']:>10.1%}{interval:>18}"
            f"{row['log_loss']:>10.3f}{row['printed_accuracy_tau']:>7.1f} %"
        )
    first = table["rows"][0]["net"]
    lines += [f"  {row['net']} less {first}: {difference_text(row['to_first'])}" for row in table["rows"][1:]]
    counted = "parameters as P3 counts them, see python -m compress.size; float bytes: four each; MMAC of one patch"
    return "\n".join([*lines, f"intervals: bootstrap over {table['rows'][0]['drawn']}", counted])


def sizes_plot(path, table):
    """PNG: accuracy with its interval over the float bytes, logarithmic."""
    figure, axes = _figure(7, 4.5)
    for row in table["rows"]:
        _point(axes, row["float_bytes"] / 1024, row, "tab:blue")
        axes.annotate(
            row["net"], (row["float_bytes"] / 1024, 100 * row["accuracy"]), (6, 6), textcoords="offset points"
        )
    axes.set_xscale("log")
    axes.set_xlabel("KB of float parameters")
    _finish(figure, axes, path, table["title"])


def lengths(by_net, looped, n_clips):
    """{Net: Results by fold}, {hop: clips shorter than a patch} -> the table of spectrograms, time lengths, augmentation."""
    rows = []
    for net, results in by_net.items():
        rows.append({
            "spectrogram": net.spectrogram,
            "hop_length": net.hop_length,
            "n_frames": net.patch.n_frames,
            "patch_s": net.patch.n_frames * net.hop_length / net.frontend.sr,
            "augmented": net.augmented,
            "looped_clips": looped[net.hop_length],
            **_scored(results),
        })  # fmt: skip
    return {"title": f"CR+DC, {_title(next(iter(by_net.values())))}", "clips": n_clips, "rows": rows}


def lengths_text(table):
    rows = table["rows"]
    hops = list(dict.fromkeys(row["hop_length"] for row in rows))
    lines = [table["title"]]
    for augmented in (False, True):
        some = {(row["spectrogram"], row["hop_length"]): row for row in rows if row["augmented"] == augmented}
        lines += ["", f"{'with' if augmented else 'without'} mixup and SpecAugment: accuracy, log loss"]
        spans = [next(row for row in rows if row["hop_length"] == hop) for hop in hops]
        lines.append(" " * 6 + "".join(f"{row['patch_s']:>16.2f} s" for row in spans))
        for name in dict.fromkeys(row["spectrogram"] for row in rows):
            cells = [some[name, hop] for hop in hops]
            lines.append(f"{name:<6}" + "".join(f"{row['accuracy']:>11.1%}{row['log_loss']:>7.3f}" for row in cells))
    notes = [f"{row['looped_clips']} of {row['patch_s']:.2f} s" for row in spans if row["looped_clips"]]
    looped = f"clips shorter than a patch, repeated: {', '.join(notes)}" if notes else "no clip is shorter than a patch"
    widest = max(row["interval"]["accuracy"][1] - row["interval"]["accuracy"][0] for row in rows)
    how = f"95 % intervals (bootstrap over {rows[0]['drawn']}) are at most {100 * widest:.1f} points wide"
    return "\n".join([*lines, "", f"{looped} (of {table['clips']})", how])


def lengths_plot(path, table):
    """PNG: accuracy over the length of a patch, a line per spectrogram; dashed without augmentation."""
    figure, axes = _figure(8, 5)
    names = list(dict.fromkeys(row["spectrogram"] for row in table["rows"]))
    for augmented in (True, False):
        for i, name in enumerate(names):
            some = [row for row in table["rows"] if (row["spectrogram"], row["augmented"]) == (name, augmented)]
            label = f"{name}{'' if augmented else ', no augmentation'}"
            points = [row["patch_s"] for row in some], [100 * row["accuracy"] for row in some]
            axes.plot(*points, "o-" if augmented else "o--", color=f"C{i}", label=label)
    axes.set_xlabel("seconds of a patch")
    axes.legend()
    _finish(figure, axes, path, table["title"])


def fusion(results):
    """Results of several spectrograms -> every combination fused, and PROD against the best single net."""
    tables, compared = fuse.tables(results), fuse.comparisons(results)
    return {
        "systems": [
            {"title": title, "rows": rows, "against": compared[title][0], "recordings_known": compared[title][1]}
            for title, rows in tables.items()
        ]
    }


def fusion_text(table):
    parts = [
        f"{fuse.text(one['title'], one['rows'])}\n{fuse.against_text(one['against'], one['recordings_known'])}"
        for one in table["systems"]
    ]
    weights = table["systems"][0]["rows"][-1].get("weights")
    fitted = [f"weights of all nets, fitted on all folds' held-out clips: {weights}"] if weights else []
    return "\n".join(["\n\n".join(parts), *fitted, "* best of its size"])


def fusion_plot(path, table):
    """PNG: bars of each fusion for each combination, of the first system."""
    rows = table["systems"][0]["rows"]
    kinds = [kind for kind in fuse.HEADS if kind in rows[0]]
    figure, axes = _figure(2 + 1.2 * len(rows), 5)
    for i, kind in enumerate(kinds):
        at = np.arange(len(rows)) + (i - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        axes.bar(at, [100 * row[kind]["accuracy"] for row in rows], 0.8 / len(kinds), label=fuse.HEADS[kind])
    axes.set_xticks(range(len(rows)), [" + ".join(row["members"]) for row in rows], rotation=20, ha="right")
    lowest = min(row[kind]["accuracy"] for row in rows for kind in kinds)
    axes.set_ylim(max(0, 100 * lowest - 10), 100)
    axes.legend(loc="upper left", ncols=len(kinds))
    _finish(figure, axes, path, table["systems"][0]["title"].split(":")[0])


def classes(results):
    """Results of several spectrograms, one system -> each net's accuracy class by class, and their PROD's."""
    members = {f"{spectrogram}": runs for (_, spectrogram), runs in by_member(results).items()}
    if len({result.system for result in results}) > 1:
        raise ValueError("class by class: name the nets of one system")
    runs = next(iter(members.values()))
    truth, log_p = pooled(runs)[0], {name: pooled(some)[1] for name, some in members.items()}
    if len(log_p) > 1:
        log_p["PROD"] = fuse.fused_by("prod", truth, np.stack(list(log_p.values())))
    rows = []
    for i, label in enumerate(results[0].labels):
        here = truth == i
        if here.any():
            scores = {name: accuracy_and_loss(truth[here], p[here]) for name, p in log_p.items()}
            rows.append({"label": label, "n": int(here.sum()), "nets": scores})
    overall = {name: accuracy_and_loss(truth, p) for name, p in log_p.items()}
    return {"title": f"{runs[0].system}, {_title(runs)}", "rows": rows, "all": overall}


def classes_text(table):
    names, width = list(table["all"]), max(len(row["label"]) for row in table["rows"]) + 2
    lines = [f"{table['title']}: accuracy, log loss", " " * width + "clips" + "".join(f"{name:>16}" for name in names)]
    total = {"label": "all", "n": sum(row["n"] for row in table["rows"]), "nets": table["all"]}
    for row in [*table["rows"], total]:
        cells = "".join(f"{s['accuracy']:>9.1%}{s['log_loss']:>7.3f}" for s in row["nets"].values())
        lines.append(f"{row['label']:<{width}}{row['n']:>5}{cells}")
    return "\n".join(lines)


def classes_plot(path, table):
    """PNG: accuracy, a row per class, a column per net."""
    names, labels = list(table["all"]), [row["label"] for row in table["rows"]]
    shares = np.array([[row["nets"][name]["accuracy"] for name in names] for row in table["rows"]])
    figure, axes = _figure(3 + 1.2 * len(names), 1.5 + 0.4 * len(labels))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.6 else "black")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    figure.savefig(path, dpi=120, format="png")


def _figure(width, height):
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _point(axes, x, row, color):
    accuracy, (low, high) = 100 * row["accuracy"], (100 * value for value in row["interval"]["accuracy"])
    axes.plot([x, x], [low, high], "_-", color=color, alpha=0.5)
    axes.plot(x, accuracy, "o", color=color)


def _finish(figure, axes, path, title):
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=120, format="png")


MADE = {"fusion": fusion, "classes": classes}  # from Results alone
TEXTS = {"sizes": sizes_text, "lengths": lengths_text, "fusion": fusion_text, "classes": classes_text}
PLOTS = {"sizes": sizes_plot, "lengths": lengths_plot, "fusion": fusion_plot, "classes": classes_plot}
