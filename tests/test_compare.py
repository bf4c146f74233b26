"""Trainings beside each other: seeds, pairs, calibration."""

import numpy as np
import pytest

from compress.compare import CALIBRATED, PROD, _row, columns

TRUTH = np.repeat([0, 1], 40)
FOLDS = np.tile([1, 2], 40)


def told(seed, sureness=(2.0, 2.0)):
    """{form: {net: (80, 2) log probabilities}}: nets that are right more often than not, and as sure as said."""
    rng = np.random.default_rng(seed)
    out = {}
    for form in ("float", "int8"):
        out[form] = {}
        for net, factor in zip(("mel", "gam"), sureness):
            margin = factor * (rng.normal(1.0, 1.0, 80) * np.where(TRUTH, 1, -1))
            out[form][net] = -np.logaddexp(0, np.stack([margin, -margin], axis=1))
    return out


def test_seeds_count_by_their_mean():
    one, other = columns([told(0)], TRUTH, FOLDS), columns([told(1)], TRUTH, FOLDS)
    both = columns([told(0), told(1)], TRUTH, FOLDS)
    for form in ("float", "int8"):
        for net in ("mel", "gam", PROD, CALIBRATED):
            pair = one[form][net], other[form][net]
            assert both[form][net].hits == pytest.approx(np.mean([p.hits for p in pair], axis=0))
            assert both[form][net].by_seed == tuple(p.hits.mean() for p in pair)
    assert one["int8"][PROD].hits.mean() > one["int8"]["mel"].hits.mean()  # two independent nets


def test_calibration_corrects_nets_that_are_too_sure():
    nets = columns([told(0, sureness=(20.0, 2.0))], TRUTH, FOLDS)["int8"]
    assert nets[CALIBRATED].losses.mean() < nets[PROD].losses.mean() / 2


def test_difference_of_two_rows_is_taken_clip_by_clip():
    right, wrong = np.log([[0.9, 0.1]]), np.log([[0.2, 0.8]])
    one, other = ([{form: {"mel": np.repeat(p, 2, axis=0)} for form in ("float", "int8")}] for p in (right, wrong))
    nets = [columns(seeds, np.array([0, 1]), np.array([1, 2]))["int8"]["mel"] for seeds in (one, other)]
    difference = nets[0].less(nets[1])
    assert difference.hits.tolist() == [1, -1]  # right where the other is wrong, and the other way round
    assert difference.losses == pytest.approx([np.log(0.2 / 0.9), np.log(0.8 / 0.1)])


def test_nothing_is_calibrated_where_one_fold_is_published():
    assert CALIBRATED not in columns([told(0)], TRUTH, np.ones(80, int))["int8"]


def test_rows_name_a_folder_and_perhaps_bundles():
    assert [str(part) for part in _row("a=runs/x")] == ["a", "runs/x", "bundle"]
    assert [str(part) for part in _row("a b=runs/x:bundle-qat")] == ["a b", "runs/x", "bundle-qat"]
    for wrong in ("runs/x", "=x", "a="):
        with pytest.raises(Exception, match="give NAME=RUNS"):
            _row(wrong)
