"""export.rules: what is fitted is right where the answer is known, and what is stored leaves a whole bundle."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile

from export import crossfit
from export import rules as learning
from export import thresholds as th
from export import traces as tr
from runtime import fusion
from runtime.bundle import Bundle
from runtime.decide import offline
from runtime.rules import Rules
from tests.conftest import SR, noise
from train.data import Clip, load_dataset
from train.features import features


@pytest.fixture()
def bundle(small_bundle):
    return Bundle.load(small_bundle)


def a_trace(label, log_p, part=1, onset_s=5.0, offset_s=6.0, duration_s=20.0, every_s=0.5):
    """Per member one (classes,) log probability, the same all the time between onset and offset + 3 s, else even ones."""
    ends_s = np.arange(3.5, duration_s, every_s)
    even = np.zeros_like(log_p[0])
    lasts = (ends_s >= onset_s) & (ends_s < offset_s + 3) if label else np.ones(len(ends_s), bool)
    patches = [fusion.log_softmax(np.where(lasts[:, None], p, even)) for p in log_p]
    clip = [fusion.log_softmax(p[None]) for p in log_p] if label else []
    return tr.Trace(label, part, duration_s, onset_s, offset_s, [ends_s] * len(log_p), patches, clip)


def drawn(bundle, n, scale, shared, seed=0, part=1):
    """n clips whose truth is drawn from softmax(logits): calibrated at temperature `scale`, by all nets alike or not."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        logits = rng.normal(size=(1 if shared else 3, 4)) * 2
        together = np.exp(fusion.log_softmax(logits.sum(0)))
        label = bundle.labels[rng.choice(4, p=together)]
        out.append(a_trace(label, [scale * logits[i % len(logits)] for i in range(3)], part))
    return out


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_of_nets_that_hear_alike(bundle, scale):
    """Three times the same witness: each calibrated at `scale`, and the product at three times that."""
    own, factor = th.fit_temperatures(drawn(bundle, 400, scale, shared=True), bundle)
    assert own == pytest.approx([scale] * 3, rel=0.2) and factor == pytest.approx(3, rel=0.2)


def test_independent_witnesses_need_no_common_factor(bundle):
    """Their product is calibrated as it is; each alone is not sure enough of what the three decide together."""
    own, factor = th.fit_temperatures(drawn(bundle, 400, 1.0, shared=False), bundle)
    assert [factor * t for t in own] == pytest.approx([1] * 3, rel=0.25)


def test_decisions_of_a_trace_are_those_of_the_stream(bundle):
    wave = noise(14, seed=8)
    for member, temperature, certainty in zip(bundle.members, (0.7, 1.0, 2.5), (0.0, 4.0, 8.0)):
        member.temperature, member.patch = temperature, dataclasses.replace(member.patch, certainty=certainty)
    made = tr._patches(bundle, wave)
    trace = tr.Trace("bark", 1, 14.0, 0.0, 14.0, *made, [])
    found, wanted = tr.decisions(trace, bundle, (0.7, 1.0, 2.5)), offline(bundle, wave)
    assert [d.end_s for d in found] == [d.end_s for d in wanted] and len(found) >= 9
    for a, b in zip(found, wanted):
        assert a.label == b.label and a.scores == pytest.approx(b.scores, abs=1e-6)


def test_clips_are_heard_as_by_the_members(bundle):
    """All clips at once, at another temperature, or one by one as the deployed bundle does."""
    rng, member = np.random.default_rng(1), bundle.members[0]
    member.patch = dataclasses.replace(member.patch, certainty=4.0)
    patches = [fusion.log_softmax(3 * rng.normal(size=(n, 4))) for n in (5, 1, 3)]
    traces = [tr.Trace("bark", 1, 9.0, 0.0, 9.0, [], [], [p]) for p in patches]
    each = [member.over_patches(fusion.log_softmax(p, 1.7)) for p in patches]
    assert th.clip_means(traces, bundle, 0, 1.7) == pytest.approx(np.array(each), abs=1e-12)


