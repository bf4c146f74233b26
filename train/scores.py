"""What a run reached: accuracy overall, per class and per device, how sure that is, the confusion matrix, pictures."""

import zipfile
from pathlib import Path

import numpy as np

from runtime.files import write_atomic

PREDICTIONS = "predictions.npz"
N_RESAMPLES = 10_000
PIECE = 4 << 20  # counts of resampled groups held at once


def accuracy_and_loss(truth, log_p):
    """(clips,) class indices, (clips, classes) log probabilities -> {"accuracy", "log_loss", "n"}."""
    hits, losses = hits_and_losses(truth, log_p)
    return {"accuracy": float(hits.mean()), "log_loss": float(losses.mean()), "n": len(truth)}


def bootstrap(values, groups, level=0.95, n_resamples=N_RESAMPLES, seed=0):
    """-> (low, high), percentile bootstrap interval of the mean of `values`: Efron and Tibshirani, 1993, chapter 13.

    values: (clips,) hits for an accuracy; a difference of two predictions' hits, or of their log losses, clip by clip,
    for a paired comparison. groups: (clips,) which recording each clip was cut from: what is drawn anew are recordings
    with all their clips, as clips of one recording succeed and fail together. One group gives no interval: (nan, nan).
    """
    values = np.asarray(values, np.float64)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if values.ndim != 1 or values.shape != group.shape or not len(values):
        raise ValueError(f"{len(values)} values and {len(group)} groups: give one group for each value")
    n_of, sum_of = np.bincount(group), np.bincount(group, values)  # clips, their total: (groups,)
    if len(n_of) < 2:
        return float("nan"), float("nan")
    rng, means = np.random.default_rng(seed), []
    n_at_once = max(1, PIECE // len(n_of))
    for start in range(0, n_resamples, n_at_once):
        drawn = rng.multinomial(
            len(n_of), np.full(len(n_of), 1 / len(n_of)), size=min(n_at_once, n_resamples - start)
        )  # how often each group
        means.append(drawn @ sum_of / (drawn @ n_of))
    low, high = np.percentile(np.concatenate(means), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def intervals(truth, log_p, groups):
    """(clips,), (clips, classes), (clips,) -> {"accuracy", "log_loss"}: 95 % bootstrap intervals [low, high]."""
    hits, losses = hits_and_losses(truth, log_p)
    return {"accuracy": list(bootstrap(hits, groups)), "log_loss": list(bootstrap(losses, groups))}


def difference(truth, log_p, other_log_p, groups):
    """One net's predictions less another's over the same clips, paired: 95 % bootstrap intervals.

    -> {"accuracy", "accuracy_interval", "log_loss", "log_loss_interval"}; a positive accuracy and a negative log loss
    speak for the first.
    """
    (hits, losses), (other_hits, other_losses) = (hits_and_losses(truth, p) for p in (log_p, other_log_p))
    return means(hits - other_hits, losses - other_losses, groups)


def means(hits, losses, groups):
    """(clips,) hits and log losses, or their differences -> {"accuracy", "log_loss"}, and of both the "..._interval"."""
    return {
        "accuracy": float(hits.mean()),
        "accuracy_interval": list(bootstrap(hits, groups)),
        "log_loss": float(losses.mean()),
        "log_loss_interval": list(bootstrap(losses, groups)),
    }


def difference_text(row):
    """A row of `difference` as words."""
    (low, high), (least, most) = row["accuracy_interval"], row["log_loss_interval"]
    return (
        f"{100 * row['accuracy']:+.1f} points of accuracy [{100 * low:+.1f}, {100 * high:+.1f}], "
        f"{row['log_loss']:+.3f} of log loss [{least:+.3f}, {most:+.3f}]"
    )


def hits_and_losses(truth, log_p):
    """-> (clips,) 1.0 where the likeliest class is right, (clips,) -log probability of the right one."""
    hits = (log_p.argmax(axis=1) == truth).astype(np.float64)
    return hits, -np.asarray(log_p, np.float64)[np.arange(len(truth)), truth]


def score(log_p, clips, labels):
    """(clips, classes) log probabilities -> {"accuracy", "log_loss", "n", "per_class", "per_device", "confusion"}."""
    truth = np.array([labels.index(clip.label) for clip in clips])
    guess = log_p.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, guess), 1)
    devices = sorted({clip.device for clip in clips} - {""})
    return {
        **accuracy_and_loss(truth, log_p),
        "per_class": {label: _share(guess[truth == i] == i) for i, label in enumerate(labels)},
        "per_device": {d: _share((guess == truth)[[clip.device == d for clip in clips]]) for d in devices},
        "confusion": confusion.tolist(),  # rows: truth, columns: guess
    }


