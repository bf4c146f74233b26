"""The right-hand folders as a user meets them: export and compress as typed, and which folder may import which."""

import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from export import parity
from export.assemble import assemble
from runtime.bundle import Bundle
from runtime.frontend import spectrogram
from runtime.patches import deltas, patches
from tests.conftest import SR, noise, run
from train.data import Clip, load_dataset, split
from train.run import load_run

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "devices", "train", "export", "compress")


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_imports_only_what_stands_to_its_left(folder):
    allowed = FOLDERS[: FOLDERS.index(folder) + 1]
    for path in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            ours = {name.split(".")[0] for name in names if name} & set(FOLDERS)
            assert ours <= set(allowed), f"{path} imports {ours - set(allowed)}"


@pytest.fixture(scope="module")
def runs_on_disk(small_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for run_ in small_runs:
        run_.save(folder / run_.frontend.kind)
    return [folder / run_.frontend.kind for run_ in small_runs]


@pytest.fixture(scope="module")
def four_classes(small_runs, tmp_path_factory):
    """Recordings of the classes of small_runs, a folder each."""
    root = tmp_path_factory.mktemp("four")
    for i, label in enumerate(small_runs[0].labels):
        (root / label).mkdir()
        for k in range(2):
            soundfile.write(root / label / f"{k}.wav", noise(2, seed=10 * i + k), SR)
    return root


@pytest.mark.parametrize("numbers", ["--int8", "--float"])
def test_export_as_typed(runs_on_disk, four_classes, cache, tmp_path, numbers):
    out = tmp_path / "bundle"
    result = run("export", *runs_on_disk, "--to", out, numbers, "--data", four_classes, "--cache", cache)
    assert result.returncode == 0, result.stderr
    wave = noise(5)
    p = {fmt: Bundle.load(out, fmt).predict(wave, SR) for fmt in ("tflite", "onnx")}
    bound = 1e-4 if numbers == "--float" else 0.02
    assert np.abs(p["tflite"] - p["onnx"]).max() <= bound
    check = run("runtime.bundle", out, "--check")
    assert check.returncode == 0 and check.stdout.count("golden window within") == 2
    report = run("devices.report", out, "--json", "--runs", 1)
    assert report.returncode == 0 and json.loads(report.stdout)["formats"]["tflite"]["file_bytes"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]  # nothing half-written beside it


def calibration(runs):
    wave = noise(6)
    return [r.normalise(patches(deltas(spectrogram(wave, r.frontend)), r.patch.n_frames, 32)) for r in runs], wave


def test_no_bundle_where_a_format_disagrees(small_runs, tmp_path, monkeypatch):
    """A writer that gets one bias wrong: the gate closes, an older bundle stays as it was."""
    patches_of, wave = calibration(small_runs)
    folder = tmp_path / "bundle"
    assemble(small_runs, folder, patches_of, wave)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    right = parity.run_tflite
    monkeypatch.setattr(parity, "run_tflite", lambda *args, **kwargs: right(*args, **kwargs) + 0.5)
    with pytest.raises(ValueError, match="differ from the reference"):
        assemble(small_runs, folder, patches_of, wave)
    with pytest.raises(ValueError, match="differ from the reference"):
        assemble(small_runs, tmp_path / "new", patches_of, wave, quantized=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_no_bundle_over_a_folder_that_is_none(small_runs, tmp_path):
    patches_of, wave = calibration(small_runs)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no bundle"):
        assemble(small_runs, tmp_path, patches_of, wave)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_runs_that_do_not_belong_together_are_refused(runs_on_disk, four_classes, sounds, cache, tmp_path):
    mel, to, kept = runs_on_disk[0], tmp_path / "b", ["--cache", cache]
    result = run("export", mel, mel, "--to", to, "--data", four_classes, *kept)
    assert result.returncode == 1 and "same spectrogram" in result.stderr
    result = run("export", mel, "--to", to, "--data", sounds, *kept)
    assert result.returncode == 1 and "other classes (hum, pulses)" in result.stderr
    result = run("export", tmp_path, "--to", to, "--data", sounds, *kept)
    assert result.returncode == 1 and "not a finished training run" in result.stderr
    assert not (tmp_path / "b").exists()


def test_compress_from_recordings_to_bundle(sounds, cache, tmp_path):
    """One epoch, a small budget: the shape, the files, the table of scores and the bundle."""
    args = ["--data", sounds, "--epochs", 1, "--runs", tmp_path / "runs", "--cache", cache, "--out", tmp_path / "b"]
    result = run("compress.cnn7", "--budget", "48kb", *args)
    assert result.returncode == 0, result.stderr
    for fmt in ("tflite", "onnx"):
        assert sum(path.stat().st_size for path in (tmp_path / "b").glob(f"*.{fmt}")) <= 48 * 1024
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.labels == ("hum", "pulses") and len(bundle.members) == 3
    table = json.loads((tmp_path / "runs" / "evaluation.json").read_text())
    assert set(table) == {"mel", "gam", "cqt", "PROD"} and table["PROD"]["tflite"]["n"] == 8
    assert "next: python -m runtime.stream" in result.stdout
    (tmp_path / "b" / "MODEL_CARD.md").write_text("mine")
    again = run("compress.cnn7", "--budget", "48kb", *args)
    assert again.returncode == 0 and "is done; delete" in again.stdout and "resumed" not in again.stdout
    assert (tmp_path / "b" / "MODEL_CARD.md").read_text() == "mine"
    everything = run("compress.cnn7", "--budget", "48kb", "--fold", 0, *args)
    assert everything.returncode == 0, everything.stderr
    left = {path.name for path in (tmp_path / "runs").rglob("*")}
    assert not left & {
        "evaluation.json",
        "predictions.npz",
        "confusion.png",
        "best.safetensors",
    }  # of what held a fold out
    assert {"finished.json", "model.safetensors"} <= left


def test_nets_of_another_command_in_the_same_folder_make_no_bundle(sounds, cache, tmp_path, monkeypatch):
    """Two commands at once, of one --runs: whoever exports must not take the other's nets, which heard its test clips."""
    from compress import cnn7

    monkeypatch.setattr(cnn7, "side_by_side", lambda work, calls: (work(*call) for call in calls))
    trained = cnn7.train_members

    def both(shapes, args, dataset):
        trained(shapes, args, dataset)
        args.fold = 2
        trained(shapes, args, dataset)
        args.fold = 1

    monkeypatch.setattr(cnn7, "train_members", both)
    args = ["--budget", "48kb", "--data", str(sounds), "--epochs", "1", "--noise-share", "0", "--fold", "1"]
    with pytest.raises(ValueError, match="mel was trained by another command meanwhile: give each its own --runs"):
        cnn7.main([*args, "--runs", str(tmp_path / "r"), "--cache", str(cache), "--out", str(tmp_path / "b")])
    assert not (tmp_path / "b").exists()


def test_every_fold_held_out_once(sounds, cache, tmp_path):
    """Accuracy is that of all clips together."""
    args = ["--budget", "48kb", "--data", sounds, "--epochs", 1, "--runs", tmp_path, "--cache", cache]
    result = run("compress.folds", *args)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "folds.json").read_text())
    halves = [json.loads((tmp_path / f"fold{k}" / "evaluation.json").read_text()) for k in (1, 2)]
    hits = [np.trace(half["PROD"]["onnx"]["confusion"]) for half in halves]
    assert rows["PROD"]["onnx"]["n"] == 16 and rows["PROD"]["onnx"]["accuracy"] == sum(hits) / 16
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold*/*/*")}
    again = run("compress.folds", *args)
    assert again.returncode == 0 and again.stdout.count("is done") == 2 and "trained in" not in again.stdout
    assert again.stdout.splitlines()[2:] == result.stdout.splitlines()[-len(again.stdout.splitlines()) + 2 :]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold*/*/*")} == files
    compared = run("compress.compare", f"a={tmp_path}", f"b={tmp_path}:bundle", "--data", sounds, "--cache", cache,
                   "--out", tmp_path / "compared", "--engine", "onnx")  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    table = json.loads((tmp_path / "compared.json").read_text())
    for row in table["rows"]:
        for form, column in (("float", "float"), ("int8", "onnx")):
            for net, scored in rows.items():
                assert row[form][net]["accuracy"] == pytest.approx(scored[column]["accuracy"])
                assert row[form][net]["log_loss"] == pytest.approx(scored[column]["log_loss"], abs=1e-5)
    assert table["rows"][1]["less_row_before"]["log_loss_interval"] == [0, 0] and table["n"] == 16
    heard = run("compress.compare", f"a={tmp_path}:nothing", "--data", sounds, "--cache", cache)
    assert heard.returncode == 1 and "nothing" in heard.stderr


def test_a_fold_of_another_command_is_not_taken_for_done(tmp_path):
    from compress import cnn7, folds

    args = folds.arguments(["--budget", "48kb", "--data", str(tmp_path), "--runs", str(tmp_path), "--qat-epochs", "2",
                            "--noise-share", "0.1"])  # fmt: skip
    (command,) = map(cnn7.arguments, folds._calls(args, [1]))
    clips = [Clip(tmp_path / f"{label}.wav", label, fold, label) for fold, label in enumerate("ab", 1)]
    for path in (tmp_path / f"{name}.wav" for name in "abc"):
        path.write_bytes(b"a recording")
    assert (command.qat_epochs, command.out.name) == (2, "bundle-qat")
    assert not command.no_augmentation and not command.teacher
    assert cnn7.identity(command, clips)["recipe"]["noise_share"] == 0.1
    vars(args).update(no_augmentation=True, noise_share=None, absolute_level=True, teachers=tmp_path / "wide")
    for name in ("mel", "gam", "cqt"):
        (tmp_path / "wide" / "fold3" / name).mkdir(parents=True)
        (tmp_path / "wide" / "fold3" / name / "model.safetensors").write_bytes(b"")
    (other,) = map(cnn7.arguments, folds._calls(args, [3]))
    assert other.no_augmentation and other.teacher == [tmp_path / "wide" / "fold3" / n for n in ("mel", "gam", "cqt")]
    assert cnn7.identity(other, clips)["recipe"]["mixup_alpha"] == 0
    heard = cnn7.shapes_for(command, ["a", "b"])
    relative = {name: shape.quietest_db for name, shape in heard.items()}
    assert relative == cnn7.identity(command, clips)["quietest_db"] == {"mel": -42, "gam": -63, "cqt": -50}
    assert {shape.quietest_db for shape in cnn7.shapes_for(other, ["a", "b"]).values()} == {None}
    assert "quietest_db" not in cnn7.identity(other, clips)
    command.out.mkdir(parents=True)
    (command.out / "bundle.json").write_text("{}")
    assert not cnn7.is_finished(command, clips)
    scored = {net: {column: {"confusion": [[1]]} for column in cnn7.COLUMNS} for net in ("mel", "gam", "cqt", "PROD")}
    cnn7.evaluation_path(command).write_text(json.dumps(scored))
    assert not cnn7.is_finished(command, clips)
    cnn7.finished_path(command).write_text(json.dumps(cnn7.identity(command, clips)))
    assert cnn7.is_finished(command, clips)
    for damage in ("{}", "[]", json.dumps(scored)[:-20], json.dumps(scored | {"gam": {}})):
        cnn7.evaluation_path(command).write_text(damage)
        assert not cnn7.is_finished(command, clips), damage
    cnn7.evaluation_path(command).write_text(json.dumps(scored))
    for change in ({"seed": 1}, {"epochs": 7}, {"qat_epochs": 3}, {"budget": "64kb"}, {"data": tmp_path / "other"}):
        before = {name: getattr(command, name) for name in change}
        vars(command).update(change)
        assert not cnn7.is_finished(command, clips), change
        vars(command).update(before)
    moved = dataclasses.replace(clips[1], fold=1)
    for others in (clips[:1], [clips[0], moved], [*clips, dataclasses.replace(moved, path=tmp_path / "c.wav")]):
        assert not cnn7.is_finished(command, others)
    assert cnn7.is_finished(command, clips[::-1])
    clips[0].path.write_bytes(b"another")  # under the same name
    assert not cnn7.is_finished(command, clips)
    cnn7.finished_path(command).write_text(json.dumps(cnn7.identity(command, clips)))
    assert cnn7.is_finished(command, clips)
    for damage in ("", "[]", '{"seed": 0}'):
        cnn7.finished_path(command).write_text(damage)
        assert not cnn7.is_finished(command, clips)


def test_copies_are_scored_by_their_names(tmp_path):
    """A folder per class is dealt into folds by content: copies in another coding would be dealt otherwise."""
    from compress import folds

    for i in range(10):
        for k, label in enumerate(("hum", "pulses")):
            for coding in ("wav", "flac"):
                (tmp_path / coding / label).mkdir(parents=True, exist_ok=True)
                soundfile.write(tmp_path / coding / label / f"{i}.{coding}", noise(0.1, seed=10 * k + i), SR)
    dataset, copies = load_dataset(tmp_path / "wav"), load_dataset(tmp_path / "flac")
    for fold in dataset.folds:
        found = folds._copies_of(dataset, fold, copies)
        tested = [(clip.label, clip.path.stem) for clip in split(dataset, fold)[1]]
        assert [(clip.label, clip.path.stem) for clip in found] == tested and len(tested) == 4
        assert {clip.path.suffix for clip in found} == {".flac"}
    (tmp_path / "flac" / "hum").rename(tmp_path / "flac" / "rain")
    args = ["--budget", "48kb", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "wav")]
    with pytest.raises(ValueError, match="--score-on flac has other classes than wav"):
        folds.main([*args, "--score-on", str(tmp_path / "flac")])
    (tmp_path / "flac" / "rain").rename(tmp_path / "flac" / "hum")
    for path in (tmp_path / "flac").glob("*/*.flac"):
        path.rename(path.with_stem(f"copy-{path.stem}"))
    with pytest.raises(ValueError, match="holds no copy, by its name, of what fold 1 of wav tests"):
        folds.main([*args, "--score-on", str(tmp_path / "flac")])
    assert not (tmp_path / "runs").exists()


