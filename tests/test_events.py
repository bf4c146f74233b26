"""runtime.events and runtime.rules: properties of the events that any decisions give, and rules from strangers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decide import Decision
from runtime.events import Detector
from runtime.rules import Rules

LABELS = ("a", "b", "c")
HOP_S = 0.5

p = st.floats(0, 1)
scores = st.lists(st.tuples(p, p, p, st.sampled_from([False, False, False, True])), max_size=40)
seconds = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3])


@st.composite
def some_rules(draw):
    on = {label: draw(p) for label in draw(st.sets(st.sampled_from(LABELS)))}
    off = {label: draw(st.floats(0, value)) for label, value in on.items()}
    return Rules(on, off, draw(seconds), draw(seconds), draw(seconds))


def decisions(rows):
    """(p of a, b, c, silent) per hop -> Decisions."""
    out = []
    for i, (*values, silent) in enumerate(rows, start=1):
        named = dict(zip(LABELS, values))
        best = max(named, key=named.get)
        out.append(Decision(max(0, i * HOP_S - 5), i * HOP_S, best, named[best], named, {}, silent))
    return out


def heard(rules, rows):
    """-> all events, flush included."""
    detector = Detector(LABELS, rules)
    events = [event for decision in decisions(rows) for event in detector.feed(decision)]
    return events + detector.flush()


def naive_means(rows, smooth_s):
    """Per decision, per label: the plain mean over the last smooth_s seconds, silent decisions as 0."""
    means = []
    for i in range(len(rows)):
        n = next(n for n in range(1, i + 2) if n == i + 1 or n * HOP_S >= smooth_s)
        recent = rows[i + 1 - n : i + 1]
        means.append([sum(0 if row[3] else row[k] for row in recent) / n for k in range(3)])
    return means


@settings(deadline=None)
@given(some_rules(), scores)
def test_every_event_begins_once_and_ends_once(rules, rows):
    """...without overlap of one class, its end after its start, at its cooldown's distance from the one before."""
    for label in LABELS:
        events = [event for event in heard(rules, rows) if event.label == label]
        assert label in rules.on or not events
        begins, ends = events[::2], events[1::2]
        assert len(begins) == len(ends)
        for begin, end in zip(begins, ends):
            assert begin.end_s is None and end.end_s is not None
            assert begin.start_s == end.start_s <= begin.at_s <= end.at_s == end.end_s
            assert begin.at_s - begin.start_s >= rules.min_s and end.p >= begin.p >= rules.on[label]
        for end, begin in zip(ends, begins[1:]):
            assert begin.start_s - end.end_s >= rules.cooldown_s and begin.start_s > end.end_s


@settings(deadline=None)
@given(some_rules(), scores)
def test_a_class_is_on_from_on_until_below_off(rules, rows):
    """Against the rule written down for the whole recording at once; duration and cooldown have tests of their own."""
    rules = Rules(rules.on, rules.off, rules.smooth_s)
    means = naive_means(rows, rules.smooth_s)
    wanted = []
    for k, label in enumerate(LABELS):
        if label not in rules.on:
            continue
        start = None
        for i, values in enumerate(means, start=1):
            if start is None and values[k] >= rules.on[label]:
                start = i * HOP_S
            elif start is not None and values[k] < rules.off[label]:
                wanted.append((label, start, i * HOP_S))
                start = None
        if start is not None:
            wanted.append((label, start, len(rows) * HOP_S))
    found = [(event.label, event.start_s, event.end_s) for event in heard(rules, rows) if event.end_s is not None]
    # a mean that lies on a threshold may fall on either side of it, by the order of its sum
    near = any(abs(v - t) < 1e-9 for row in means for v in row for t in (*rules.on.values(), *rules.off.values()))
    assert near or sorted(found) == sorted(wanted)


@settings(deadline=None)
@given(scores)
def test_a_longer_min_s_only_drops_events(rows):
    on = dict.fromkeys(LABELS, 0.5)
    spans = []
    for min_s in (0.0, 0.5, 1.5):
        events = heard(Rules(on, on, min_s=min_s), rows)
        spans.append({(e.label, e.start_s, e.end_s) for e in events if e.end_s is not None})
    assert spans[2] <= spans[1] <= spans[0]
    last_s = len(rows) * HOP_S
    assert all(end - start >= 1.5 or end == last_s for _, start, end in spans[2])


def steady(*values):
    """A class at these probabilities, others at 0."""
    return [(v, 0, 0, False) for v in values]


def test_hysteresis_holds_one_event_through_a_dip():
    rules = Rules({"a": 0.8}, {"a": 0.4})
    events = heard(rules, steady(0.7, 0.9, 0.5, 0.4, 0.85, 0.39, 0.7))
    assert [(e.start_s, e.end_s) for e in events] == [(1.0, None), (1.0, 3.0)]
    assert events[1].p == 0.9
    assert len(heard(Rules({"a": 0.8}, {"a": 0.8}), steady(0.7, 0.9, 0.5, 0.4, 0.85, 0.39, 0.7))) == 4


