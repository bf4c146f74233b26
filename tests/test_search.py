"""The search: shapes within their limits, trials that are kept, validation on training clips alone."""

import csv
import dataclasses
import importlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compress import cnn7, pareto, proposals, shapes
from compress.shapes import HOP_LENGTH, Limits, Shape, costs, largest_fitting, widest_within
from devices.size import read_model
from runtime.bundle import Bundle
from runtime.frontend import PRESETS
from train.cnn7 import WIDTHS_DEPLOYED
from train.data import inner_split, load_dataset, split
from train.features import PatchShape
from train.loop import Diverged
from train.run import load_run

study = pytest.importorskip("compress.study")
finals, trials_of = (importlib.import_module(f"compress.{name}") for name in ("finals", "trials"))

DC = st.booleans() | st.tuples(*[st.booleans()] * 5)
WIDTHS = st.tuples(*[st.floats(4, 40)] * 6)
SHAPES = st.builds(Shape, WIDTHS, DC, st.sampled_from((64, 96, 128)), st.sampled_from((32, 64, 192)))


def test_the_shipped_shape_is_what_its_runs_are_known_by():
    """Nothing that a checkpoint or a bundle is recognised by may change with what a search can choose."""
    shape = largest_fitting(131_072, 10)
    assert shape.kwargs == {"widths": [16, 32, 64, 64, 112, 128], "decomposed": True, "order": "deploy", "dropout": 0.0}
    assert shape.patch == PatchShape(certainty=4.0) and str(shape) == "16/32/64/64/112/128 with DC"
    for name, preset in PRESETS.items():
        octaves = {"bins_per_octave": 7} if name == "cqt" else {"n_fft": 8192}
        assert shape.frontend(name) == dataclasses.replace(preset, hop_length=1120, n_bands=64, **octaves)


@given(SHAPES)
def test_shapes_survive_json_and_have_a_front_end(shape):
    assert Shape.from_json(json.loads(json.dumps(dataclasses.asdict(shape)))) == shape
    for name in PRESETS:  # which refuses bands above half the rate
        assert shape.frontend(name).n_bands == shape.n_bands


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    SHAPES, st.sampled_from([Limits(9000), Limits(20_000), Limits(30_000, 100_000), Limits(30_000, None, 2_000_000)])
)
def test_widest_within_is_the_widest(shape, limits):
    found = widest_within(limits, shape, 4)
    if found is None:
        assert not limits.hold(dataclasses.replace(shape, widths=(4,) * 6), 4)
        return
    assert limits.hold(found, 4)
    steps = [shapes._scaled(shape.widths, k / shapes.FINE_STEP) for k in range(1, 2000)]
    wider = steps[len(steps) - 1 - steps[::-1].index(found.widths) + 1]
    assert not limits.hold(dataclasses.replace(found, widths=wider), 4)


def test_each_limit_holds():
    shape = Shape(WIDTHS_DEPLOYED, True)
    cost = costs(shape, 10)
    exact = Limits(max(cost["tflite"], cost["onnx"]) + shapes.SLACK_BYTES, cost["ram_bytes"], cost["macs"])
    assert exact.hold(shape, 10)
    for name, value in dataclasses.asdict(exact).items():
        assert not dataclasses.replace(exact, **{name: value - 1}).hold(shape, 10)


def test_costs_are_those_of_the_files_that_are_written(small_runs, small_bundle):
    """Untrained, but with other numbers in it: RAM and MACs are the same, bytes within the slack."""
    kwargs = small_runs[0].model.kwargs
    cost = costs(Shape(tuple(kwargs["widths"]), kwargs["decomposed"], n_bands=128), 4)
    size = read_model(small_bundle / "mel.tflite")
    assert (cost["ram_bytes"], cost["macs"]) == (size.arena_bytes, size.macs)
    for fmt in ("tflite", "onnx"):
        assert abs((small_bundle / f"mel.{fmt}").stat().st_size - cost[fmt]) <= shapes.SLACK_BYTES


