"""CNN-7 is Table I of P3, and its exported graph is the trained net."""

import json

import numpy as np
import pytest
import torch
from random_nets import random_model, random_patches, torch_logits

from compress.size import paper_parameters
from export.graph import Conv, Graph, Pool, Shift, activations, graph_of, macs, run, shapes
from train.cnn7 import CNN7, WIDTHS_CR, WIDTHS_FULL
from train.decomposed import DecomposedConv2d

SMALL = (8, 12, 8, 16, 12, 16)
MIXED = [False, True, True, False, True]


@pytest.mark.parametrize(
    "widths, decomposed, count", [(WIDTHS_FULL, False, 288_934), (WIDTHS_CR, False, 80_006), (WIDTHS_CR, True, 10_918)]
)
def test_table_i_counts(widths, decomposed, count):
    assert paper_parameters(CNN7(10, widths, decomposed, order="paper")) == count


def test_three_nets_of_the_paper_are_128_kb():
    assert 3 * 4 * paper_parameters(CNN7(10, WIDTHS_CR, True, order="paper")) == 131_016


def test_decomposed_weights_per_channel_pair():
    layer = DecomposedConv2d(64, 32)
    weights = sum(branch.weight.numel() for branch in layer.branches)
    assert weights == 1.0625 * 64 * 32
    assert [tuple(b.weight.shape) for b in layer.branches] == [
        (8, 16, 3, 3),
        (8, 32, 1, 1),
        (8, 32, 1, 1),
        (8, 64, 1, 1),
    ]


def test_decomposed_branches_see_their_channels():
    """A change of the last input channel reaches the second half's branch and the one on all channels, no other."""
    torch.manual_seed(0)
    layer = DecomposedConv2d(8, 16)
    x = torch.randn(1, 8, 5, 6)
    y = x.clone()
    y[:, -1] += 1
    moved = (layer(x) - layer(y)).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False] * 8 + [True] * 8


@pytest.mark.parametrize("bias", [False, True])
def test_decomposed_trains_as_the_ordinary_convolution_that_it_is(bias):
    torch.manual_seed(0)
    layer, x = DecomposedConv2d(16, 24, bias).double(), torch.randn(2, 16, 9, 7, dtype=torch.float64)
    branches, dense = layer.eval()(x), layer.train()(x)
    torch.testing.assert_close(dense, branches)
    of_branches, of_dense = (torch.autograd.grad(y.square().sum(), layer.parameters()) for y in (branches, dense))
    torch.testing.assert_close(of_dense, of_branches)


@pytest.mark.parametrize("order", ["paper", "deploy"])
@pytest.mark.parametrize("decomposed", [False, True, MIXED])
def test_kwargs_rebuild_the_net(order, decomposed):
    model = random_model(SMALL, decomposed, order)
    again = CNN7(**json.loads(json.dumps(model.kwargs))).eval()
    again.load_state_dict(model.state_dict())
    patches = random_patches(2, 33, 20)
    assert np.array_equal(torch_logits(model, patches), torch_logits(again, patches))


