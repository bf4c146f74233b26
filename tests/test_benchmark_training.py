"""benchmarks.training: what it makes of seconds."""

import pytest

from benchmarks import training


def test_tables_by_hand():
    taken = {("training", "cpu", "full", "float32"): 4.0, ("variations", "cpu", 2): [2.0, 0.5], ("reading",): 0.016}
    made = training.tables(taken, 32)
    assert made["training"][0]["tau_min"] == pytest.approx(13_962 / 8 / 60)
    assert made["variations"] == [
        {"device": "cpu", "workers": 2, "clips_per_s": 16.0, "tau_min": pytest.approx(14.54375), "waiting": 0.25}
    ]
    assert made["reading"][0]["clips_per_s"] == 2000
    words = training.text(made | {"training": made["training"] * 2})
    assert "cpu, 2 workers" in words and "waiting 25%" in words and words.count(" 1.00 ") == 4


def test_waiting_is_counted_until_the_last(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(now)))
    waits = []
    assert list(training.timed(iter("abc"), waits)) == ["a", "b", "c"] and waits == [4.0]


@pytest.mark.parametrize("option", ["--clips", "--threads", "--repeats"])
def test_senseless_arguments_measure_nothing(option):
    with pytest.raises(ValueError, match="or more"):
        training.main([option, "0"])
