"""What an Optuna study of compress.study holds of its trials, and the log of them."""

import csv

import optuna

from compress.shapes import Shape
from runtime.files import write_atomic

COLUMNS = ("trial", "state", "log_loss", "accuracy", "epochs", "seconds", "tflite", "onnx", "ram_bytes", "macs",
           "widths", "decomposed", "n_bands", "n_frames", "hop_length", "win_length", "quietest_db", "why")  # fmt: skip
DONE, PRUNED, FAILED, RUNNING = (optuna.trial.TrialState[name] for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING"))


def spent_s(study):
    """Seconds that the study's trials took, those of all processes together."""
    ended = study.get_trials(deepcopy=False, states=(DONE, PRUNED))
    return sum((trial.datetime_complete - trial.datetime_start).total_seconds() for trial in ended)


def shape_of(trial):
    values = trial.user_attrs.get("shape")
    return Shape.from_json(values) if values else None


def rows(study):
    """Every trial as a dict of COLUMNS."""
    return [_row(trial) for trial in study.get_trials(deepcopy=False)]


def _row(trial):
    ended = trial.datetime_start and trial.datetime_complete
    steps = trial.intermediate_values
    values = {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "log_loss": trial.value if trial.state == DONE else steps[max(steps)] if steps else None,
        "accuracy": trial.user_attrs.get("accuracy"),
        "epochs": max(steps, default=0),
        "seconds": round((trial.datetime_complete - trial.datetime_start).total_seconds(), 1) if ended else None,
        "why": trial.user_attrs.get("why"),
    }
    values |= trial.user_attrs.get("costs", {}) | trial.user_attrs.get("shape", {})
    return {column: values.get(column) for column in COLUMNS}


def write_log(study, task):
    """trials-mel.csv: every trial so far, those of other machines too."""

    def write(path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows(study):
                writer.writerow(
                    {k: "/".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()}
                )

    task.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(task.folder / f"trials-{task.name}.csv", write)