def test_budgets_from_32_kb_up_are_used():
    shapes = [largest_fitting(kb * 1024, 10) for kb in (32, 64, 128, 256, 512)]
    for kb, shape, smaller in zip((32, 64, 128, 256, 512), shapes, [None, *shapes]):
        filled = 3 * costs(shape, 10)["tflite"] / (kb * 1024)
        assert 0.85 < filled <= 1
        assert smaller is None or all(a > b for a, b in zip(shape.widths, smaller.widths))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_front_is_what_nobody_beats(points):
    def beaten(p):
        return any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)

    found = pareto.front(points)
    assert {points[i] for i in found} == {p for p in points if not beaten(p)}
    assert len(found) == len({points[i] for i in found})
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def task(sounds, cache, folder, **changed):
    """A search that ends after the first trial, of one epoch."""
    values = dict(
        name="mel", data=sounds, fold=2, limits=Limits(11_000), hours=1e-9, trial_epochs=1, final_epochs=1, seed=0,
        storage=str(folder / "journal.log"), folder=folder, cache=cache,
    )  # fmt: skip
    return study.Task(**values | changed)


def trials(task):
    clips, _ = split(load_dataset(task.data), task.fold)
    return study.open_study(task, [[clip.path.name, clip.label] for clip in clips])


def test_a_search_never_hears_the_test_fold(sounds, cache, tmp_path):
    """The held-out recordings cannot even be read. One trial, the shipped proportions; three trainings validate it."""
    data = tmp_path / "data"
    shutil.copytree(sounds, data)
    for clip in split(load_dataset(data), 2)[1]:
        clip.path.write_bytes(b"not a recording")
    said = []
    one = task(data, cache, tmp_path / "search")
    (finalist,) = study.search(one, said.append)
    assert finalist["shipped"] and finalist["trial"] == 0 and len(said) == 4
    clips, _ = split(load_dataset(data), 2)
    assert sum(part["n"] for part in finalist["parts"]) == len(clips) - len(inner_split(clips, 1, finals.N_PARTS)[1])
    assert finalist["costs"] == costs(Shape.from_json(finalist["shape"]), 2)
    assert max(finalist["costs"]["tflite"], finalist["costs"]["onnx"]) <= 11_000 - shapes.SLACK_BYTES
    (row,) = csv.DictReader((tmp_path / "search" / "trials-mel.csv").read_text().splitlines())
    assert row["state"] == "complete" and float(row["log_loss"]) > 0 and row["epochs"] == "1"


def test_a_search_goes_on(sounds, cache, tmp_path):
    """Finished trials are kept; one whose process died is proposed again; a helper elsewhere goes on in the same storage."""
    first = task(sounds, cache, tmp_path)
    study.search(first, lambda line: None)
    kept = trials_of.rows(trials(first))
    study.search(first, lambda line: None)  # its hours are over
    assert trials_of.rows(trials(first)) == kept and len(kept) == 1
    died = subprocess.Popen(["true"])
    died.wait()
    lost = trials(first)
    lost.sampler = study._sampler(0, 1)
    trial = lost.ask()
    trial.set_user_attr("worker", [socket.gethostname(), died.pid])
    shape = proposals.propose(trial, "mel", first.limits, 2)
    more = dataclasses.replace(
        first, hours=trials_of.spent_s(trials(first)) / 3600 + 1e-6, folder=tmp_path / "elsewhere"
    )
    finalists = study.search(more, lambda line: None)
    rows = trials_of.rows(trials(first))
    assert rows[0] == kept[0] and [row["state"] for row in rows] == ["complete", "fail", "complete"]
    assert Shape.from_json({key: rows[2][key] for key in dataclasses.asdict(shape)}) == shape
    assert {finalist["trial"] for finalist in finalists} == {0, 2}
    assert finalists == sorted(finalists, key=lambda finalist: finalist["log_loss"])
    other = trials(dataclasses.replace(first, limits=Limits(12_000)))
    assert other.study_name != trials(first).study_name and len(other.trials) == 1  # what it will try first


def test_the_same_net_is_not_trained_twice(sounds, cache, tmp_path):
    one = task(sounds, cache, tmp_path)
    study.search(one, lambda line: None)
    trials(one).enqueue_trial(proposals.shipped("mel"))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "MAX_IN_VAIN", 1)
        with pytest.raises(ValueError, match="trained nothing, the last: the same net as trial 0"):
            study.search(dataclasses.replace(one, hours=1), said.append)
    assert len(said) == 1


def test_a_training_that_fails_is_a_trial_that_failed(sounds, cache, tmp_path, monkeypatch):
    """It is not proposed for ever; a finalist that fails is left out."""

    def fails(*args):
        raise Diverged("the loss became nan")

    monkeypatch.setattr(study, "MAX_IN_VAIN", 2)
    with monkeypatch.context() as patch:
        patch.setattr(study, "validated", fails)
        one = task(sounds, cache, tmp_path / "trials", hours=1)
        with pytest.raises(ValueError, match="2 trials in a row trained nothing, the last: the loss became nan"):
            study.search(one, lambda line: None)
        assert [row["state"] for row in trials_of.rows(trials(one))] == ["fail", "fail"]
    monkeypatch.setattr(finals, "validated", fails)
    said = []
    with pytest.raises(ValueError, match="every finalist's loss became infinite"):
        study.search(task(sounds, cache, tmp_path / "finalists"), said.append)
    assert "part 2: left out, the loss became nan" in said[-1]


