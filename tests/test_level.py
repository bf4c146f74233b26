"""runtime.level: the levels of a bundle come back as they were stored, or are refused in one line."""

import json
import shutil

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.frontend import Frontend
from runtime.level import Levels, LevelWatch
from runtime.member import BundleError

BANDS = {"mel": 3, "cqt": 2}
GOOD = {"member": "mel", "low_db": [-80.0, -70, -90], "mid_db": [-60.0, -70, -50], "high_db": [-20.0, -10, 0]}


def test_they_come_back_as_stored():
    levels = Levels.from_json(json.loads(json.dumps(GOOD)), BANDS)
    assert levels.mid_db == (-60.0, -70, -50)
    assert Levels.from_json(json.loads(json.dumps(levels.to_json())), BANDS) == levels


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"member": "gam"}, "'gam' is no member"),
        ({"member": ["mel"]}, "is no member"),
        ({"member": "cqt"}, "no list of 2 numbers"),
        ({"low_db": [-80.0, -70]}, "low_db is no list of 3"),
        ({"low_db": "abc"}, "low_db is no list of 3"),
        ({"mid_db": [float("nan"), -70, -50]}, "mid_db holds nan"),
        ({"mid_db": [True, -70, -50]}, "mid_db holds True"),
        ({"high_db": [10**400, 0, 0]}, "high_db holds"),
        ({"high_db": [-61, -10, 0]}, "rising order"),
        ({"more": 1}, "an object with"),
    ],
)
def test_what_is_no_levels_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Levels.from_json(GOOD | change, BANDS)
    for odd in (None, [], 3, "levels", {}):
        with pytest.raises(ValueError, match="an object with"):
            Levels.from_json(odd, BANDS)


def test_a_bundle_checks_its_levels(small_bundle, tmp_path):
    shutil.copytree(small_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    values = json.loads(path.read_text())
    assert Bundle.load(tmp_path / "bundle").levels is None
    tables = {
        name: (np.linspace(-80, -40, 128) + 20 * i).tolist() for i, name in enumerate(("low_db", "mid_db", "high_db"))
    }
    path.write_text(json.dumps(values | {"levels": {"member": "mel"} | tables}))
    assert Bundle.load(tmp_path / "bundle").levels.high_db == tuple(tables["high_db"])
    path.write_text(json.dumps(values | {"levels": {"member": "mel"} | tables | {"low_db": [0.0]}}))
    with pytest.raises(BundleError, match="low_db is no list of 128"):
        Bundle.load(tmp_path / "bundle")


def watch_of(quietest_db, middle_db, loudest_db):
    tables = (tuple([db] * 3) for db in (quietest_db, middle_db, loudest_db))
    return LevelWatch(Levels("mel", *tables), Frontend("mel", sr=8000, hop_length=800, n_bands=3))


def clips(db, n, rng=None):
    """n times five seconds of 3 bands around db, the loudest twentieth of them at db."""
    rng = rng or np.random.default_rng(0)
    return [np.where(rng.uniform(size=(3, 50)) < 0.1, db, db - 20).astype(np.float32) for _ in range(n)]


@pytest.mark.parametrize("gain_db", [-30, -21, 0, 25])
def test_the_proposed_gain_undoes_a_gain(gain_db):
    watch = watch_of(-60, -40, -20)
    assert watch.gain_db() is None
    for static in clips(-40 + gain_db, 3):
        watch.feed(static)
    assert watch.gain_db() == pytest.approx(-gain_db, abs=0.01)


@pytest.mark.parametrize("gain_db", [-19, -8, 0, 12, 19])
def test_no_gain_is_proposed_within_the_range(gain_db):
    watch = watch_of(-60, -40, -20)
    for static in clips(-40 + gain_db, 3):
        watch.feed(static)
    assert watch.gain_db() == 0


def test_quiet_is_said_once_after_a_minute_and_loud_at_once():
    watch = watch_of(-60, -40, -20)
    said = []
    for static in clips(-70, 20):
        watch.feed(static)
        said.append(watch.warning())
    assert [bool(sentence) for sentence in said] == [False] * 11 + [True] + [False] * 8
    assert "10 dB quieter" in said[11]
    watch.feed(clips(-5, 1)[0])
    assert "15 dB louder" in watch.warning() and not watch.warning()


def test_one_loud_clip_a_minute_is_not_quiet():
    watch = watch_of(-60, -40, -20)
    for number, static in enumerate(clips(-70, 40)):
        watch.feed(static + (20 if number % 10 == 0 else 0))
        assert not watch.warning()
