"""Fake quantization in torch computes what the exported integers compute, and training with it moves the exported net."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_model, random_patches

from compress import qat
from export import int8
from export.graph import graph_of
from export.parity import check_int8
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime.bundle import Bundle
from tests.conftest import run
from train.cnn7 import WIDTHS_WIDE
from train.recipe import Recipe


def fake_quantized(widths, decomposed, frames, bands, seed=0):
    graph = graph_of(random_model(widths, decomposed, seed=seed), (3, frames, bands))
    return qat.FakeQuantized(graph, int8.calibrate(graph, random_patches(2, frames, bands, seed)))


@torch.no_grad()
def steps_apart(model, patches):
    """(n, n_classes): fake-quantized logits of torch against the exported net's, in steps of its int8 grid."""
    net = model.deployed()
    exact = int8.dequantize(net, int8.run(net, patches, "float32"))
    return np.abs(model(torch.from_numpy(patches)).numpy() - exact) / net.scales[-1]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 5), min_size=6, max_size=6),
    st.booleans(), st.integers(16, 40), st.integers(16, 40), st.integers(0, 9),
)  # fmt: skip
def test_forward_is_the_exported_arithmetic(quarters, decomposed, frames, bands, seed):
    """Up to rounding: float sums of dequantized numbers may fall on the other side of a half now and then."""
    model = fake_quantized([4 * n for n in quarters], decomposed, frames, bands, seed)
    steps = steps_apart(model, 2 * random_patches(4, frames, bands, seed + 1))
    assert steps.max() < 1.01 and (steps > 0.01).mean() < 0.1


def test_forward_at_the_widths_that_are_deployed():
    steps = steps_apart(fake_quantized(WIDTHS_WIDE, True, 64, 48), random_patches(8, 64, 48, seed=4))
    assert steps.max() < 1.01 and (steps > 0.01).mean() < 0.1


def test_scales_are_the_exported_ones():
    model = fake_quantized((8,) * 6, True, 32, 32)
    with torch.no_grad():
        for weight in model.weights.values():
            weight.mul_(1.3)
    net = model.deployed()
    assert np.array_equal(net.scales, model.scales) and np.array_equal(net.zero_points, model.zero_points)


def test_gradients_are_near_those_of_the_float_net():
    """Straight through the rounding: what is learned points where the unquantized net would go."""
    model, patches = fake_quantized((16,) * 6, True, 32, 32), torch.from_numpy(random_patches(8, 32, 32))
    gradients = {}
    for numbers in ("int8", "float"):
        if numbers == "float":  # a grid so fine that it is none
            model._on_grid = lambda x, number: x.relu() if 0 < number < len(model.graph.ops) else x
            model._pool = lambda x, kernel, number: torch.nn.functional.avg_pool2d(x, kernel)
        model.zero_grad()
        model(patches)[:, 0].mean().backward()
        gradients[numbers] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.cosine_similarity(*gradients.values(), dim=0) > 0.97
    assert ((gradients["int8"] == 0) == (gradients["float"] == 0)).float().mean() > 0.97


def tune(small_runs, folder, epochs):
    small_run = small_runs[0]
    rng = np.random.default_rng(0)
    statics = [rng.normal(-40, 20, (128, 150)).astype(np.float32) for _ in range(4)]
    calibration = small_run.normalise(np.stack([_planes(s) for s in statics])).astype(np.float32)
    recipe = Recipe(epochs=epochs, batch_size=2, lr=2e-2)
    return (
        small_run,
        calibration,
        qat.finetune(small_run, statics, [0, 1, 2, 3], calibration, recipe, folder, say=lambda line: None),
    )


def _planes(static):
    from runtime.patches import deltas, patches

    return patches(deltas(static), 128, 128)[0]


def test_finetune_trains_what_is_exported(small_runs, tmp_path):
    small_run, calibration, tuned = tune(small_runs, tmp_path, 1)
    before = int8.quantize(
        graph := graph_of(small_run.model, calibration.shape[1:]), int8.calibrate(graph, calibration, "mse")
    )
    after = tuned.model.deployed()
    moved = [(a.weight != b.weight).mean() for a, b in zip(before.ops, after.ops) if hasattr(a, "weight")]
    assert np.mean(np.array(moved) > 0) > 0.8  # some branches of so small a net are dead
    check_int8(after, tflite_bytes(after), onnx_bytes(after), calibration[:2])  # raises where an engine disagrees
    assert tuned.meta["qat"]["epochs"] == 1 and "qat" not in small_run.meta


def test_finetune_resumes_to_the_same_numbers(small_runs, tmp_path):
    _, _, straight = tune(small_runs, tmp_path, 1)
    _, _, again = tune(small_runs, tmp_path, 1)  # finished: read back from the checkpoint
    for a, b in zip(straight.model.parameters(), again.model.parameters()):
        assert torch.equal(a, b)


def test_the_recipe_is_asked_for_what_the_training_is():
    assert qat.recipe(3).noise_share == 0.25 and qat.recipe(3, noise_share=0.0).noise_share == 0
    plain = qat.recipe(3, augmented=False)
    assert (plain.mixup_alpha, plain.gain_db, plain.noise_share, plain.mask_bands) == (0, 0, 0, 0)
    assert (plain.epochs, plain.lr, plain.distill) == (3, qat.LR, 1.0)


def test_order_paper_is_refused():
    graph = graph_of(random_model((4,) * 6, order="paper"), (3, 16, 16))
    with pytest.raises(ValueError, match="--shape deployed"):
        qat.FakeQuantized(graph, [])


def test_compress_with_qat_as_typed(sounds, cache, tmp_path):
    """The bundle holds the tuned nets and says so; the runs beside it stay the float nets."""
    args = ["--data", sounds, "--epochs", 1, "--runs", tmp_path / "runs", "--cache", cache, "--out", tmp_path / "b"]
    result = run("compress.cnn7", "--budget", "32kb", "--qat-epochs", 1, *args)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(", int8: epoch 1/1") == 3
    assert Bundle.load(tmp_path / "b", "onnx").check() < 0.02
    provenance = json.loads((tmp_path / "b" / "bundle.json").read_text())["provenance"]
    assert {facts["qat"]["epochs"] for facts in provenance["runs"].values()} == {1}
    assert "qat" not in json.loads((tmp_path / "runs" / "mel" / "meta.json").read_text())
