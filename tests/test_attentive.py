"""P0's fusions: each equation against a naive loop, gradients, shared weights, and scenes and tags that are learned."""

import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from tests.conftest import run
from tests.test_layouts import chime
from train import tags
from train.attentive import SHAPES, AttentiveNet, EarlyFusion, LateFusion, similarity
from train.loop import fit
from train.recipe import Recipe
from train.run import load_run
from train.tagging import equal_error_rates

SMALL = {"widths": (4, 6), "n_frames": 12, "n_bands": 8}


def test_similarity_is_the_printed_one():
    rng = np.random.default_rng(0)
    fi, fj = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 7, 4))
    fj[0, 3] = fi[0, 2]
    ours = similarity(torch.from_numpy(fi), torch.from_numpy(fj)).numpy()
    for item in range(2):
        for x in range(5):
            for y in range(7):
                distance = np.sqrt(sum((fi[item, x, k] - fj[item, y, k]) ** 2 for k in range(4)))
                assert ours[item, x, y] == pytest.approx(1 / (1 + distance), abs=1e-12)
    assert ours[0, 2, 3] == 1


def test_early_fusion_is_the_printed_one():
    """F_i^s = W_i S^T, F_j^s = W_j S; of three features each gets the mean of two maps."""
    torch.manual_seed(0)
    n, frames, bands = 3, 6, 4
    fusion = EarlyFusion(n, frames, bands).double()
    x = torch.randn(2, n, frames, bands, dtype=torch.float64)
    ours = fusion(x).detach().numpy()
    np.testing.assert_array_equal(ours[:, :, 0], x.numpy())
    w = fusion.weights.detach().numpy()
    for item in range(2):
        f = x[item].numpy().transpose(0, 2, 1)  # the paper's (bands, frames)
        for i in range(n):
            expected = np.zeros((bands, frames))
            for j in range(n):
                if j != i:
                    s = np.array([[1 / (1 + np.linalg.norm(f[i][:, a] - f[j][:, b])) for b in range(frames)]
                                  for a in range(frames)])  # fmt: skip
                    expected += w[i] @ s.T / (n - 1)  # for the second of a pair S is the other one's, transposed
            np.testing.assert_allclose(ours[item, i, 1].T, expected, atol=1e-12)


def test_late_fusion_is_the_printed_one():
    torch.manual_seed(0)
    fusion = LateFusion(5).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    ours, w = fusion(x).detach().numpy(), fusion.weight.detach().numpy()
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = [
        [sum(x[b, i, m] * w[m, n] * x[b, j, n] for m in range(5) for n in range(5)) for i, j in pairs] for b in range(2)
    ]
    np.testing.assert_allclose(ours, np.array(expected, float), atol=1e-12)