def _share(hits):
    return float(np.mean(hits)) if len(hits) else None


def save_predictions(folder, log_p, clips, labels):
    """(clips, classes) log probabilities of the test clips into `folder`, for train.fuse."""
    arrays = {
        "clips": np.array([clip.path.name for clip in clips]),
        "truth": np.array([labels.index(clip.label) for clip in clips]),
        "log_p": np.asarray(log_p, np.float32),
        "groups": np.array([clip.group for clip in clips]),
    }

    def write(path):
        with open(path, "wb") as file:  # given a name, numpy would add a suffix
            np.savez(file, **arrays)

    write_atomic(Path(folder) / PREDICTIONS, write)


def load_predictions(folder):
    """-> names of the test clips, their true classes (n,), log probabilities (n, classes). Raises ValueError."""
    clips, truth, log_p, _ = load_grouped_predictions(folder)
    return clips, truth, log_p


def load_grouped_predictions(folder):
    """As load_predictions, and the recording that each clip was cut from; None: the file is older than groups."""
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise ValueError(f"{folder} holds no {PREDICTIONS}: train it with --fold, the same command again writes it")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            clips, truth, log_p = file["clips"], file["truth"], file["log_p"].astype(np.float64)
            groups = file["groups"] if "groups" in file else None
        n, n_classes = log_p.shape
        sound = clips.shape == truth.shape == (n,) and (groups is None or groups.shape == (n,))
        sound = sound and truth.dtype.kind == "i" and np.isfinite(log_p).all()
        if not sound or not n or truth.min() < 0 or truth.max() >= n_classes:
            raise ValueError("its arrays do not belong together")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}): the run's training command, given again, rewrites it"
        ) from error
    return [str(clip) for clip in clips], truth, log_p, None if groups is None else [str(group) for group in groups]


def text(scores):
    """The scores as lines for a terminal."""
    lines = [f"accuracy {scores['accuracy']:.1%} of {scores['n']} clips, log loss {scores['log_loss']:.3f}"]
    for title in ("per_class", "per_device"):
        row = [f"{name} {value:.0%}" for name, value in scores[title].items() if value is not None]
        if row:
            lines.append(f"  {title.replace('_', ' ')}: {', '.join(row)}")
    return "\n".join(lines)


def plain(name):
    """-> a name as matplotlib shows it as it is: two dollars would make it mathematics."""
    return name.replace("$", r"\$")


def plot_confusion(path, scores, labels):
    """PNG: rows are the truth, columns what the net said."""
    figure, axes = _figure(1 + 0.5 * len(labels))
    confusion = np.array(scores["confusion"])
    axes.imshow(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(confusion)):
        axes.text(j, i, confusion[i, j], ha="center", va="center", fontsize=8)
    names = [plain(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{scores['accuracy']:.1%} of {scores['n']} clips")
    figure.savefig(path, dpi=120, format="png")


def plot_curves(path, history):
    """PNG: loss, and test accuracy where it was measured, over the epochs."""
    figure, axes = _figure(4)
    axes.plot([row["epoch"] for row in history], [row["loss"] for row in history], color="tab:blue")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="tab:blue")
    measured = [row for row in history if "accuracy" in row]
    if measured:
        right = axes.twinx()
        right.plot(
            [row["epoch"] for row in measured], [100 * row["accuracy"] for row in measured], "o-", color="tab:red"
        )
        right.set_ylabel("test accuracy, %", color="tab:red")
        right.set_ylim(0, 100)
    figure.savefig(path, dpi=120, format="png")


def _figure(height):
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    figure = Figure(figsize=(max(6, height + 1), height), layout="constrained")
    return figure, figure.add_subplot()
