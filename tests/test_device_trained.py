"""Accuracy against bytes: the scores that trainings leave on disk, pooled, shown, and damaged."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from devices import report, trained
from tests.test_device_costs import _Balanced
from tests.test_devices import tiny_tflite

assert tiny_tflite  # a fixture, used by name


def _trainings(folder, accuracies):
    """Two nets and a fused row, held-out folds of 8 and 24 clips, a bundle beside each: as compress.folds leaves them."""
    for fold, n in enumerate((8, 24), 1):
        group, table = folder / f"fold{fold}", {}
        for k, net in enumerate(("mel", "gam")):
            (group / net).mkdir(parents=True)
            weights = {"net.fc.weight": np.ones((10 + k, 4), np.float32), "net.bn.running_mean": np.ones(9, np.float32)}
            save_file(weights, group / net / "model.safetensors")
            meta = {"scores": {"last": {"accuracy": accuracies[net], "n": n}}, "data": {"fold": fold}, "recipe": {}}
            (group / net / "meta.json").write_text(json.dumps(meta))
        for net, accuracy in accuracies.items():
            table[net] = {kind: {"accuracy": accuracy, "n": n} for kind in ("float", "tflite")}
        (group / "evaluation.json").write_text(json.dumps(table))
        members = [{"name": net, "files": {"tflite": {"bytes": 1000 + fold}}} for net in ("mel", "gam")]
        runs = {net: {"data": {"fold": fold}, "recipe": {}} for net in ("mel", "gam")}
        (group / "bundle").mkdir()
        (group / "bundle" / "bundle.json").write_text(json.dumps({"members": members, "provenance": {"runs": runs}}))


def test_scores_of_trainings_are_pooled_over_folds(tmp_path):
    runs = tmp_path / "recipe"
    _trainings(runs, {"mel": 0.75, "gam": 0.5, "PROD": 1.0})
    table = json.loads((runs / "fold1" / "evaluation.json").read_text())
    table["PROD"]["tflite"]["accuracy"] = 0.5
    (runs / "fold1" / "evaluation.json").write_text(json.dumps(table))
    found = {(one.net, one.numbers): one for one in trained.scores(runs)}
    assert len(found) == 6 and {one.recipe for one in found.values()} == {"recipe"}
    assert {one.n for one in found.values()} == {32}
    assert found["PROD", "tflite"].accuracy == (4 + 24) / 32 and found["PROD", "float"].accuracy == 1
    assert [found[net, "float"].bytes for net in ("mel", "gam", "PROD")] == [160, 176, 336]  # statistics do not count
    assert [found[net, "tflite"].bytes for net in ("mel", "gam", "PROD")] == [1002, 1002, 2004]
    (one,) = trained.scores(runs / "fold2" / "mel")
    assert (one.numbers, one.bytes, one.accuracy, one.n) == ("float", 160, 0.75, 24)


def test_a_bundle_made_elsewhere_counts_if_it_is_of_these_trainings(tmp_path):
    _trainings(tmp_path / "runs", {"mel": 0.75, "gam": 0.5, "PROD": 1.0})
    for fold in (1, 2):
        (tmp_path / "runs" / f"fold{fold}" / "bundle").rename(tmp_path / f"bundle{fold}")
    assert {one.numbers for one in trained.scores(tmp_path / "runs" / "fold1")} == {"float"}
    for bundle, kinds in ((1, {"float", "tflite"}), (2, {"float"})):
        found = trained.scores(tmp_path / "runs" / "fold1", tmp_path / f"bundle{bundle}")
        assert {one.numbers for one in found} == kinds


def test_accuracy_against_bytes_is_shown_everywhere(tiny_tflite, tmp_path, capsys):
    _trainings(tmp_path / "<b>runs", {"mel": 0.75, "gam": 0.5, "PROD": 1.0})
    out = tmp_path / "page.html"
    arguments = [str(tiny_tflite), "--runs", "0", "--trained", str(tmp_path / "<b>runs"), "--html", str(out)]
    assert report.main(arguments) == 0
    assert re.search(r"PROD +tflite file +2004 +100.0 % +89.3 to 100.0 % +32", capsys.readouterr().out)  # 1/(1+z²/n)
    text, parser = out.read_text(), _Balanced()
    parser.feed(text)
    assert parser.open == [] and "Accuracy against bytes" in text and "<b>runs" not in text
    assert report.main([*arguments, "--markdown"]) == 0 and "| 2004 | 100.0 % |" in capsys.readouterr().out
    assert report.main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trained"]) == 6


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("evaluation.json", '{"mel": {"float": {"accuracy": NaN, "n": 8}}}', "the accuracy of mel is 'nan'"),
        ("evaluation.json", '{"mel": {"float": {"accuracy": 1, "n": -8}}}', "scored on '-8' clips"),
        ("evaluation.json", '{"mel": {"float": 3}}', "the accuracy of mel"),
        ("evaluation.json", '{"mel": [1]}', "mel is no object"),
        ("evaluation.json", "[" * 100_000, "damaged"),
        ("mel/meta.json", "nonsense", "damaged"),
        ("mel/model.safetensors", "short", "damaged"),
        ("mel/model.safetensors", "\x01" * 64, "damaged"),
        ("mel/model.safetensors", "\x02\0\0\0\0\0\0\0[]", "damaged"),
        ("bundle/bundle.json", "{}", "damaged"),
        ("bundle/bundle.json", '{"members": [{"name": "mel", "files": {"tflite": {}}}]}', "damaged"),
    ],
)
def test_damaged_trainings_are_named(name, text, sentence, tiny_tflite, tmp_path, capsys):
    _trainings(tmp_path / "runs", {"mel": 0.75, "gam": 0.5, "PROD": 1.0})
    broken = tmp_path / "runs" / "fold2" / name
    if name == "mel/meta.json":
        (broken.parents[1] / "evaluation.json").unlink()
    broken.write_text(text)
    assert report.main([str(tiny_tflite), "--runs", "0", "--trained", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert str(broken) in said and sentence in said and said.count("\n") == 1
    for folder in (tmp_path / "none", tmp_path / "runs" / "fold2" / "bundle"):
        assert report.main([str(tiny_tflite), "--runs", "0", "--trained", str(folder)]) == 2
        assert str(folder) in capsys.readouterr().err