@pytest.mark.parametrize("early, late", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients(early, late):
    torch.manual_seed(0)
    net = AttentiveNet(2, n_features=2, early=early, late=late, widths=(2, 3), n_frames=4, n_bands=4).double().eval()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, x)
    net(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_equal_frames_have_a_gradient():
    """Digital silence in two features: a distance of 0 has no slope, and must not make one up."""
    x = torch.zeros(1, 2, 12, 8, requires_grad=True)
    AttentiveNet(2, n_features=2, **SMALL)(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_convolutions_are_shared():
    """A third feature adds attention and inputs of the last layer, and no convolution; two features swap their places."""
    sizes = [sum(p.numel() for p in AttentiveNet(5, n_features=n, **SMALL).parameters()) for n in (2, 3)]
    assert sizes[1] - sizes[0] == 12 * 8 + (6 + 2) * 5  # W, and one pooled feature and two more pairs for each class
    torch.manual_seed(0)
    net = AttentiveNet(2, n_features=2, early=False, late=False, **SMALL).eval()
    x = torch.randn(3, 2, 12, 8)
    pooled, swapped = (net.pool(net.maps(y)).unflatten(1, (2, -1)) for y in (x, x.flip(1)))
    assert torch.allclose(pooled.flip(1), swapped)


def test_sizes_and_rebuilding():
    """Conv 2 -> 128 -> 256 of 3x3, W of 40 x 128 per feature, one bilinear 256 x 256, FC of 3 * 256 + 3."""
    net = AttentiveNet(10)
    convolutions = 2 * 9 * 128 + 128 + 128 * 9 * 256 + 256
    assert sum(p.numel() for p in net.parameters()) == convolutions + 3 * 40 * 128 + 256**2 + (3 * 256 + 3) * 10 + 10
    small = AttentiveNet(4, **SHAPES["small"]).eval()
    again = AttentiveNet(**json.loads(json.dumps(small.kwargs))).eval()
    again.load_state_dict(small.state_dict())
    x = torch.randn(2, 3, 128, 128)
    assert torch.equal(small(x), again(x))


WHOLE = "is not a whole number from"


@pytest.mark.parametrize(
    "changed, sentence", [
        ({"widths": (3,)}, "is .*want"), ({"widths": (0, 4)}, f"0 {WHOLE} 1"), ({"n_features": 1}, "is 1, want"),
        ({"early": 2}, "is 2, want"), ({"late": "yes"}, "is 'yes', want"), ({"n_frames": 1.5}, f"1.5 {WHOLE} 2"),
        ({"dropout": 1.0}, "is 1.0, want"), ({"n_classes": 0}, f"0 {WHOLE} 1"),
    ],
)  # fmt: skip
def test_senseless_settings_are_named(changed, sentence):
    with pytest.raises(ValueError, match=f"^{next(iter(changed))} {sentence}"):
        AttentiveNet(**{"n_classes": 3} | changed)


def test_tags_are_learned():
    """Three tags, any number of them at once, each one heard in another feature: binary cross entropy to a low EER."""
    torch.manual_seed(0)
    truth = (torch.rand(200, 3) < 0.5).float()
    x = 0.5 * torch.randn(200, 3, 12, 8)
    for tag in range(3):
        x[:, tag, :, 2 * tag : 2 * tag + 2] += truth[:, tag, None, None]
    net = AttentiveNet(3, **SMALL)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(x[:150]), truth[:150]).backward()
        optimizer.step()
    with torch.no_grad():
        logits = net.eval()(x[150:]).numpy()
    before = equal_error_rates(x[150:].mean((2, 3)).numpy() * 0, truth[150:].numpy(), ("a", "b", "c"))
    after = equal_error_rates(logits, truth[150:].numpy(), ("a", "b", "c"))
    assert before["mean"] == 0.5 and after["mean"] < 0.1


def test_tags_train_through_the_one_loop(cache, tmp_path, capsys):
    """CHiME-Home's layout with sounds in it: a hum is TV, pulses of noise are percussive, some chunks hold both or none."""
    root, rng = chime(tmp_path / "chime_home", n_chunks=8), np.random.default_rng(0)
    t = np.arange(3 * 16000) / 16000
    for notes in sorted((root / "chunks").glob("*.csv")):
        heard = "".join(tag for tag in "vp" if rng.random() < 0.5)
        notes.write_text(f"chunknumber,0\nmajorityvote,{heard or 'S'}\n")
        wave = 0.01 * rng.standard_normal(len(t)) + 0.3 * ("v" in heard) * np.sin(2 * np.pi * 200 * t)
        wave += ("p" in heard) * 0.3 * rng.standard_normal(len(t)) * (np.sin(2 * np.pi * 5 * t) > 0.8)
        soundfile.write(notes.with_suffix(".16kHz.wav"), wave, 16000)
    args = ["attentive", "--frontend", "p0_mel", "--frontend", "p0_logmel", "--data", root, "--fold", 0, "--shape", "small",
            "--epochs", 15, "--batch-size", 8, "--lr", 0.02, "--cache", cache, "--out", tmp_path / "run"]  # fmt: skip
    tags.main(list(map(str, args)))
    rates = load_run(tmp_path / "run").meta["scores"]["equal_error_rate"]
    assert (
        rates["video game or TV"] <= 0.1
        and rates["percussive sound"] <= 0.1
        and set(rates) == {*list(rates)[:2], "mean"}
    )
    printed = capsys.readouterr().out
    assert printed.count("equal error rate      -") == 5  # tags that nobody heard
    with pytest.raises(ValueError, match="has no fold 7: choose one of 0, 1, 2, 3, 4, 5"):
        tags.main([str(arg) if arg != 0 else "7" for arg in args])


def test_scenes_train_through_the_one_loop(sounds, cache, tmp_path):
    result = run(
        "train", "attentive", "--shape", "small", "--frontend", "mel", "--planes", "deltas", "--data", sounds,
        "--fold", 2, "--patch-frames", 32, "--epochs", 20, "--batch-size", 4, "--lr", 0.01, "--threads", 1, "--cache", cache,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert load_run(tmp_path / "run").meta["scores"]["last"]["accuracy"] == 1.0


def test_several_labels_have_no_classes_to_balance(small_runs, tmp_path):
    with pytest.raises(ValueError, match="oversample: recordings with several labels"):
        fit(small_runs[0], [], np.zeros((0, 4), np.float32), Recipe(oversample=True), tmp_path)


def test_what_converters_get_is_the_net():
    """Exported, the distances are written out, as no converter knows cdist; equal frames have similarity 1 either way."""
    torch.manual_seed(0)
    net, x = AttentiveNet(4, **SMALL).eval(), torch.randn(2, 3, 12, 8)
    x[:, 1] = x[:, 0]
    exported = torch.export.export(net, (x,))
    assert not any("cdist" in str(node.target) for node in exported.graph.nodes)
    assert torch.allclose(exported.module()(x), net(x), atol=1e-5)
