"""Fitting a graph for int8 changes nothing in float but the last biases, and brings int8 nearer to it."""

import numpy as np
import pytest
from random_nets import random_model, random_patches

from export import int8
from export.equalize import LOGITS_ROOM, MAX_FACTOR, bias_corrected, equalize, fit_for_int8
from export.graph import Concat, Conv, Graph, Pool, activations, graph_of, run

N, SIDE = 8, 16  # channels; frames and bands


def uneven():
    """Eight channels, the quietest a tenth of the loudest, each as important as the next; pooled, then classified."""
    rng = np.random.default_rng(0)
    gain = np.geomspace(0.1, 1, N).astype(np.float32)
    first = Conv(0, np.diag(gain)[:, :, None, None], np.zeros(N, np.float32), relu=True)
    weight = (rng.standard_normal((4, N)) / gain).astype(np.float32)
    last = Conv(2, weight[:, :, None, None], rng.standard_normal(4).astype(np.float32), relu=False)
    return Graph((N, SIDE, SIDE), (first, Pool(1, (SIDE, SIDE)), last))


def peaky(n, seed):
    """(n, N, SIDE, SIDE): rare peaks of 1, as behind a ReLU; what is pooled is a hundredth to a fifth of them."""
    rng = np.random.default_rng(seed)
    return (rng.random((n, N, SIDE, SIDE)) < rng.uniform(0.01, 0.2, (n, N, 1, 1))).astype(np.float32)


def errors(graph, ranges, patches):
    """(n, classes): int8 logits against those of the float net as it was."""
    net = int8.quantize(graph, ranges)
    return int8.dequantize(net, int8.run(net, patches)) - run(uneven(), patches)


@pytest.mark.parametrize("decomposed", [False, True])
def test_equalized_is_the_same_net_with_equal_peaks(decomposed):
    graph, patches = graph_of(random_model((8, 12, 8, 16, 12, 16), decomposed), (3, 32, 24)), random_patches(6, 32, 24)
    again = equalize(graph, patches)
    logits = run(graph, patches)
    assert np.abs(run(again, patches) - logits).max() < 1e-5 * np.abs(logits).max()
    pooled = graph.ops[-2].src
    assert isinstance(graph.ops[pooled - 1], Concat) == decomposed
    before, after = (activations(g, patches)[pooled].max((0, 2, 3)) for g in (graph, again))
    wanted = np.minimum(before * MAX_FACTOR, before.max())
    assert before.max() > 2 * np.median(before) and np.allclose(after, wanted, rtol=1e-5)


def test_each_cure_brings_int8_nearer_to_float():
    graph, seen, unseen = uneven(), peaky(64, 0), peaky(64, 1)
    level = equalize(graph, seen)
    ranges = {name: int8.calibrate(g, seen, clip="mse") for name, g in (("plain", graph), ("level", level))}
    plain, equalized = (errors(g, ranges[name], unseen).std() for name, g in (("plain", graph), ("level", level)))
    assert equalized < 0.7 * plain
    assert errors(*fit_for_int8(graph, seen), unseen).std() < 0.8 * plain  # the logits' room costs some of it


def test_corrected_biases_take_the_mean_error_away():
    graph, patches = uneven(), peaky(64, 0)
    ranges = int8.calibrate(graph, patches, clip="mse")
    plain = np.abs(errors(graph, ranges, patches).mean(0)).max()
    assert np.abs(errors(bias_corrected(graph, ranges, patches), ranges, patches).mean(0)).max() < 0.5 * plain


def test_logits_beyond_the_calibration_are_not_clamped():
    graph, patches = uneven(), peaky(64, 0)
    _, _, _, (low, high) = int8.calibrate(graph, patches, clip="mse")
    _, (*_, room) = fit_for_int8(graph, patches)
    assert room == pytest.approx((LOGITS_ROOM * low, LOGITS_ROOM * high), rel=1e-5)


def test_silent_channels_and_dead_layers_stay():
    graph, patches = uneven(), peaky(4, 0)
    patches[:, 2] = 0
    again = equalize(graph, patches)
    assert again.ops[0].weight[2, 2] == graph.ops[0].weight[2, 2]
    dead = equalize(graph, 0 * patches)
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(graph.ops, dead.ops) if hasattr(a, "weight"))
