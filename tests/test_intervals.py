"""Bootstrap intervals against scipy and closed forms; weights of a product; both over trained runs as typed."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.conftest import run
from train import fuse, scores
from train.__main__ import main
from train.data import load_dataset


def test_bootstrap_is_scipys_where_every_clip_is_its_own_recording():
    rng = np.random.default_rng(0)
    for values in ((rng.random(200) < 0.85).astype(float), rng.normal(0.3, 2, 150)):
        low, high = scores.bootstrap(values, np.arange(len(values)))
        theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1)
        width = high - low
        assert low == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
        assert high == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_bootstrap_of_recordings_by_hand():
    """Three recordings, of 1, 2 and 3 clips: all 27 draws of three, each mean over the clips drawn."""
    values, groups = np.array([1.0, 0, 0, 1, 1, 1]), ["a", "b", "b", "c", "c", "c"]
    total, n = {"a": 1, "b": 0, "c": 3}, {"a": 1, "b": 2, "c": 3}
    draws = [(i, j, k) for i in "abc" for j in "abc" for k in "abc"]
    means = [sum(total[g] for g in draw) / sum(n[g] for g in draw) for draw in draws]
    for level in (0.5, 0.8):
        low, high = scores.bootstrap(values, groups, level)
        exact = np.percentile(np.repeat(means, 1000), [50 * (1 - level), 50 * (1 + level)])
        assert (low, high) == pytest.approx(tuple(exact))


def test_takes_of_one_recording_are_no_more_evidence():
    """Each recording cut into 4 clips that succeed together: the interval of the 100, twice as wide as that of 400."""
    rng = np.random.default_rng(0)
    hits = (rng.random(100) < 0.8).astype(float)
    takes, names = np.repeat(hits, 4), np.repeat(np.arange(100), 4)
    low, high = scores.bootstrap(takes, names)
    assert (low, high) == scores.bootstrap(hits, np.arange(100))
    naive = scores.bootstrap(takes, np.arange(400))
    assert (high - low) / (naive[1] - naive[0]) == pytest.approx(2, rel=0.05)
    closed = 2 * 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 100)
    assert high - low == pytest.approx(closed, rel=0.05)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = scores.bootstrap(rng.random(200) < 0.7, np.arange(200), n_resamples=500)
        held += low <= 0.7 <= high
    assert 0.92 <= held / 300 <= 0.98


def test_a_paired_difference_is_narrower_than_two_accuracies():
    """Two nets that agree on all but 10 of 300 clips: eight won, two lost."""
    rng = np.random.default_rng(0)
    truth, hits = np.zeros(300, int), rng.random(300) < 0.8
    other = hits.copy()
    changed = np.concatenate([np.flatnonzero(~hits)[:8], np.flatnonzero(hits)[:2]])
    other[changed] ^= True

    def log_p(right):
        return np.log(np.where(right[:, None], [[0.9, 0.1]], [[0.2, 0.8]]))

    row = scores.difference(truth, log_p(other), log_p(hits), np.arange(300))
    assert row["accuracy"] == pytest.approx(6 / 300)
    assert row["log_loss"] == pytest.approx(-6 / 300 * np.log(0.9 / 0.2))
    low, high = row["accuracy_interval"]
    spread = 1.96 * np.sqrt((10 / 300 - (6 / 300) ** 2) / 300)  # of a mean of +1, 0, -1
    assert (low, high) == pytest.approx((6 / 300 - spread, 6 / 300 + spread), abs=0.004)
    single = scores.intervals(truth, log_p(hits), np.arange(300))["accuracy"]
    assert single[1] - single[0] > 1.5 * (high - low)
    assert "+2.0 points of accuracy" in scores.difference_text(row)


def test_senseless_groups():
    assert np.isnan(scores.bootstrap([1, 0, 1], ["x"] * 3)).all()
    with pytest.raises(ValueError, match="2 values and 3 groups"):
        scores.bootstrap([1, 0], ["a", "b", "c"])


def test_weights_of_a_product_are_those_that_made_it():
    """Labels drawn from p1^0.7 p2^0.2: the weights come back, and a net of noise gets none."""
    rng = np.random.default_rng(0)
    n, weights = 20_000, np.array([0.7, 0.2, 0.0])
    log_p = np.log(rng.dirichlet([1] * 4, size=(3, n)))
    p = np.exp(fuse.weighted_product(log_p, weights))
    truth = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    assert fuse.fit_weights(truth, log_p) == pytest.approx(weights, abs=0.04)


def test_weights_are_never_fitted_on_the_clips_they_fuse():
    """In fold 1 only the first net knows, in fold 2 only the second: out of fold, both trust the wrong one."""
    rng = np.random.default_rng(0)
    truth, folds = rng.integers(0, 2, 400), np.repeat([1, 2], 200)
    known = np.where(truth[:, None] == np.arange(2), 0.8, 0.2)
    lost = rng.dirichlet([5, 5], size=400)
    log_p = np.log(np.stack([np.where(folds[:, None] == k, known, lost) for k in (1, 2)]))
    out_of_fold = scores.accuracy_and_loss(truth, fuse.weighted_out_of_fold(truth, log_p, folds))
    fitted_on_itself = fuse.weighted_product(log_p, fuse.fit_weights(truth, log_p))
    assert out_of_fold["accuracy"] < 0.6 < 0.9 < scores.accuracy_and_loss(truth, fitted_on_itself)["accuracy"]


@pytest.fixture(scope="module")
def folds_of_two(sounds, cache, tmp_path_factory):
    """A tiny net on two spectrograms, two folds, one epoch."""
    root = tmp_path_factory.mktemp("folds")
    for spectrogram in ("p1_logmel", "p1_gam"):
        for fold in ("1", "2"):
            main([
                "cdnn", "--shape", "small", "--frontend", spectrogram, "--data", str(sounds), "--cache", str(cache),
                "--hop-length", "1120", "--patch-frames", "16", "--stride", "16", "--epochs", "1", "--batch-size", "4",
                "--fold", fold, "--out", str(root / f"{spectrogram}-{fold}"),
            ])  # fmt: skip
    return root


def test_intervals_where_runs_are_compared(folds_of_two, sounds, cache, tmp_path):
    runs = sorted(folds_of_two.iterdir())
    result = run("train.fuse", *runs, "--json", tmp_path / "f.json")
    assert result.returncode == 0, result.stderr
    ((_, rows),) = json.loads((tmp_path / "f.json").read_text()).items()
    assert len(rows) == 3 and "weighted Prod" in result.stdout and "over 16 recordings" in result.stdout
    against = rows[-1]["against_best_single"]
    assert against["prod"] == rows[-1]["prod"] and len(rows[-1]["weights"]) == 2
    low, high = against["difference"]["accuracy_interval"]
    assert low <= against["difference"]["accuracy"] <= high
    result = run("train.compare", *runs, "--json", tmp_path / "c.json")
    assert result.returncode == 0, result.stderr
    best, other = json.loads((tmp_path / "c.json").read_text())
    assert best["to_best"]["accuracy_interval"] == [0, 0] and best["interval"]["accuracy"][0] <= best["accuracy"]
    assert other["to_best"]["accuracy"] == pytest.approx(other["accuracy"] - best["accuracy"])


def test_runs_of_before_are_scored_again_with_their_data(folds_of_two, sounds, cache, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    source = folds_of_two / "p1_gam-1"
    for name in ("meta.json", "model.safetensors"):
        (old / name).write_bytes((source / name).read_bytes())
    with pytest.raises(ValueError, match=r"holds no predictions\.npz"):
        fuse.load_results([old])
    (again,) = fuse.load_results([old], load_dataset(sounds), cache)
    (kept,) = fuse.load_results([source])
    assert again.clips == kept.clips and again.groups == kept.groups
    assert np.abs(again.log_p - kept.log_p).max() < 1e-6
    meta = json.loads((old / "meta.json").read_text())
    meta["data"]["name"] = "other"
    (old / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="was trained on other, not on sounds"):
        fuse.load_results([old], load_dataset(sounds), cache)


def test_predictions_without_groups_count_clip_by_clip(folds_of_two, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("meta.json", "model.safetensors"):
        (old / name).write_bytes((folds_of_two / "p1_gam-1" / name).read_bytes())
    clips, truth, log_p = scores.load_predictions(folds_of_two / "p1_gam-1")
    with open(old / scores.PREDICTIONS, "wb") as file:
        np.savez(file, clips=np.array(clips), truth=truth, log_p=log_p)
    results = fuse.load_results([old, folds_of_two / "p1_logmel-1"])
    ((_, (row, known)),) = fuse.comparisons(results).items()
    assert not known and row["groups"] == 8 and "--data PATH" in fuse.against_text(row, known)
