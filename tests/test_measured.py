"""Level, distance and model card: what a microphone does to samples, and that every figure is one that was measured."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from compress import card, deployed, levels
from runtime.bundle import Bundle
from tests.conftest import SR, noise
from train.data import DataError, load_dataset, split

LABELS = ("bark", "hum", "rain", "tick")  # what the untrained nets of conftest know


def test_a_microphone_cuts_off_and_rounds():
    wave = np.array([0, 0.5, 1.0, 3.0, -1.0, -3.0, 0.3 / 32768, -0.7 / 32768], np.float32)
    heard = levels.microphone(wave) * 32768
    assert heard.tolist() == [0, 16384, 32767, 32767, -32768, -32768, 0, -1]
    pcm = (np.random.default_rng(0).integers(-32768, 32768, 1000) / 32768).astype("f4")
    assert np.array_equal(levels.microphone(pcm), pcm)  # a 16-bit recording as it is


def test_conditions_are_what_they_are_called(tmp_path):
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(SR) / SR)).astype("f4")
    some = {name: change(tone) for _, name, _, change in levels.conditions(SR)}
    assert next(iter(some)) == "0 dB" and len(some) == 9 + 8 + 4
    for gain_db in (-30, -10, -5):
        change_db = 20 * np.log10(np.std(some[f"{gain_db:+d} dB"]) / np.std(tone))
        assert change_db == pytest.approx(gain_db, abs=0.01)
    louder = some["+10 dB"]
    assert np.abs(louder).max() == pytest.approx(1, abs=1e-4) and np.mean(np.abs(louder) > 0.99) > 0.5  # cut off
    power = [np.mean(some[f"{m} m"] ** 2) for m in (1, 2, 4, 8)]
    assert power[0] > power[1] > power[2] > power[3] > 0.8 * power[2]  # far away, the room is all that is heard
    soundfile.write(tmp_path / "mine.wav", np.r_[1, np.zeros(99)], SR, subtype="FLOAT")
    named = [name for kind, name, _, _ in levels.conditions(SR, tmp_path) if kind == "device"]
    assert named == ["mine"]


@pytest.fixture(scope="module")
def trainings(small_runs, small_bundle, tmp_path_factory):
    """ESC layout, 2 folds of 8 clips of 4 s; untrained nets as compress.folds leaves them, a bundle of all."""
    root = tmp_path_factory.mktemp("card")
    data, folds = root / "data", root / "lofo"
    (data / "audio").mkdir(parents=True)
    (data / "meta").mkdir()
    rows = ["filename,fold,target,category,clip_id,licence"]
    for i in range(16):
        soundfile.write(data / "audio" / f"{i}.wav", noise(4, i), SR)
        rows.append(f"{i}.wav,{i // 8 + 1},{i % 4},{LABELS[i % 4]},r{i // 2},{'CC0' if i < 6 else 'CC-BY'}")
    (data / "meta" / "table.csv").write_text("\n".join(rows) + "\n")
    (data / "LICENSE.txt").write_text("Noise, made for a test.\nUse it as you like.\n")
    recipe = {"epochs": 3, "seed": 5}
    for fold in (1, 2):
        facts = {"data": {"name": "table", "fold": fold, "n_train": 8, "n_test": 8}, "recipe": recipe}
        for run_, name in zip(small_runs, ("mel", "gam", "cqt")):
            dataclasses.replace(run_, meta=facts).save(folds / f"fold{fold}" / name)
        described(small_bundle, folds / f"fold{fold}" / "bundle", facts)
    everything = {"data": {"name": "table", "fold": 0, "n_train": 16, "n_test": 0}, "recipe": {**recipe, "epochs": 4}}
    described(small_bundle, root / "ear", everything)
    return root


def described(bundle, folder, facts):
    """A copy of a bundle whose provenance says `facts` of each net."""
    shutil.copytree(bundle, folder)
    path = folder / "bundle.json"
    values = json.loads(path.read_text())
    values["provenance"]["runs"] = {member["name"]: facts for member in values["members"]}
    path.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def heard(trainings):
    """Every clip by the bundle of its fold, by Bundle.predict, as recorded and at -20 dB."""
    dataset = load_dataset(trainings / "data")
    truth, as_recorded, quiet = [], [], []
    for fold in (1, 2):
        bundle = Bundle.load(trainings / "lofo" / f"fold{fold}" / "bundle")
        for clip in split(dataset, fold)[1]:
            wave, sr = soundfile.read(clip.path, dtype="float32")
            truth.append(LABELS.index(clip.label))
            as_recorded.append(bundle.predict(levels.microphone(wave), sr))
            quiet.append(bundle.predict(levels.microphone(0.1 * wave), sr))
    return np.array(truth), np.array(as_recorded), np.array(quiet)


def test_levels_by_predicting_each_clip(trainings, heard, cache, tmp_path):
    bundles = [trainings / "lofo" / f"fold{fold}" / "bundle" for fold in (1, 2)]
    levels.main([*map(str, bundles), "--data", str(trainings / "data"), "--cache", str(cache), "--out", str(tmp_path),
                 "--gain", "-20", "--only", "level"])  # fmt: skip
    table = json.loads((tmp_path / "levels.json").read_text())
    assert table["n"] == 16 and table["recordings"] == 8 and table["held_out"] and table["folds"] == [1, 2]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["-20 dB", "0 dB"]
    truth, as_recorded, quiet = heard
    for name, p in (("0 dB", as_recorded), ("-20 dB", quiet)):
        assert rows[name]["accuracy"] == np.mean(p.argmax(1) == truth)
        assert rows[name]["log_loss"] == pytest.approx(-np.log(p[np.arange(16), truth]).mean(), rel=1e-4)
    change = rows["-20 dB"]["to_recorded"]
    assert change["accuracy"] == pytest.approx(rows["-20 dB"]["accuracy"] - rows["0 dB"]["accuracy"])
    assert rows["0 dB"]["to_recorded"]["accuracy_interval"] == [0, 0]
    assert (tmp_path / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert "none of them heard in training" in (tmp_path / "levels.txt").read_text()


def test_levels_of_nothing(trainings):
    ear, data, lofo = trainings / "ear", trainings / "data", trainings / "lofo"
    with pytest.raises(DataError, match="held no fold out"):
        levels.main([str(ear), "--data", str(data)])
    with pytest.raises(ValueError, match="choose -120 to 60 dB"):
        levels.main([str(ear), "--data", str(data), "--fold", "1", "--gain", "100"])
    with pytest.raises(ValueError, match="a clip would count twice"):
        levels.main([str(ear), str(ear), "--data", str(data), "--fold", "1"])
    assert deployed.held_out_fold(Bundle.load(lofo / "fold2" / "bundle"), load_dataset(data)) == 2


def test_a_card_says_what_was_measured(trainings, heard, cache, tmp_path):
    measured = {"data": "table", "rows": [{"name": "-20 dB", "accuracy": 0.5}], "n": 16, "held_out": True}
    (tmp_path / "levels.json").write_text(json.dumps(measured))
    arguments = [trainings / "ear", "--folds", trainings / "lofo", "--data", trainings / "data", "--cache", cache]
    card.main([*map(str, arguments), "--levels", str(tmp_path / "levels.json")])
    said = (trainings / "ear" / card.CARD).read_text()
    truth, p, _ = heard
    hits = p.argmax(1) == truth
    fused = next(line for line in said.splitlines() if line.startswith("| PROD"))
    assert f"| {hits.mean():.1%} |" in fused
    assert re.search(rf"By fold: 1: {hits[:8].mean():.1%}, 2: {hits[8:].mean():.1%}\.", said)
    for i, label in enumerate(LABELS):
        assert f"| {label} | 4 | {hits[truth == i].mean():.1%} |" in said
    for member in Bundle.load(trainings / "ear").members:
        assert f"| {member.name} | {member.files['tflite']['bytes']:,} |" in said
    assert "16 clips of 8 recordings" in said and "CC-BY 10, CC0 6" in said and "> Use it as you like." in said
    assert "every clip of `table` (16); epochs 4, seed 5" in said and "epochs 4 here, 3 there" in said
    assert "heard every clip" in said and "-20 dB 50.0%" in said and "does not say what recorded it" in said
    Bundle.load(trainings / "ear").check()  # a card beside its files changes nothing


def test_cards_of_nothing(trainings, small_bundle, cache, tmp_path):
    ear, data = trainings / "ear", trainings / "data"
    with pytest.raises(ValueError, match=r"no bundle of fold 1 .* that has finished"):
        card.main([str(ear), "--folds", str(tmp_path), "--data", str(data), "--cache", str(cache)])
    lofo = trainings / "lofo"
    with pytest.raises(ValueError, match="two folders have one name"):
        card.main([str(ear), "--folds", str(lofo), str(lofo), "--data", str(data)])
    described(small_bundle, tmp_path / "blank", "x")
    with pytest.raises(ValueError, match="does not say how its nets were trained"):
        card.main([str(tmp_path / "blank"), "--folds", str(lofo), "--data", str(data)])
    shutil.copytree(lofo, tmp_path / "mixed")
    meta = tmp_path / "mixed" / "fold2" / "gam" / "meta.json"
    values = json.loads(meta.read_text())
    meta.write_text(json.dumps(values | {"recipe": {**values["recipe"], "seed": 6}}))
    with pytest.raises(ValueError, match=r"fold2/bundle was not made of .*gam: call compress\.folds again"):
        card.main([str(ear), "--folds", str(tmp_path / "mixed"), "--data", str(data), "--cache", str(cache)])
    meta.write_text(json.dumps(values | {"data": {**values["data"], "later": "more is stated"}}))
    file = tmp_path / "mixed" / "fold2" / "bundle" / "bundle.json"
    values = json.loads(file.read_text())
    values["members"][0]["temperature"] = 2.0
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="its temperatures know the clips that judge it"):
        card.main([str(ear), "--folds", str(tmp_path / "mixed"), "--data", str(data), "--cache", str(cache)])
    values["members"][0]["temperature"] = 1.0
    values["members"][0]["patch"] = {**Bundle.load(ear).members[0].patch.to_json(), "stride": 8}
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"differs from .*ear in labels, front ends or fusion"):
        card.main([str(ear), "--folds", str(tmp_path / "mixed"), "--data", str(data), "--cache", str(cache)])
    (tmp_path / "l.json").write_text('{"data": "other", "rows": []}')
    with pytest.raises(ValueError, match=r"l\.json was measured on other, not on table"):
        card.main([str(ear), "--folds", str(lofo), "--data", str(data), "--levels", str(tmp_path / "l.json")])
    with pytest.raises(DataError, match="fold 0 of table tests nothing"):
        levels.main([str(ear), "--data", str(data), "--fold", "0"])
    (tmp_path / "l.json").write_text('{"data": "table", "rows": 3}')
    with pytest.raises(ValueError, match=r"l\.json is no table of compress\.levels"):
        card.main([str(ear), "--folds", str(lofo), "--data", str(data), "--levels", str(tmp_path / "l.json")])