def test_a_class_left_out_takes_no_share(bundle):
    """The others keep their proportions, patch by patch."""
    log_p = [np.log([0.5, 0.25, 0.2, 0.05])] * 3
    trace = a_trace("bark", log_p, onset_s=0, offset_s=20)
    with_all, without = (tr.decisions(trace, bundle, [1.0] * 3, name)[5].scores for name in ("", "bark"))
    assert without["bark"] == 0 and sum(without.values()) == pytest.approx(1)
    assert without["hum"] / without["rain"] == pytest.approx(with_all["hum"] / with_all["rain"])
    assert without["hum"] > with_all["hum"]


def some_peaks(seed, n=40, shift=0.3):
    """Random peaks of four classes, known ones higher by `shift`."""
    rng = np.random.default_rng(seed)
    own = rng.integers(4, size=n)[:, None] == np.arange(4)
    false = lambda k: np.where(own, np.nan, rng.random((n, 4)) * k)  # noqa: E731
    known = np.where(own, np.minimum(1, shift + rng.random((n, 4))), np.nan)
    return th.Peaks(known, false(0.5), false(1.0), rng.random((12, 4)) * 0.6)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_keep_to_the_target_and_more_is_allowed_for_more_recall(seed):
    found, recalls = some_peaks(seed), []
    for target in (0.02, 0.1, 0.3, 0.6, 1.0):
        on = th.fit_on(found, target)
        assert (found.unknown >= on).any(1).mean() <= target
        assert (on >= th.LOWEST_ON).all() and (on <= 1).all()
        recalls.append((found.known >= on).any(1).mean())
    assert recalls == sorted(recalls) and recalls[-1] > recalls[0]


@pytest.mark.parametrize("price", [0.1, 1.0, 5.0])
def test_no_threshold_gains_more_than_the_chosen_one(price):
    found = some_peaks(9)
    for i in range(4):
        false = np.concatenate([a[:, i] for a in (found.wrong, found.unknown, found.room)])

        def gain(on, i=i, false=false):
            return (found.known[:, i] >= on).sum() - price * (false >= on).sum()

        chosen = gain(th._best_on(found, i, price))
        assert chosen == pytest.approx(max(gain(on) for on in np.linspace(th.LOWEST_ON, 1, 3001)))


def test_classes_that_can_be_told_apart_are(bundle):
    """Known peaks above 0.8, all others below 0.4: everything is reported, nothing else, and the margin is halved."""
    own = np.eye(4, dtype=bool).repeat(5, axis=0)
    other = np.where(own, np.nan, 0.4)
    on = th.fit_on(th.Peaks(np.where(own, 0.8, np.nan), other, other, np.full((3, 4), 0.35)), 0.1)
    assert on == pytest.approx([0.6] * 4)


def known_and_rooms(bundle, sure, part, n=3):
    """n recordings of each class with a probability of `sure` for their own, and a room with even ones."""
    out = [a_trace("", [np.zeros(4)] * 3, part)]
    for i, label in enumerate(bundle.labels):
        p = np.where(np.arange(4) == i, sure, (1 - sure) / 3)
        out += [a_trace(label, [np.log(p) / 3] * 3, part) for _ in range(n)]
    return out


def test_counts_by_hand(bundle):
    """A room that is even at 1/4, recordings at 0.7 for their own class, and 1/3 each for the rest once that is left out."""
    traces = known_and_rooms(bundle, 0.7, part=1, n=2)
    on = {"bark": 0.6, "hum": 0.9, "rain": 0.2, "tick": 0.6}  # hum deaf, rain in every room
    counts = th.measure(traces, bundle, [1.0] * 3, Rules(on, {label: p - 0.05 for label, p in on.items()}))
    assert counts["known"] == 8 and counts["hits"] == 4  # bark and tick: rain was on before its sound began
    assert counts["room_reports"] == 1 and counts["room_s"] == 20
    assert counts["per_class"]["hum"] == {"sounds": 2, "hits": 0, "false_alarms": 0}
    # in each of 6 recordings before the sound and again behind it, once where their class is left out; and in the room
    assert counts["per_class"]["rain"] == {"sounds": 2, "hits": 0, "false_alarms": 19} and counts["wrong"] == 12
    doubled = th.summed([counts, counts])
    assert doubled["hits"] == 8 and doubled["per_class"]["rain"]["false_alarms"] == 38


