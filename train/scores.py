"""What a run reached: accuracy overall, per class and per device, the confusion matrix, and their pictures."""

import zipfile
from pathlib import Path

import numpy as np

from runtime.files import write_atomic

PREDICTIONS = "predictions.npz"


def accuracy_and_loss(truth, log_p):
    """(clips,) class indices, (clips, classes) log probabilities -> {"accuracy", "log_loss", "n"}."""
    hits, said = log_p.argmax(axis=1) == truth, log_p[np.arange(len(truth)), truth]
    return {"accuracy": float(hits.mean()), "log_loss": float(-said.mean()), "n": len(truth)}


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
    }

    def write(path):
        with open(path, "wb") as file:  # given a name, numpy would add a suffix
            np.savez(file, **arrays)

    write_atomic(Path(folder) / PREDICTIONS, write)


def load_predictions(folder):
    """-> names of the test clips, their true classes (n,), log probabilities (n, classes). Raises ValueError."""
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise ValueError(f"{folder} holds no {PREDICTIONS}: train it with --fold, the same command again writes it")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            clips, truth, log_p = file["clips"], file["truth"], file["log_p"].astype(np.float64)
        n, n_classes = log_p.shape
        sound = clips.shape == truth.shape == (n,) and truth.dtype.kind == "i" and np.isfinite(log_p).all()
        if not sound or not n or truth.min() < 0 or truth.max() >= n_classes:
            raise ValueError("its arrays do not belong together")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}): the run's training command, given again, rewrites it"
        ) from error
    return [str(clip) for clip in clips], truth, log_p


def text(scores):
    """The scores as lines for a terminal."""
    lines = [f"accuracy {scores['accuracy']:.1%} of {scores['n']} clips, log loss {scores['log_loss']:.3f}"]
    for title in ("per_class", "per_device"):
        row = [f"{name} {value:.0%}" for name, value in scores[title].items() if value is not None]
        if row:
            lines.append(f"  {title.replace('_', ' ')}: {', '.join(row)}")
    return "\n".join(lines)


def plot_confusion(path, scores, labels):
    """PNG: rows are the truth, columns what the net said."""
    figure, axes = _figure(1 + 0.5 * len(labels))
    confusion = np.array(scores["confusion"])
    axes.imshow(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(confusion)):
        axes.text(j, i, confusion[i, j], ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
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