def test_dc_is_chosen_per_layer():
    """A mixed net's layers are those of the pure nets; undecomposed neighbours need no widths divisible by 4."""
    mixed = CNN7(10, SMALL, MIXED)
    pure = {dc: CNN7(10, SMALL, dc) for dc in (False, True)}
    for i, dc in enumerate([False, *MIXED]):
        shapes_of = [[tuple(p.shape) for p in net.blocks[i].parameters()] for net in (mixed, pure[dc])]
        assert shapes_of[0] == shapes_of[1]
    assert CNN7(10, (5, 6, 8, 8, 8, 7), [False, False, True, True, False])(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_five_equal_bools_are_the_net_that_one_bool_makes(all_of_them):
    """Runs are known by the JSON of their arguments: what was one bool must stay one."""
    assert CNN7(10, SMALL, [all_of_them] * 5).kwargs == CNN7(10, SMALL, all_of_them).kwargs
    assert CNN7(10, SMALL, all_of_them).kwargs["decomposed"] is all_of_them


@pytest.mark.parametrize("frames, bands", [(128, 128), (101, 67), (200, 40)])
@pytest.mark.parametrize("decomposed", [False, True, MIXED])
@pytest.mark.parametrize("order", ["paper", "deploy"])
def test_graph_equals_torch(order, decomposed, frames, bands):
    model, patches = random_model(WIDTHS_CR, decomposed, order), random_patches(1, frames, bands)
    logits = torch_logits(model, patches)
    difference = np.abs(run(graph_of(model, patches.shape[1:]), patches) - logits).max()
    assert logits.std() > 0.1 and difference < 2e-6


@pytest.mark.parametrize("decomposed", [False, True])
def test_dead_bn_channels_survive_the_fold(decomposed):
    """Training can drive a gamma to zero: the channel is then a constant, border excepted."""
    model, patches = random_model(SMALL, decomposed, "paper"), random_patches(2, 32, 24)
    for block in model.blocks:
        block.before.weight.data[0] = 0
        block.after.weight.data[1] = 0
    assert np.abs(run(graph_of(model, (3, 32, 24)), patches) - torch_logits(model, patches)).max() < 1e-5


def test_folding_a_shift_into_the_bias_would_be_wrong():
    """Why Shift exists: through zero padding the shift misses the border, and the logits notice."""
    model, patches = random_model(SMALL, order="paper"), random_patches(1, 32, 32)
    graph = graph_of(model, (3, 32, 32))
    assert isinstance(graph.ops[0], Shift) and isinstance(graph.ops[1], Conv)
    first, conv = graph.ops[:2]
    folded = Conv(0, conv.weight, conv.bias + conv.weight.sum((2, 3)) @ first.shift, conv.relu)
    layers = Graph(graph.in_shape, graph.ops[:2]), Graph(graph.in_shape, (folded,))
    exact, wrong = (activations(layer, patches)[-1] for layer in layers)
    inside = np.s_[:, :, 1:-1, 1:-1]
    assert np.abs(exact[inside] - wrong[inside]).max() < 1e-5
    assert np.abs(exact - wrong).max() > 0.05


def test_deploy_graph_is_convolutions_and_pools_only():
    graph = graph_of(random_model(SMALL), (3, 128, 200))
    assert [type(op) for op in graph.ops] == [Conv, Conv, Pool, Conv, Conv, Pool, Conv, Pool, Conv, Pool, Conv]
    assert shapes(graph)[-2:] == [(16, 1, 1), (10, 1, 1)]
    assert graph.ops[-2].kernel == (16, 25)


def test_macs_of_the_published_net():
    """9 x 3 x 32 x 128^2 + 9 x 32 x 32 x 128^2 + ..., by hand."""
    per_pixel = 9 * np.array([3 * 32, 32 * 32, 32 * 64, 64 * 64, 64 * 128, 128 * 128])
    pixels = np.array([128, 128, 64, 64, 32, 16]) ** 2
    graph = graph_of(CNN7(10).eval(), (3, 128, 128))
    assert macs(graph) == (per_pixel * pixels).sum() + 1280


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"n_classes": 0}, "n_classes is 0"),
        ({"widths": (8, 8, 8)}, "six convolutions"),
        ({"widths": (8, 8, 8, 8, 8, 0)}, "at least 1"),
        ({"widths": (8, 8, 8, 8, 8, 8.0)}, "whole numbers"),
        ({"widths": (8, 8, 8, 8, 8, 6), "decomposed": True}, "divisible by 4"),
        ({"order": "printed"}, "'paper' or 'deploy'"),
        ({"dropout": 1}, "probability"),
        ({"decomposed": "no"}, "True or False"),
        ({"decomposed": 1}, "True or False"),
        ({"decomposed": [True] * 6}, "five of them"),
        ({"decomposed": [True, False, True, 0, True]}, "five of them"),
        ({"widths": (8, 8, 8, 8, 8, 6), "decomposed": [False] * 4 + [True]}, "divisible by 4"),
        ({"widths": (6, 8, 8, 8, 8, 8), "decomposed": [True] + [False] * 4}, "divisible by 4"),
    ],
)
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        CNN7(**{"n_classes": 10, **kwargs})


def test_graph_refuses_training_mode_and_other_shapes():
    with pytest.raises(ValueError, match="eval"):
        graph_of(CNN7(10, SMALL), (3, 32, 32))
    with pytest.raises(ValueError, match=r"the net wants \(n, 3, 32, 32\)"):
        run(graph_of(random_model(SMALL), (3, 32, 32)), np.zeros((1, 3, 32, 31), np.float32))
