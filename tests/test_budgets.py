"""Accuracy against the budget: what the table takes from the folds' files, and the picture."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from compress import budgets, folds
from devices.trained import wilson


@pytest.fixture
def finished(tmp_path):
    """Two folds as compress.folds leaves them, of 320 clips -> (folder, fold numbers)."""
    for fold, n_bytes in ((1, 10_000), (2, 10_050)):
        runs = tmp_path / "32kb" / f"fold{fold}"
        (runs / "bundle").mkdir(parents=True)
        (runs / "mel").mkdir()
        files = {"tflite": {"bytes": n_bytes}, "onnx": {"bytes": n_bytes - 3000}}
        (runs / "bundle" / "bundle.json").write_text(json.dumps({"members": [{"files": files}] * 3}))
        (runs / "mel" / "meta.json").write_text(json.dumps({"kwargs": {"widths": [4, 8, 16, 16, 28, 32]}}))
    scores = {net: {column: {"accuracy": accuracy, "log_loss": 0.5, "n": 320} for column in ("float", "tflite", "onnx")}
              for net, accuracy in (("mel", 0.7), ("gam", 0.65), ("cqt", 0.6), ("PROD", 0.75))}  # fmt: skip
    (tmp_path / "32kb" / "folds.json").write_text(json.dumps(scores))
    return tmp_path


def row(finished, *more):
    args = budgets._arguments(["--budgets", "32kb", "--runs", str(finished), "--epochs", "3", *more])
    return budgets._row(32 * 1024, folds.arguments(budgets._call(args, 32 * 1024)), (1, 2))


def test_a_row_is_what_the_folds_have_left(finished):
    """Bytes: the three files of one format in the fold where they are largest."""
    found = row(finished)
    assert found["bytes"] == {"tflite": 30_150, "onnx": 21_150} and found["epochs"] == 3
    assert tuple(found["interval_95"]) == wilson(0.75, 320)
    line = budgets.text([found]).splitlines()[-1]
    for cell in ("32kb", "30,150", "4/8/16/16/28/32", "70.0%", "75.0%", "70.0% to 79.4%"):
        assert cell in line


def test_a_table_says_that_its_nets_were_taught(finished):
    call = budgets._call(budgets._arguments(["--budgets", "32kb", "--teachers", "runs/full"]), 32 * 1024)
    assert folds.arguments(call).teachers == Path("runs/full")
    heads = [
        budgets.text([row(finished, *more)]).splitlines()[0]
        for more in ((), ("--teachers", "runs/full"), ("--taught-by", "1mb"))
    ]
    assert [head.split(", ")[3] for head in heads] == ["int8 unless said", "taught", "taught"]


def test_the_picture_is_one(finished):
    rows = [row(finished), row(finished) | {"bytes": {"tflite": 60_000, "onnx": 50_000}}]
    with Image.open(io.BytesIO(budgets.png(rows))) as picture:
        assert picture.size[0] > 600 and len(set(picture.convert("L").tobytes())) > 10


def test_budgets_are_sorted_and_told_once():
    args = budgets._arguments(["--budgets", "128kb", "32kb", "131072"])
    assert args.budgets == [32 * 1024, 128 * 1024]
    with pytest.raises(ValueError, match="'much' is not a size"):
        budgets._arguments(["--budgets", "much"])