def test_figures_come_from_parts_that_were_not_fitted(bundle):
    """Each part is measured with what the other one gives, and that is not what it would have given itself."""
    parts = [
        [*drawn(bundle, 40, 1.0, shared=False, seed=part, part=part), *known_and_rooms(bundle, 0.4, part, n=1)]
        for part in (1, 2)
    ]
    _, _, figures = crossfit.learn([*parts[0], *parts[1]], bundle, 0.2)

    def recall(fitted_on, measured_on):
        temperatures, _, rules = crossfit.fit(fitted_on, bundle, 0.2)
        return th.measure(measured_on, bundle, temperatures, rules)["hits"] / 88

    assert figures["recordings"] == 88
    honest = recall(parts[1], parts[0]) + recall(parts[0], parts[1])
    flattering = recall(parts[0], parts[0]) + recall(parts[1], parts[1])
    assert figures["after"]["recall"] == pytest.approx(honest, abs=1e-4) != pytest.approx(flattering, abs=1e-3)


def folder_of(root, labels, n, gain=1.0):
    for i, label in enumerate(labels):
        (root / label).mkdir(parents=True)
        for k in range(n):
            soundfile.write(root / label / f"{k}.wav", gain * 0.2 * noise(2, seed=10 * i + k), SR, subtype="FLOAT")
    return root


def test_levels_rise_with_the_recordings(bundle, cache, tmp_path):
    """Twice as loud is 6.02 dB in every band that is not at the floor."""
    quiet, loud = (
        learning.levels_of(bundle, load_dataset(folder_of(tmp_path / name, bundle.labels, 2, gain)).clips, cache)
        for name, gain in (("quiet", 1.0), ("loud", 2.0))
    )
    assert quiet.member == "mel" and len(quiet.mid_db) == 128
    for name in ("low_db", "mid_db", "high_db"):
        rise = np.subtract(getattr(loud, name), getattr(quiet, name))
        assert rise == pytest.approx(np.full(128, 20 * np.log10(2)), abs=0.03)


def test_relative_patches_bear_quieter_sounds(bundle, cache, tmp_path):
    """From the middle down by what lies between the recordings and quietest_db, of the member with the least of it."""
    clips = load_dataset(folder_of(tmp_path / "data", bundle.labels, 2)).clips
    before = learning.levels_of(bundle, clips, cache)
    for member, headroom_db in zip(bundle.members, (25, 30, 35)):
        assert learning.levels_of(bundle, clips, cache) == before  # as long as one member's patches are absolute
        references = [static.mean(axis=0).max() for static in features(clips, member.frontend, cache)]
        member.patch = dataclasses.replace(member.patch, quietest_db=float(np.median(references)) - headroom_db)
    after = learning.levels_of(bundle, clips, cache)
    assert np.subtract(before.mid_db, after.low_db) == pytest.approx(np.full(128, 25), abs=0.03)
    assert (after.mid_db, after.high_db) == (before.mid_db, before.high_db)


def two_folds(root, labels):
    """One recording of each class in each of two folds, in ESC-50's layout."""
    folder_of(root / "audio", labels, 2)
    rows = [f"{label}/{k}.wav,{k + 1},{i},{label}" for i, label in enumerate(labels) for k in range(2)]
    (root / "meta").mkdir()
    (root / "meta" / "two.csv").write_text("\n".join(["filename,fold,target,category", *rows]) + "\n")
    return root


def with_fold(small_bundle, folder, fold):
    """A copy of the bundle whose nets, so it says, held out `fold`."""
    shutil.copytree(small_bundle, folder)
    values = json.loads((folder / "bundle.json").read_text())
    values["provenance"]["runs"] = {member["name"]: {"data": {"fold": fold}} for member in values["members"]}
    (folder / "bundle.json").write_text(json.dumps(values))
    return folder


@pytest.fixture()
def short_rooms(monkeypatch):
    monkeypatch.setattr(tr, "ROOM_S", 6.0)
    monkeypatch.setattr(tr, "ROOM_KINDS", ("pink",))
    monkeypatch.setattr(tr, "ROOM_DB", (-50.0, -30.0))
    monkeypatch.setattr(tr, "AFTER_S", 2.0)


