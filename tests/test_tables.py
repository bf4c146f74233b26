"""P3's tables over the small data set of conftest: trained, resumed, and what stands in them."""

import dataclasses
import json
import os

import numpy as np
import pytest

from compress import tables, tables_of_runs
from compress.workers import side_by_side
from compress.written import write_table
from train.data import load_dataset
from train.results import load_results
from train.scores import load_predictions


def test_nets_are_those_of_the_paper():
    assert [net.name for net in tables.nets_of("sizes")] == [
        "full-mel-620-plain", "cr-mel-620-plain", "cr+dc-mel-620-plain",
    ]  # fmt: skip
    lengths = tables.nets_of("lengths")
    assert len(lengths) == len(set(lengths)) == 3 * 4 * 2
    spans = {net.hop_length: (net.patch.n_frames * net.hop_length / 44100, net.patch.stride) for net in lengths}
    assert {hop: (round(s, 2), stride) for hop, (s, stride) in spans.items()} == {
        620: (1.80, 64), 1120: (3.25, 64), 1850: (5.37, 64), 2048: (9.29, 200),
    }  # fmt: skip
    on, off = (tables.Net("cr+dc", "mel", 620, augmented).recipe(100, 8, 0) for augmented in (True, False))
    assert on.mixup_alpha and on.mask_frames and on.mask_bands and on.gain_db == off.gain_db == 0
    assert not (off.mixup_alpha or off.mask_frames or off.mask_bands)
    assert set(tables.nets_of("fusion")) < set(lengths)  # trained once for both


def test_ten_seconds_are_one_patch_and_ten():
    """SEEDS: 10 patches of 10 s at hop 620, 5 at 1120, 2 at 1850, one of 200 frames at 2048."""
    for net, n in zip(tables.nets_of("lengths", ["mel"])[:4], (10, 5, 2, 1)):
        static = np.zeros((128, net.frontend.n_frames(441_000)), np.float32)
        assert len(net.patch.cut(static)) == n


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same shapes at an eighth of the widths, so that the tests train in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        system = tables.SYSTEMS["cnn7"]
        shapes = {name: kwargs | {"widths": [4] * 6} for name, kwargs in system.shapes.items()}
        patch.setitem(tables.SYSTEMS, "cnn7", dataclasses.replace(system, shapes=shapes))
        yield tmp_path_factory.mktemp("tables")


