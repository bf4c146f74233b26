"""The DCASE protocol on a synthetic TAU in the real layout: devices, classes, rules, and what is held out."""

import json

import numpy as np
import pytest
import soundfile

from compress import dcase, deployed
from runtime.bundle import Bundle
from tests.conftest import SR, noise
from train.data import DataError, fingerprint, load_dataset, split
from train.responses import device, through

TRAINED, ALL = ("a", "b", "c", "s1", "s2", "s3"), ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
META = "filename\tscene_label\tidentifier\tsource_label"


def tau(root, scenes, year=2022, seconds=1.0):
    """Two training places, one test place per scene; S4 to S6 in the test alone; CRLF, no newline at the end."""
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rows, train, test = [], [], []
    for k, scene in enumerate(scenes):
        for place, city in enumerate(("lisbon", "lyon", "paris")):
            for i, source in enumerate(TRAINED if place < 2 else ALL):
                piece = "-0" if year == 2022 else ""
                location = f"{city}-{1000 + 10 * k + place}"
                name = f"audio/{scene}-{location}-{40000 + place}{piece}-{source}.wav"
                rng = np.random.default_rng([k, place])
                t = np.arange(int(seconds * SR)) / SR
                wave = 0.2 * np.sin(2 * np.pi * 200 * 4**k * t) + 0.02 * rng.standard_normal(len(t))
                soundfile.write(root / name, through(wave.astype("f4"), device("phone" if i else "mic", i)), SR)
                rows.append(f"{name}\t{scene}\t{location}\t{source}")
                (train if place < 2 else test).append(f"{name}\t{scene}")
    (root / "meta.csv").write_text("\r\n".join([META, *rows]), newline="")
    setup = root / "evaluation_setup"
    (setup / "fold1_train.csv").write_text("\n".join(["filename\tscene_label", *train]))
    (setup / "fold1_evaluate.csv").write_text("\n".join(["filename\tscene_label", *test]))
    (setup / "fold1_test.csv").write_text("\n".join(["filename", *(row.split("\t")[0] for row in test)]))
    return root


NAME_2020 = "TAU-urban-acoustic-scenes-2020-mobile-development"
LABELS = ("bark", "hum", "rain", "tick")  # what the untrained bundle of conftest knows


@pytest.fixture(scope="module")
def tau_2020(tmp_path_factory):
    return tau(tmp_path_factory.mktemp("tau") / NAME_2020, LABELS, 2020, seconds=2.0)


@pytest.fixture(scope="module")
def scored(tau_2020, small_bundle, cache):
    """The table of an untrained bundle, its dataset and its predictions by a second way: Bundle.predict, clip by clip."""
    dataset, bundle = load_dataset(tau_2020), Bundle.load(small_bundle)
    _, clips = split(dataset, 1)
    p = np.stack([bundle.predict(*soundfile.read(clip.path, dtype="float32")) for clip in clips])
    return dcase.protocol(bundle, dataset, 1, cache, 131072), clips, p


def test_every_number_by_a_loop_over_the_clips(scored):
    table, clips, p = scored
    assert table["n"] == len(clips) == 36 and not table["held_out"]
    parts = {"all": {"all clips": [True] * 36}}
    parts["per_class"] = {label: [clip.label == label for clip in clips] for label in LABELS}
    parts["per_device"] = {name: [clip.device == name for clip in clips] for name in ALL}
    parts["groups"] = {
        "A": [clip.device == "a" for clip in clips],
        "B, C": [clip.device in "bc" for clip in clips],
        "S1 to S3": [clip.device in ("s1", "s2", "s3") for clip in clips],
        "S4 to S6": [clip.device in ("s4", "s5", "s6") for clip in clips],
        "trained on": [clip.device in TRAINED for clip in clips],
        "never trained on": [clip.device not in TRAINED for clip in clips],
    }
    for part, rows in parts.items():
        assert part == "all" or list(table[part]) == list(rows)
        for name, here in rows.items():
            mine = table["all"]["PROD"] if part == "all" else table[part][name]["nets"]["PROD"]
            right = [LABELS.index(clip.label) for clip, inside in zip(clips, here) if inside]
            said = p[np.array(here)]
            hits = [row.argmax() == label for row, label in zip(said, right)]
            assert mine["accuracy"] == pytest.approx(np.mean(hits))
            losses = [-np.log(row[label]) for row, label in zip(said, right)]
            assert mine["log_loss"] == pytest.approx(np.mean(losses), rel=0.02)  # a clip is looped, or its spectrogram
    classes = [row["nets"]["PROD"]["log_loss"] for row in table["per_class"].values()]
    assert table["mean_of_classes"]["PROD"]["log_loss"] == pytest.approx(np.mean(classes))
    assert [name for name, row in table["per_device"].items() if not row["trained_on"]] == ["s4", "s5", "s6"]
    low, high = table["interval"]["accuracy"]
    assert table["places"] == 4 and low <= table["all"]["PROD"]["accuracy"] <= high