def test_min_s_reports_late_and_dates_back():
    events = heard(Rules({"a": 0.5}, {"a": 0.5}, min_s=1), steady(0.6, 0.6, 0.1, 0.6, 0.6, 0.6, 0.6, 0))
    assert [(e.start_s, e.at_s, e.end_s) for e in events] == [(2.0, 3.0, None), (2.0, 4.0, 4.0)]


def test_cooldown_keeps_a_class_silent():
    events = heard(Rules({"a": 0.5}, {"a": 0.5}, cooldown_s=2), steady(1, 0, 1, 1, 1, 1, 1, 0))
    assert [e.start_s for e in events if e.end_s is None] == [0.5, 3.0]


def test_silence_ends_events_whatever_the_nets_say():
    rows = [(0.9, 0, 0, False)] * 2 + [(0.9, 0, 0, True)] * 3
    assert [(e.start_s, e.end_s) for e in heard(Rules({"a": 0.5}, {"a": 0.3}), rows)] == [(0.5, None), (0.5, 1.5)]
    assert not heard(Rules({"a": 0.5}, {"a": 0.3}), [(1, 1, 1, True)] * 5)


def test_silence_counts_as_nothing_in_the_mean():
    rows = [(0.9, 0, 0, False), (0.9, 0, 0, True), (0.9, 0, 0, False), (0.9, 0, 0, False)]
    events = heard(Rules({"a": 0.5}, {"a": 0.5}, smooth_s=1), rows)  # means 0.9, 0.45, 0.45, 0.9
    assert [(e.start_s, e.end_s) for e in events] == [(0.5, None), (0.5, 1.0), (2.0, None), (2.0, 2.0)]


def test_heard_lists_what_lasts_the_surest_first():
    detector = Detector(LABELS, Rules(dict.fromkeys(LABELS, 0.3), dict.fromkeys(LABELS, 0.2)))
    first, second = decisions([(0.3, 0.5, 0.1, False), (0.1, 0.5, 0.1, False)])
    assert detector.heard == []
    detector.feed(first)
    assert detector.heard == ["b", "a"]
    detector.feed(second)
    assert detector.heard == ["b"]
    detector.reset()
    assert detector.heard == [] and detector.flush() == []


@settings(deadline=None)
@given(some_rules(), scores)
def test_after_flush_and_reset_everything_starts_anew(rules, rows):
    detector = Detector(LABELS, rules)
    once = [e for d in decisions(rows) for e in detector.feed(d)] + detector.flush()
    again = [e for d in decisions(rows) for e in detector.feed(d)] + detector.flush()
    assert once == again


@settings(deadline=None)
@given(some_rules(), scores)
def test_an_event_is_one_line_of_json(rules, rows):
    for event in heard(rules, rows):
        line = event.to_json()
        values = json.loads(line)
        assert "\n" not in line and values["label"] == event.label and values["end_s"] == event.end_s


@given(some_rules())
def test_rules_come_back_as_stored(rules):
    assert Rules.from_json(json.loads(json.dumps(rules.to_json())), LABELS) == rules


GOOD = {"on": {"a": 0.5}, "off": {"a": 0.4}}
HOSTILE = [
    (None, "an object with on, off"),
    ([], "an object with on, off"),
    ({"on": {}}, "an object with on, off"),
    (GOOD | {"bonus": 1}, "an object with on, off"),
    (GOOD | {"on": []}, "on and off are objects"),
    (GOOD | {"off": None}, "on and off are objects"),
    ({"on": {"dog": 0.5}, "off": {"dog": 0.4}}, "'dog' is no label"),
    (GOOD | {"off": {}}, "do not name the same labels"),
    (GOOD | {"off": {"b": 0.4}}, "do not name the same labels"),
    (GOOD | {"off": {"a": 0.6}}, "wanted 0 <= off <= on <= 1"),
    (GOOD | {"on": {"a": 1.1}}, "wanted 0 <= off <= on <= 1"),
    (GOOD | {"on": {"a": float("nan")}}, "wanted 0 <= off <= on <= 1"),
    (GOOD | {"on": {"a": True}}, "wanted 0 <= off <= on <= 1"),
    (GOOD | {"on": {"a": "0.5"}}, "wanted 0 <= off <= on <= 1"),
    (GOOD | {"off": {"a": -0.1}}, "wanted 0 <= off <= on <= 1"),
    (GOOD | {"smooth_s": -1}, "smooth_s -1"),
    (GOOD | {"min_s": float("inf")}, "min_s inf"),
    (GOOD | {"cooldown_s": 10**400}, "cooldown_s 1000"),
    (GOOD | {"min_s": None}, "min_s None"),
    (GOOD | {"smooth_s": False}, "smooth_s False"),
]


@pytest.mark.parametrize("values, sentence", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_rules_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        Rules.from_json(values, LABELS)
    assert "\n" not in str(caught.value)