def make(table, sounds, cache, root, *more):
    common = ["--data", sounds, "--cache", cache, "--runs", root, "--epochs", "1", "--batch-size", "4", "--jobs", "1"]
    tables.main([table, *map(str, common), *more])
    assert (root / f"{table}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((root / f"{table}.json").read_text()), (root / f"{table}.txt").read_text()


def test_sizes(small, sounds, cache, capsys):
    table, text = make("sizes", sounds, cache, small)
    rows = table["rows"]
    assert [row["net"] for row in rows] == ["CNN-7", "CNN-7 CR", "CNN-7 CR+DC"] and all(row["n"] == 16 for row in rows)
    for row, shape in zip(rows, ("full", "cr", "cr+dc")):
        hits = []
        for fold in (1, 2):
            _, truth, log_p = load_predictions(small / f"fold{fold}" / f"{shape}-mel-620-plain")
            hits += list(log_p.argmax(1) == truth)
        assert row["accuracy"] == np.mean(hits) and f"{row['accuracy']:.1%}" in text
    assert rows[0]["to_first"]["accuracy_interval"] == [0, 0]
    assert "0 of 6 trainings are done" in capsys.readouterr().out


def test_lengths_again_trains_nothing(small, sounds, cache, capsys):
    """Clips of 1.5 s: shorter than every patch but those of neither hop; the table says so. Finished runs stay."""
    only = ("--spectrogram", "mel", "--hop-length", "620", "--hop-length", "2048", "--fold", "1")
    table, text = make("lengths", sounds, cache, small, *only)
    assert [(row["hop_length"], row["augmented"], row["looped_clips"]) for row in table["rows"]] == [
        (620, False, 16), (2048, False, 16), (620, True, 16), (2048, True, 16),
    ]  # fmt: skip
    assert "clips shorter than a patch, repeated: 16 of 1.80 s, 16 of 9.29 s" in text and "9.29 s" in text
    assert "1 of 4 trainings are done" in capsys.readouterr().out  # of `sizes`: the same net
    before = {path: path.stat().st_mtime_ns for path in small.rglob("model.safetensors")}
    again, _ = make("lengths", sounds, cache, small, *only)
    assert again == table and before == {path: path.stat().st_mtime_ns for path in small.rglob("model.safetensors")}
    assert "4 of 4 trainings are done" in capsys.readouterr().out


def test_another_recipe_is_another_training(small, sounds, cache, tmp_path):
    dataset = load_dataset(sounds)
    net = tables.nets_of("sizes")[0]
    folder = small / "fold1" / net.name
    assert tables.is_finished(net, 1, net.recipe(1, 4, 0), dataset, folder)
    for fold, recipe in ((1, net.recipe(2, 4, 0)), (1, net.recipe(1, 4, 1)), (2, net.recipe(1, 4, 0))):
        assert not tables.is_finished(net, fold, recipe, dataset, folder)
    assert not tables.is_finished(net, 1, net.recipe(1, 4, 0), dataset, tmp_path)
    fewer = dataclasses.replace(dataset, clips=dataset.clips[1:-1])
    assert not tables.is_finished(net, 1, net.recipe(1, 4, 0), fewer, folder)
    before = folder.joinpath("meta.json").stat()
    os.utime(folder / "meta.json", (0, 0))  # the recordings came later: are they others?
    assert not tables.is_finished(net, 1, net.recipe(1, 4, 0), dataset, folder)
    os.utime(folder / "meta.json", ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_dot_in_a_tables_name_is_no_suffix(tmp_path):
    write_table(tmp_path / "lr0.001", "text", {}, lambda path, table: path.write_bytes(b"picture"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr0.001.json", "lr0.001.png", "lr0.001.txt"]


def test_fusion_and_classes_of_one_training(small, sounds, cache):
    fused, text = make("fusion", sounds, cache, small)
    (system,) = fused["systems"]
    assert system["rows"][-1]["members"] == ["cqt", "gam", "mel"] and "weighted Prod" in text
    assert system["against"]["groups"] == 16 and "16 recordings" in text
    by_class, text = make("classes", sounds, cache, small)
    assert [row["label"] for row in by_class["rows"]] == ["hum", "pulses"]
    for net in ("cqt", "gam", "mel", "PROD"):
        mean = np.mean([row["nets"][net]["accuracy"] for row in by_class["rows"]])  # as many clips of each
        assert by_class["all"][net]["accuracy"] == pytest.approx(mean)
    assert by_class["all"]["PROD"] == system["rows"][-1]["prod"]
    runs = [small / f"fold{fold}" / f"cr+dc-{name}-1850-augmented" for fold in (1, 2) for name in ("mel", "gam")]
    given = tables_of_runs.fusion(load_results(runs))["systems"][0]["rows"]
    assert given[-1]["prod"] == next(r["prod"] for r in system["rows"] if r["members"] == ["gam", "mel"])


@pytest.mark.parametrize(
    "args, words",
    [
        (["sizes", "--fold", "7"], "has no fold 7"),
        (["sizes", "--fold", "0"], "--fold 0 holds nothing out: choose some of 1, 2"),
        (["sizes", "--jobs", "0"], "0 trainings side by side: choose 1 to 64"),
        (["sizes", "--epochs", "0"], "epochs 0: choose 1"),
        (["fusion", "--data", "nowhere"], "nowhere is missing"),
        (["fusion", "--nets", "nowhere"], "nowhere is not a finished training run"),
    ],
)
def test_senseless_tables(sounds, cache, tmp_path, args, words):
    if "--data" not in args:
        args = [*args, "--data", str(sounds)]
    with pytest.raises(ValueError, match=words):
        tables.main([*args, "--cache", str(cache), "--runs", str(tmp_path)])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_nets_of_one_training_only(capsys):
    with pytest.raises(SystemExit):
        tables.main(["sizes", "--nets", "x"])
    assert "trains them" in capsys.readouterr().err


def test_side_by_side_ends_with_the_first_error():
    assert sorted(side_by_side(divmod, [(7, 2), (9, 4), (5, 5)], 2)) == [(1, 0), (2, 1), (3, 1)]
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(divmod, [(7, 2), (9, 0), (5, 5)], 2))