def test_folds_that_cannot_all_be_trained_are_refused_before_the_first(sounds, tmp_path):
    """Four recordings of a class leave a fold of five empty; a teacher is missing in the second fold."""
    from compress import folds

    for name in ("hum", "pulses"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(4):
            soundfile.write(tmp_path / "few" / name / f"{i}.wav", noise(1, seed=i), SR)
    args = ["--budget", "48kb", "--runs", str(tmp_path / "runs")]
    with pytest.raises(ValueError, match="fold 5 tests nothing: record at least five sounds of each class"):
        folds.main([*args, "--data", str(tmp_path / "few")])
    with pytest.raises(ValueError, match="is not a finished training run"):
        folds.main([*args, "--data", str(sounds), "--teachers", str(tmp_path / "nobody")])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "budget, sentence",
    [("1kb", "the smallest three nets take"), ("lots", "'lots' is not a size"), ("0", "'0' is 0 bytes")],
)
def test_budgets_that_nothing_fits(sounds, cache, tmp_path, budget, sentence):
    args = ["--data", sounds, "--runs", tmp_path / "runs", "--cache", cache, "--out", tmp_path / "b"]
    result = run("compress.cnn7", "--budget", budget, *args)
    assert result.returncode == 1 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists() and not (tmp_path / "b").exists()