def test_a_held_out_fold_and_a_folder_of_folds(small_bundle, cache, tmp_path, short_rooms, capsys):
    """Learned and stored: the model files are the same, the golden window fits, nothing is left beside the bundle."""
    labels = Bundle.load(small_bundle).labels
    data = two_folds(tmp_path / "data", labels)
    held = with_fold(small_bundle, tmp_path / "held", 1)
    everything = with_fold(small_bundle, tmp_path / "all", 0)
    runs = tmp_path / "runs"
    for fold in (1, 2):
        with_fold(small_bundle, runs / f"fold{fold}" / "bundle", fold)
    for folder, extra, n in ((held, [], 4), (everything, ["--folds", str(runs)], 8)):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        learning.main([str(folder), "--data", str(data), "--cache", str(cache), "--unknown", "0.5", *extra])
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert set(before) == set(after)
        changed = {name for name in before if before[name] != after[name]}
        assert {"bundle.json", "golden.npz"} <= changed <= {"bundle.json", "golden.npz", "report.md"}
        for fmt in ("tflite", "onnx"):
            assert Bundle.load(folder, fmt).check() <= 0.02
        bundle, shown = Bundle.load(folder), capsys.readouterr().out
        figures = bundle.provenance["rules"]
        assert figures["recordings"] == n and figures["unknown_target"] == 0.5
        assert bundle.levels.member == "mel" and set(bundle.rules.on) == set(labels)
        assert [m.temperature for m in bundle.members] != [1.0] * 3
        assert "room false alarms per hour" in shown and f"{n} recordings and" in shown
        assert str(tmp_path) not in (folder / "bundle.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "data", "held", "runs"]


def test_what_cannot_be_learned_from_is_refused(small_bundle, sounds, cache, tmp_path):
    labels = Bundle.load(small_bundle).labels
    data = folder_of(tmp_path / "data", labels, 5)
    everything = with_fold(small_bundle, tmp_path / "all", 0)

    def refused(sentence, folder, *extra, data=data):
        before = (folder / "bundle.json").read_bytes()
        with pytest.raises((ValueError, OSError), match=sentence) as caught:
            learning.main([str(folder), "--data", str(data), "--cache", str(cache), *map(str, extra)])
        assert "\n" not in str(caught.value) and (folder / "bundle.json").read_bytes() == before

    refused("was trained on every fold, .* give --folds", everything)
    refused("no bundle of fold 1", everything, "--folds", tmp_path)
    refused("other classes", everything, data=sounds)
    refused("--unknown nan", everything, "--unknown", "nan")
    for k in range(1, 5):
        with_fold(small_bundle, tmp_path / "runs" / f"fold{k}" / "bundle", 2)
    refused("no bundle of fold 5 .* that has finished", everything, "--folds", tmp_path / "runs")
    with_fold(small_bundle, tmp_path / "runs" / "fold5" / "bundle", 5)
    refused("held out fold 2, not 1: it knows", everything, "--folds", tmp_path / "runs")
    refused(
        "held out fold 3, which will judge it",
        with_fold(small_bundle, tmp_path / "held", 3),
        "--folds",
        tmp_path / "runs",
    )
    refused("does not say what its nets were trained on", shutil.copytree(small_bundle, tmp_path / "silent"))
    refused("no fold 9", with_fold(small_bundle, tmp_path / "nine", 9))
    odd = with_fold(small_bundle, tmp_path / "odd", "1")
    refused("different folds", odd)


def test_clips_without_any_sound_do_not_end_it(bundle, tmp_path, short_rooms):
    soundfile.write(tmp_path / "empty.wav", np.zeros(2 * SR), SR)
    (trace, *rooms) = tr.hear(bundle, [Clip(tmp_path / "empty.wav", "bark", 1, "x")], [1], 0)
    assert trace.onset_s == trace.offset_s and len(rooms) == 2
    found = th.peaks([trace, *rooms], bundle, [1.0] * 3)
    assert found.known.shape == (1, 4) and found.room.shape == (2, 4)
