"""Channels that say nothing can go; importance finds them; what is left is a smaller file."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_model, random_patches, torch_logits

from compress import cnn7, prune
from compress.shapes import Limits, Shape, costs
from train.data import check_heard, load_dataset
from train.run import load_run

WIDTHS = (8, 16, 16, 24, 16, 32)
DC = st.booleans() | st.lists(st.booleans(), min_size=5, max_size=5)


def silence(model, kept):
    """The other channels' output becomes zero, whatever comes in."""
    for block, channels in zip(model.blocks, kept):
        others = np.setdiff1d(np.arange(block.after.num_features), channels)
        block.after.weight.data[others] = 0
        block.after.bias.data[others] = -abs(block.after.bias.data[others])
    return model


def random_kept(rng, decomposed):
    """Some channels of each layer, equally many of each quarter."""
    widths = [width - 4 * int(rng.integers(0, width // 4)) for width in WIDTHS]
    values = [rng.random(width) for width in WIDTHS]
    return prune.strongest(values, widths, decomposed)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(DC, st.integers(0, 99))
def test_removing_silent_channels_changes_nothing(decomposed, seed):
    kept = random_kept(np.random.default_rng(seed), decomposed)
    model, patches = silence(random_model(WIDTHS, decomposed, seed=seed), kept), random_patches(3, 24, 16, seed)
    small = prune.without(model, kept)
    assert small.kwargs["widths"] == [len(channels) for channels in kept]
    large = torch_logits(model, patches)
    assert large.std() > 0.1 and np.abs(torch_logits(small, patches) - large).max() < 1e-5


def test_keeping_every_channel_is_the_same_net():
    model, patches = random_model(WIDTHS, True), random_patches(2, 24, 16)
    small = prune.without(model, [np.arange(width) for width in WIDTHS])
    assert np.array_equal(torch_logits(small, patches), torch_logits(model, patches))


def test_dc_branches_lose_equally():
    """The strongest channels of the first quarter alone would leave three branches without any."""
    values = [np.arange(width)[::-1].astype(float) for width in WIDTHS]
    kept = prune.strongest(values, (4, 8, 8, 8, 8, 16), True)
    for width, channels, small in zip(WIDTHS, kept, (4, 8, 8, 8, 8, 16)):
        quarters = channels // (width // 4)
        assert np.bincount(quarters, minlength=4).tolist() == [small // 4] * 4
        assert list(channels) == sorted(channels)
    free = prune.strongest(values, (4, 8, 8, 8, 8, 16), False)
    assert [list(channels) for channels in free] == [list(range(n)) for n in (4, 8, 8, 8, 8, 16)]
    with pytest.raises(ValueError, match="equally many channels in each quarter"):
        prune.without(random_model(WIDTHS, True), free)


def test_importance_is_the_loss_that_silence_costs_to_first_order():
    """Against the loss itself: each channel's output scaled by 1 - h, for a small h, patch by patch."""
    model, patches = random_model(WIDTHS, [False, True, True, False, True]), random_patches(2, 16, 16)
    targets, h = torch.tensor([1, 4]), 1e-3
    found = prune.importance(model, patches, targets)

    def losses():
        return torch.nn.functional.cross_entropy(
            model.double()(torch.from_numpy(patches).double()), targets, reduction="none"
        )

    with torch.no_grad():
        before = losses()
        for layer in (0, 2, 5):
            after = model.blocks[layer].after
            for channel in range(0, WIDTHS[layer], 3):
                kept = after.weight[channel].clone(), after.bias[channel].clone()
                after.weight[channel] *= 1 - h  # of a BN in front of a ReLU: its output shrinks alike
                after.bias[channel] *= 1 - h
                slope = ((losses() - before) / -h).abs().mean().item()
                after.weight[channel], after.bias[channel] = kept
                assert found[layer][channel] == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_importance_finds_what_says_nothing():
    rng = np.random.default_rng(5)
    kept = random_kept(rng, True)
    model = silence(random_model(WIDTHS, True), kept)
    values = prune.importance(model, random_patches(20, 16, 16), rng.integers(0, 10, 20))
    for channels, width, value in zip(kept, WIDTHS, values):
        assert not value[np.setdiff1d(np.arange(width), channels)].any()
    found = prune.strongest(values, [len(channels) for channels in kept], True)
    patches = random_patches(2, 16, 16, seed=9)
    assert np.abs(torch_logits(prune.without(model, found), patches) - torch_logits(model, patches)).max() < 1e-5


def test_order_paper_is_refused():
    with pytest.raises(ValueError, match="order 'paper' cannot be pruned"):
        prune.without(random_model(WIDTHS, order="paper"), [np.arange(w) for w in WIDTHS])


def test_smaller_shape_keeps_proportions_and_fits(small_runs):
    limits = Limits(11_000)
    mel = small_runs[0]
    large = costs(Shape((4, 8, 8, 8, 12, 16), True), 4)["tflite"]
    with pytest.raises(ValueError, match="fits already"):
        prune.smaller_shape(mel, "mel", limits)
    small = prune.smaller_shape(mel, "mel", Limits(large - 200))
    assert costs(small, 4)["tflite"] < large and small.decomposed is True
    assert all(a <= b for a, b in zip(small.widths, (4, 8, 8, 8, 12, 16)))
    relative = dataclasses.replace(mel, patch=dataclasses.replace(mel.patch, quietest_db=-42.0))
    assert prune.smaller_shape(relative, "mel", Limits(large - 200)).quietest_db == -42
    with pytest.raises(ValueError, match="not even its narrowest form"):
        prune.smaller_shape(mel, "mel", Limits(1000))
    with pytest.raises(ValueError, match="front end or patches are none"):
        prune.smaller_shape(mel, "gam", limits)


def test_a_trained_run_is_pruned_and_trained_on(sounds, cache, tmp_path):
    """The steps of compress.cnn7 --prune-from for one of its nets: a smaller file, a run like any other."""
    dataset = load_dataset(sounds)
    common = ["--data", str(sounds), "--epochs", "1", "--cache", str(cache), "--fold", "2"]
    wide = cnn7.arguments(["--budget", "64kb", *common, "--runs", str(tmp_path / "wide")])
    shape = Shape((4, 8, 16, 16, 16, 24), (True, True, False, True, True), n_bands=64, n_frames=32)
    cnn7.train_member("mel", shape, wide)
    args = cnn7.arguments(["--budget", "32kb", *common, "--prune-from", str(wide.runs), "--runs", str(tmp_path / "b")])
    large = load_run(wide.runs / "mel")
    small_shape = prune.smaller_shape(large, "mel", Limits(costs(shape, 2)["tflite"] - 1500))
    cnn7.train_member("mel", small_shape, args)
    small = load_run(args.runs / "mel")
    assert small.model.kwargs == {**large.model.kwargs, "widths": list(small_shape.widths)}
    assert sum(small_shape.widths) < sum(shape.widths) and small.meta["pruned"]["widths"] == list(shape.widths)
    assert small.meta["scores"]["last"]["n"] == 8 and np.array_equal(small.mean, large.mean)
    others = dataclasses.replace(dataset, labels=("a", "b"))
    fewer = dataclasses.replace(dataset, clips=dataset.clips[1:])
    for told, fold, words in ((others, 2, "other classes"), (dataset, 1, "not fold 1"), (fewer, 2, "as it was then")):
        with pytest.raises(ValueError, match=words):
            prune.check_source(large, wide.runs / "mel", told, fold)
    prune.check_source(large, wide.runs / "mel", dataset, 2)
    assert small.meta["data"] == large.meta["data"]
    args.fold, args.runs = 0, tmp_path / "all"  # it hears what the wide net held out, and says so
    cnn7.train_member("mel", small_shape, args)
    facts = load_run(args.runs / "mel").meta["data"]
    assert (facts["fold"], facts["n_train"], facts["n_test"]) == (0, 16, 0)
    with pytest.raises(ValueError, match="held out fold 0"):
        check_heard(facts, dataset, 2, "it")


def test_pruning_goes_with_no_search():
    with pytest.raises(ValueError, match="--prune-from takes no --teacher and no --search"):
        cnn7.arguments(["--budget", "32kb", "--prune-from", "runs", "--search", "1"])