def test_the_smallest_budget_named_is_enough():
    from compress.shapes import largest_fitting

    with pytest.raises(ValueError) as caught:
        largest_fitting(1024, 10)
    least = int(str(caught.value).split()[-1].replace(",", ""))
    assert largest_fitting(least, 10)
    with pytest.raises(ValueError):
        largest_fitting(least - 1, 10)


def test_teachers_must_fit_the_data(runs_on_disk, sounds, cache, tmp_path):
    args = ["--data", sounds, "--runs", tmp_path / "runs", "--cache", cache, "--out", tmp_path / "b"]
    result = run("compress.cnn7", "--budget", "128kb", "--teacher", runs_on_disk[0], *args)
    assert result.returncode == 1 and "knows other classes" in result.stderr


def test_taught_by_larger_nets_of_its_own(sounds, cache, tmp_path):
    """One command trains the teachers, too; the same nets named as --teacher are the same command."""
    from compress import cnn7

    args = ["--budget", "24kb", "--data", sounds, "--epochs", 1, "--cache", cache, "--noise-share", 0]
    args = [*map(str, args), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "b")]
    result = run("compress.cnn7", *args, "--fold", 1, "--taught-by", "48kb")
    assert result.returncode == 0, result.stderr
    said = Bundle.load(tmp_path / "b").provenance["runs"]["gam"]["teachers"]
    assert [teacher["frontend"] for teacher in said] == ["mel", "gammatone", "cqt"]
    assert [teacher["data"]["fold"] for teacher in said] == [1, 1, 1]
    own = sum(p.numel() for p in load_run(tmp_path / "runs" / "gam").model.parameters())
    assert all(teacher["parameters"] > own for teacher in said)
    named = [f"--teacher={tmp_path / 'runs' / 'teachers' / name}" for name in ("mel", "gam", "cqt")]
    clips = load_dataset(sounds).clips
    assert cnn7.is_finished(cnn7.arguments([*args, "--fold", "1", "--taught-by", "48kb"]), clips)
    assert not cnn7.is_finished(cnn7.arguments([*args, "--fold", "1", "--taught-by", "72kb"]), clips)
    for more, sentence in (
        (["--fold", "1", "--taught-by", "48kb", *named], "takes no --teacher"),
        (["--fold", "1", "--taught-by", "16kb"], "is no more than --budget 24kb"),
        (["--fold", "2", *named], "held out fold 1 of .* as it was then, not fold 2 of .*: train it anew"),
        (["--fold", "1", "--teacher", str(tmp_path / "runs" / "mel")], "would be overwritten"),
        (["--fold", "1", "--no-augmentation", "--noise-share", "0.1"], "--no-augmentation takes no --noise-share"),
        (["--fold", "1", "--qat-epochs", "-3"], "epochs -3: choose 1"),
        (["--fold", "1", "--out", str(tmp_path / "b" / "mel.onnx" / "c")], r"mel\.onnx is no folder"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cnn7.main([*args, *more])


def test_float_export_of_the_paper_s_order(sounds, cache, tmp_path):
    """The full-size net as published: exported in float, and the int8 path says why it cannot."""
    torch.manual_seed(0)
    command = ["train", "cnn7", "--frontend", "cqt", "--data", sounds, "--cache", cache, "--epochs", 1, "--threads", 1]
    made = run(*command, "--out", tmp_path / "full")
    assert made.returncode == 0, made.stderr
    export = ["export", tmp_path / "full", "--to", tmp_path / "b", "--data", sounds, "--cache", cache]
    refused = run(*export)
    assert refused.returncode == 1 and "--float" in refused.stderr and not (tmp_path / "b").exists()
    exported = run(*export, "--float")
    assert exported.returncode == 0, exported.stderr
    assert Bundle.load(tmp_path / "b").predict(noise(4), SR).sum() == pytest.approx(1)