def test_rules_are_the_counts_of_devices_size(scored, small_bundle):
    table, _, _ = scored
    bundle = Bundle.load(small_bundle)
    rows = {row["year"]: row for row in table["rules"]}
    assert rows[2020]["limit"] == 512_000 and rows[2021]["limit"] == 131_072
    assert rows[2022]["limit"] == 128_000 and rows[2022]["macs_limit"] == rows[2024]["macs_limit"] == 30_000_000
    assert rows[2022]["macs"] == sum(member.files[bundle.format]["macs"] for member in bundle.members)
    assert table["file_bytes"] == sum(member.files[bundle.format]["bytes"] for member in bundle.members)
    assert table["fits"] is True
    text = dcase.text({**table, "budget_bytes": 1000, "fits": False})
    assert "OVER the budget of 1,000" in text
    heavy = [{**row, "macs": 31_000_000, "verdict": "too big"} for row in table["rules"] if row["macs_limit"]]
    assert dcase.text({**table, "rules": heavy}).count("fails: MACs (") == len(heavy) == 3


def test_the_text_says_what_was_looped_and_what_the_paper_has(scored):
    table, _, _ = scored
    text = dcase.text(table)
    assert "36 clips are shorter than a patch of 3.25 s and were repeated" in text
    assert "one pass of every net (patches of 3.25, 3.25, 3.25 s):" in text
    uneven = dcase.text({**table, "patch_s": [1.8, 3.25, 3.25]})
    assert "shorter than a patch of 3.25 s" in uneven and "(patches of 1.80, 3.25, 3.25 s)" in uneven
    assert "device S4" in text and text.count("never trained on") == 4  # three devices, their group
    assert "does not say that it was trained on this list's other half" in text
    for line, paper in (("all clips", 66.7), ("device A", 79.1), ("device S6", 60.3)):
        assert next(row for row in text.splitlines() if row.startswith(line)).split("never")[0].split()[-1] == str(
            paper
        )


def test_a_folder_per_class_has_no_devices(small_bundle, cache, tmp_path):
    for i, label in enumerate(LABELS):
        (tmp_path / label).mkdir()
        for k in range(5):
            soundfile.write(tmp_path / label / f"{k}.wav", noise(1, 10 * i + k), SR)
    dataset = load_dataset(tmp_path)
    table = dcase.protocol(Bundle.load(small_bundle), dataset, dataset.folds[0], cache)
    assert table["per_device"] == table["groups"] == {} and "fits" not in table
    assert "does not say which devices" in dcase.text(table)


def test_one_command_trains_and_scores_a_second_scores_again(tmp_path, cache, capsys):
    """TAU 2022: clips of one second. One epoch of the smallest nets; the second call trains nothing."""
    root = tau(tmp_path / "TAU-urban-acoustic-scenes-2022-mobile-development", ("airport", "tram"))
    out = tmp_path / "out"
    args = ["--data", root, "--budget", "24kb", "--epochs", "1", "--cache", cache, "--out", out]
    dcase.main(list(map(str, args)))
    table = json.loads((out / "dcase.json").read_text())
    assert table["held_out"] and table["n"] == 18 and table["looped_clips"] == 18 and table["places"] == 2
    assert table["fits"] and (out / "dcase.png").read_bytes().startswith(b"\x89PNG")
    assert list(table["all"]) == ["mel", "gam", "cqt", "PROD"]
    before = (out / "bundle" / "bundle.json").stat().st_mtime_ns
    capsys.readouterr()
    dcase.main(list(map(str, args)))
    assert "bundle is done" in capsys.readouterr().out
    assert (out / "bundle" / "bundle.json").stat().st_mtime_ns == before
    assert json.loads((out / "dcase.json").read_text()) == table


