"""runtime.score and runtime.labels: what counts as a hit, and tables from strangers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audio import blocks
from runtime.bundle import Bundle
from runtime.decide import Stream
from runtime.events import Detector, Event
from runtime.labels import Label, read_labels, write_labels
from runtime.score import match, score, text
from tests.conftest import noise, run
from tests.test_stream import write_wav


def report(label, at_s):
    return Event(label, at_s, None, at_s, 0.9)


def test_a_stream_counted_by_hand():
    labels = [Label(10, 12, "dog"), Label(20, 30, "rain"), Label(40, 41, "dog"), Label(60, 61, "cat")]
    events = [
        report("dog", 3),  # of nothing
        report("dog", 10),  # a hit, at the onset
        report("dog", 14),  # a hit again: counts once
        report("dog", 14.5),  # too late: nothing is to be heard any more
        report("dog", 25),  # of the wrong class, while it rains
        report("rain", 32),  # a hit, as late as can be
        report("rain", 61),  # the cat is not known to the bundle: wrong all the same
    ]
    matched = match(events, labels, tolerance_s=2)
    assert (matched["hits"], matched["repeats"]) == (2, 1)
    assert matched["delay_s"] == [0, 12]
    assert matched["false_alarms"] == {"dog": 2}
    assert matched["confusion"] == {
        ("dog", "dog"): 1, ("dog", None): 1, ("rain", "rain"): 1, ("rain", "dog"): 1, ("cat", "rain"): 1, ("cat", None): 1
    }  # fmt: skip


def test_two_sounds_of_one_label_need_two_reports():
    labels = [Label(10, 12, "dog"), Label(13, 15, "dog")]  # with the tolerance they overlap
    assert match([report("dog", 14)], labels, 5)["hits"] == 1
    both = match([report("dog", 14), report("dog", 14.5), report("dog", 15)], labels, 5)
    assert both["hits"] == 2 and both["repeats"] == 1 and both["delay_s"] == [4, 1.5]


seconds = st.integers(0, 200).map(lambda n: n / 4)
names = st.sampled_from("abc")
some_labels = st.lists(
    st.builds(lambda t, n, name: Label(t, t + n, name), seconds, seconds.map(lambda n: n + 0.25), names)
)
some_events = st.lists(st.builds(report, names, seconds))


@settings(deadline=None)
@given(some_labels, some_events, seconds)
def test_every_report_and_every_sound_is_counted_once(labels, events, tolerance_s):
    labels = sorted(labels, key=lambda label: label.onset)
    events = sorted(events, key=lambda event: event.at_s)
    m = match(events, labels, tolerance_s)
    wrong = sum(n for (truth, said), n in m["confusion"].items() if said not in (truth, None))
    assert m["hits"] + m["repeats"] + wrong + m["false_alarms"].total() == len(events)
    assert sum(n for (truth, said), n in m["confusion"].items() if said in (truth, None)) == len(labels)
    assert all(delay >= 0 for delay in m["delay_s"])
    hit = {(e.label, label.onset) for e in events for label in labels if e.label == label.event_label
           and label.onset <= e.at_s <= label.offset + tolerance_s}  # fmt: skip
    assert m["hits"] <= len(labels) and (m["hits"] > 0) == bool(hit)


@settings(deadline=None)
@given(some_labels, some_events, seconds)
def test_more_tolerance_never_loses_a_hit(labels, events, tolerance_s):
    labels = sorted(labels, key=lambda label: label.onset)
    events = sorted(events, key=lambda event: event.at_s)
    assert match(events, labels, tolerance_s)["hits"] <= match(events, labels, tolerance_s + 1)["hits"]


def test_the_events_are_those_of_the_stream(small_bundle, tmp_path):
    """Labels laid on what was reported are all hits at no delay, and there are no false alarms."""
    write_wav(tmp_path / "s.wav", noise(20, seed=5))
    bundle = Bundle.load(small_bundle)
    bundle.rules = type(bundle.rules)(dict.fromkeys(bundle.labels, 0.3), dict.fromkeys(bundle.labels, 0.28))
    detector, live = Detector(bundle.labels, bundle.rules), Stream(bundle)
    decisions = [d for block in blocks(tmp_path / "s.wav") for d in live.feed(block)] + live.flush()
    began = [e for d in decisions for e in detector.feed(d) if e.end_s is None]
    assert began
    labels = [Label(e.at_s, e.at_s + 0.5, e.label) for e in began]
    scores = score(bundle, tmp_path / "s.wav", labels)
    assert (scores["hits"], scores["misses"], scores["false_alarms"]) == (len(began), 0, 0)
    assert scores["delay_s"] == {"median": 0, "p90": 0} and scores["tolerance_s"] == bundle.window_s
    assert scores["duration_s"] == 20 and 0 < scores["cpu_per_audio_s"]
    strangers = score(bundle, tmp_path / "s.wav", [Label(label.onset, label.offset, "stranger") for label in labels])
    assert strangers["sounds"] == 0 and strangers["unknown_sounds"] == strangers["wrong_class"] == len(began)
    assert strangers["false_alarms_per_hour"] == pytest.approx(len(began) * 180)
    assert "100.0%" in text(scores) and "median 0.0 s" in text(scores) and "none, from" in text(strangers)


def test_the_command(small_bundle, tmp_path):
    write_wav(tmp_path / "s.wav", noise(8))
    (tmp_path / "s.csv").write_text("onset,offset,event_label\n1,3,bark\n5,6,siren\n")
    command = ("runtime.score", tmp_path / "s.wav", tmp_path / "s.csv", "--bundle", small_bundle, "--hop", 0.5)
    made = run(*command, "--json", "--tolerance", 1)
    assert made.returncode == 0, made.stderr
    scores = json.loads(made.stdout)
    assert (scores["sounds"], scores["unknown_sounds"], scores["hop_s"], scores["tolerance_s"]) == (1, 1, 0.5, 1)
    assert scores["hits"] + scores["misses"] == 1
    shown = run(*command, "--tolerance", 1)
    assert f"hits          {scores['hits']} " in shown.stdout and "duty cycle" in shown.stdout
    (tmp_path / "s.csv").write_text("onset,offset,event_label\n1,300,bark\n")
    late = run(*command)
    assert late.returncode == 1 and late.stderr.count("\n") == 1
    assert "s.csv line 2: offset 300.0 s, but the stream ends at 8.00 s" in late.stderr


@pytest.mark.parametrize(
    "table",
    [
        "onset,offset,event_label\n1,2.5,dog\n0.5,1,cat\n",
        "onset\toffset\tevent_label\r\n1\t2.5\tdog\r\n\r\n0.5\t1\tcat",
        "\ufefffilename,event_label,onset,offset\na.wav,dog,1,2.5\na.wav,cat,0.5,1\n",
        "1\t2.5\tdog\n0.5\t1\tcat\n",  # sed_eval's, without a header
    ],
)
def test_tables_as_they_are_written(tmp_path, table):
    path = tmp_path / "labels.csv"
    path.write_bytes(table.encode())
    assert read_labels(path) == [Label(0.5, 1, "cat"), Label(1, 2.5, "dog")]
    write_labels(path, read_labels(path))
    assert read_labels(path) == [Label(0.5, 1, "cat"), Label(1, 2.5, "dog")]


HEAD = b"onset,offset,event_label\n"
HOSTILE = {
    b"": "line 1",
    HEAD: "lists no sounds",
    b"a,b\n1,2\n": "line 1: ['a', 'b']: wanted the columns",
    HEAD + b"1,2\n": "line 2: 2 values",
    HEAD + b"1,2,dog\nx,2,dog\n": "line 3: 'x' is no number",
    HEAD + b"nan,2,dog\n": "line 2: 'nan' is no number",
    HEAD + b"1,inf,dog\n": "line 2: 'inf' is no number",
    HEAD + b"1,1e999,dog\n": "line 2: '1e999' is no number",
    HEAD + b"-1,2,dog\n": "line 2: onset -1.0 s",
    HEAD + b"2,1,dog\n": "wanted 0 <= onset < offset",
    HEAD + b"1,2,\n": "line 2: a label of 0 characters",
    HEAD + b"1,2," + b"x" * 1000: "line 2: a label of 1000 characters",
    HEAD + b"1,2,\xff\xfe\n": "not UTF-8",
    HEAD + b'1,2,"' + b"x" * 200_000: "no table",
    HEAD + b"1,2,a\n" * 100_001: "lists 100002 sounds",
    HEAD + b"1" * (17 << 20): "larger than 16 MB",
    HEAD + b"1,99,dog\n": "line 2: offset 99.0 s, but the stream ends at 50.00 s",
}


@pytest.mark.parametrize("table", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_tables_end_in_one_line_that_names_the_file(tmp_path, table):
    path = tmp_path / "labels.csv"
    path.write_bytes(table)
    with pytest.raises(ValueError) as caught:
        read_labels(path, 50.0)
    said = str(caught.value)
    assert said.startswith(str(path)) and HOSTILE[table] in said and "\n" not in said and len(said) < 400


def test_random_bytes_are_read_or_refused(tmp_path):
    path, rng = tmp_path / "labels.csv", np.random.default_rng(0)
    start = HEAD + b"1,2,dog\n3.5,4,cat\n"
    n_refused = 0
    for _ in range(300):
        raw = bytearray(start)
        for _ in range(rng.integers(1, 5)):
            raw[rng.integers(len(raw))] = rng.integers(256)
        path.write_bytes(raw)
        try:
            assert all(0 <= label.onset < label.offset < math.inf for label in read_labels(path))
        except ValueError as error:
            n_refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert 50 < n_refused < 300


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"x\.csv is missing"):
        read_labels(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="is no file"):
        read_labels(tmp_path)