def test_what_this_very_process_left_unfinished_is_taken_up(sounds, cache, tmp_path):
    """In a container every call may have the same number."""
    one = task(sounds, cache, tmp_path)
    lost = trials(one).ask()
    lost.set_user_attr("worker", [socket.gethostname(), os.getpid()])
    (finalist,) = study.search(one, lambda line: None)
    assert finalist["shipped"] and [row["state"] for row in trials_of.rows(trials(one))] == ["fail", "complete"]


def test_originals_that_the_finalists_cannot_share_end_it_at_once(sounds, cache, tmp_path):
    data = tmp_path / "three"
    for label in ("hum", "pulses"):
        (data / label).mkdir(parents=True)
        for i in range(3):
            shutil.copy(sounds / "audio" / f"{label}{i}.wav", data / label)
    with pytest.raises(ValueError, match="do not make 4 parts"):
        study.search(task(data, cache, tmp_path / "s", fold=None), lambda line: None)
    assert not (tmp_path / "s").exists()


def test_limits_that_nothing_meets_end_the_search(sounds, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MAX_IN_VAIN", 3)
    with pytest.raises(
        ValueError, match="mel: 3 trials in a row trained nothing, the last: nothing of these proportions"
    ):
        study.search(task(sounds, cache, tmp_path, limits=Limits(11_000, ram_bytes=1000), hours=1), lambda line: None)


@pytest.mark.parametrize("storage", ["journal.log", "nowhere://x", "sqlite:////nowhere/at/all.db"])
def test_storages_that_cannot_be_used_say_so(sounds, cache, tmp_path, storage):
    where = storage if "://" in storage else str(tmp_path / storage)
    if "://" not in storage:
        (tmp_path / storage).write_text("no journal\n{}\n")
    with pytest.raises(ValueError, match=f"storage .*{storage[:7]}.* cannot be used"):
        study.search(task(sounds, cache, tmp_path, storage=where), lambda line: None)


def test_a_journal_that_a_full_disk_cut_off_says_where(sounds, cache, tmp_path):
    one = task(sounds, cache, tmp_path)
    trials(one)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    n = whole.count(b"\n")
    for torn in (whole[:-20], whole[:-20] + whole.splitlines()[0] + b"\n", whole + b"[1]\n", whole + b"\0\0"):
        journal.write_bytes(torn)
        with pytest.raises(ValueError, match=rf"journal\.log cannot be used: line ({n}|{n + 1}) is damaged, take it"):
            trials(one)
    journal.write_bytes(whole)
    assert len(trials(one).trials) == 1


def test_a_database_holds_a_study_too(sounds, cache, tmp_path):
    one = task(sounds, cache, tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    assert trials(one).study_name == trials(one).study_name and len(trials(one).trials) == 1


BAD = {
    ("--search", "0"): "give hours above 0",
    ("--search", "nan"): "give hours above 0",
    ("--search", "1", "--search-epochs", "0"): "choose 1 to 100000",
    ("--search", "1", "--macs", "0"): "at least 1",
    ("--ram", "256kb"): "is for a search",
    ("--storage", "x"): "is for a search",
    ("--search-epochs", "6"): "--search-epochs 6 is for a search",
}


@pytest.mark.parametrize("options", BAD)
def test_searches_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=BAD[options]):
        cnn7.arguments(["--budget", "128kb", *options])


@pytest.mark.parametrize("option, value", [("--noise-share", "20"), ("--noise-share", "nan"), ("--epochs", "0")])
def test_numbers_that_no_training_can_have_end_it_at_once(sounds, tmp_path, option, value):
    with pytest.raises(ValueError, match=rf"{option[2:].replace('-', '_')} {value}.*: choose 0|epochs 0: choose 1"):
        cnn7.main(["--budget", "128kb", "--data", str(sounds), "--out", str(tmp_path / "out"), option, value])
    assert not (tmp_path / "out").exists()


def test_without_optuna_there_is_no_search(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"--search needs optuna: pip install 'tinyear\[search\]'"):
        cnn7.arguments(["--budget", "128kb", "--search", "1"])
    assert cnn7.arguments(["--budget", "128kb"]).search is None


def test_identity_of_commands_names_what_they_ask_for(small_runs, tmp_path):
    keys = [
        "budget_bytes",
        "data",
        "out",
        "clips",
        "files",
        "teachers",
        "fold",
        "epochs",
        "qat_epochs",
        "seed",
        "quantization",
        "recipe",
    ]
    keys.append("certainty")
    absolute = cnn7.arguments(["--budget", "128kb", "--absolute-level"])
    assert list(cnn7.identity(absolute, [])) == keys
    keys.append("quietest_db")
    assert list(cnn7.identity(cnn7.arguments(["--budget", "128kb"]), [])) == keys
    searched = cnn7.arguments(["--budget", "128kb", "--search", "2", "--ram", "256kb"])
    assert list(cnn7.identity(searched, [])) == [*keys, "search", "search_epochs", "ram"]
    for name, run_ in zip(("mel", "gam", "cqt"), small_runs):
        run_.save(tmp_path / name)
    pruned = cnn7.arguments(["--budget", "128kb", "--prune-from", str(tmp_path)])
    before = cnn7.identity(pruned, [])
    assert list(before) == [*keys[:-1], "prune_from"]
    small_runs[1].save(tmp_path / "mel")  # the wide net changed
    assert cnn7.identity(pruned, [])["prune_from"] != before["prune_from"]
    taught = cnn7.arguments(["--budget", "128kb", "--taught-by", "1mb"])
    taught.teacher = []  # trained later
    assert list(cnn7.identity(taught, [])) == [*keys[:-1], "taught_by", "quietest_db"]


def test_from_search_to_bundle(sounds, cache, tmp_path, monkeypatch, capsys):
    """Three shapes, each of its own bands, patch and hop, in one bundle. One process: the pool has its own tests."""
    monkeypatch.setattr(cnn7, "side_by_side", lambda work, calls: (work(*call) for call in calls))
    heard = {"mel": (64, 32, 620), "gam": (96, 64, 1850), "cqt": (64, 64, HOP_LENGTH)}

    def shipped(name):
        dc = {f"dc_{i}": i != 3 for i in range(2, 7)}
        bands, frames, hop = heard[name]
        proportions = {f"width_{i}": 0.5 + i / 6 for i in range(1, 7)} | dc | {"filled": 1.0}
        return proportions | {"n_bands": bands, "n_frames": frames, "hop_length": hop}

    monkeypatch.setattr(study, "shipped", shipped)  # what is tried first, and here alone
    args = ["--budget", "32kb", "--data", str(sounds), "--search", "1e-9", "--search-epochs", "1", "--epochs", "1"]
    folders = ["--runs", str(tmp_path / "runs"), "--cache", str(cache), "--out", str(tmp_path / "b")]
    cnn7.main([*args, *folders])
    bundle = Bundle.load(tmp_path / "b")
    assert {m.name: (m.frontend.n_bands, m.patch.n_frames, m.frontend.hop_length) for m in bundle.members} == heard
    assert [m.patch.stride for m in bundle.members] == [8, 16, 16]
    assert sum(path.stat().st_size for path in (tmp_path / "b").glob("*.tflite")) <= 32 * 1024
    found = json.loads((tmp_path / "runs" / "search" / "search.json").read_text())
    for name, net in found.items():
        trained = load_run(tmp_path / "runs" / name).model.kwargs
        assert trained["widths"] == net["finalists"][0]["shape"]["widths"] and trained["decomposed"][1] is False
    with Image.open(tmp_path / "runs" / "search" / "pareto.png") as picture:
        assert picture.size[0] > 1000
    assert "finalists, trained to the end" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs" / "evaluation.json").read_text())["PROD"]["onnx"]["n"] == 8
    limits = Limits(32 * 1024 // 3)
    read = cnn7.read_shapes(tmp_path / "runs" / "search" / "search.json", limits, 2)
    assert {name: shape.frontend(name) for name, shape in read.items()} == {m.name: m.frontend for m in bundle.members}
    with pytest.raises(ValueError, match=r"mel, .* takes more than 9,000 bytes"):
        cnn7.read_shapes(tmp_path / "runs" / "search" / "search.json", Limits(9000), 2)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"mel": {"finalists": []}}', '{"mel": {"finalists": [{"shape": 1}]}}']
)
def test_shapes_that_no_search_wrote_are_refused(tmp_path, text):
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(ValueError, match=r"search\.json is (damaged|not what --search writes)"):
        cnn7.read_shapes(tmp_path / "search.json", Limits(40_000), 2)