def test_clips_that_were_scored_are_not_scored_again(tau_2020, small_bundle, cache, tmp_path):
    dataset, bundle = load_dataset(tau_2020), Bundle.load(small_bundle)
    clips, asked = split(dataset, 1)[1][:3], []

    def hear(clip):
        asked.append(clip)
        return deployed.from_features(bundle, [clip], cache)(clip)

    first = deployed.log_probabilities(bundle, clips, hear, "x", tmp_path)
    assert first.shape == (3, 3, 4) and len(asked) == 3
    assert np.array_equal(deployed.log_probabilities(bundle, clips, hear, "x", tmp_path), first) and len(asked) == 3
    deployed.log_probabilities(bundle, clips, hear, "y", tmp_path)
    assert len(asked) == 6
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:90])  # damaged: scored again
    assert np.array_equal(deployed.log_probabilities(bundle, clips, hear, "x", tmp_path), first) and len(asked) == 9


def test_what_is_not_held_out_is_not_scored(tau_2020, small_bundle, sounds):
    bundle, dataset = Bundle.load(small_bundle), load_dataset(tau_2020)
    with pytest.raises(DataError, match="held no fold out"):
        deployed.held_out_fold(bundle, dataset)
    bundle.provenance = {"runs": {"mel": {"data": {"name": "esc10", "fold": 3}}}}
    with pytest.raises(DataError, match="was trained on esc10, not TAU"):
        deployed.held_out_fold(bundle, dataset)
    assert deployed.held_out_fold(bundle, dataset, 1) == 1 and not deployed.is_held_out(bundle, dataset, 1)
    bundle.provenance = {"runs": {"mel": {"data": {"name": NAME_2020, "fold": 1}}}}
    assert deployed.held_out_fold(bundle, dataset) == 1 and deployed.is_held_out(bundle, dataset, 1)
    facts = bundle.provenance["runs"]["mel"]["data"]
    facts["clips"] = fingerprint(split(dataset, 1)[0])
    assert deployed.held_out_fold(bundle, dataset) == 1
    facts["clips"] = fingerprint(split(dataset, 1)[0][1:])  # recordings came since: one may stand in another fold now
    with pytest.raises(DataError, match=r"held out fold 1 of TAU.* as it was then, not fold 1 of TAU.* as it is"):
        deployed.held_out_fold(bundle, dataset)
    assert not deployed.is_held_out(bundle, dataset, 1) and deployed.held_out_fold(bundle, dataset, 1) == 1
    with pytest.raises(DataError, match=r"knows bark.*; sounds holds hum, pulses"):
        deployed.test_clips(bundle, load_dataset(sounds), 1)


@pytest.mark.parametrize(
    "args, words, error",
    [
        ([], "--budget 128kb to train", SystemExit),
        (["--bundle", "b", "--epochs", "3"], "unrecognized arguments: --epochs 3", SystemExit),
        (["--budget", "128kb", "--fold", "2"], "has no fold 2", ValueError),
        (["--budget", "128kb", "--fold", "0"], "--fold 0 tests nothing: choose some of 1", ValueError),
        (["--budget", "much"], "'much' is not a size", ValueError),
        (["--bundle", "nowhere"], "nowhere is no bundle", ValueError),
    ],
)
def test_senseless_protocols(tau_2020, args, words, error, tmp_path, capsys):
    with pytest.raises(error) as caught:
        dcase.main(["--data", str(tau_2020), "--out", str(tmp_path / "out"), *args])
    assert words in (capsys.readouterr().err if error is SystemExit else str(caught.value))
    assert not (tmp_path / "out").exists()
