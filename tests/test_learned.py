"""P4's filterbank and relevance weighting: each equation against a naive loop, gradients, physics, and a net that trains."""

import json

import numpy as np
import pytest
import torch

from runtime.filterbanks import hz_to_mel
from runtime.frontend import spectrogram
from runtime.papers import PAPERS
from tests.conftest import noise, run
from train import augment, centres, features
from train.__main__ import main
from train.features import PatchShape
from train.items import patches
from train.learned import BANKS, CosineGaussian, Mel, Sinc, band_energies
from train.recipe import Recipe
from train.relevance import SHAPES, SMALL_FRAMES, LearnedNet, Relevance, Weighting, head_bands
from train.run import load_run
from train.systems import SYSTEMS


def test_band_energies_are_convolution_square_and_mean():
    rng = np.random.default_rng(0)
    frames, kernels = rng.standard_normal((3, 50)), rng.standard_normal((4, 17))
    expected = np.zeros((3, 4))
    for i, frame in enumerate(frames):
        for j, kernel in enumerate(kernels):
            for n in range(50 + 17 - 1):
                value = sum(kernel[k] * frame[n - k] for k in range(17) if 0 <= n - k < 50)
                expected[i, j] += value**2 / 50
    ours = band_energies(torch.from_numpy(frames), torch.from_numpy(kernels)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_cosine_gaussian_is_the_printed_one():
    bank = CosineGaussian(80, 44100).double()
    with torch.no_grad():
        bank.shift.copy_(torch.linspace(-0.3, 0.4, 80))
    kernels = bank.kernels().detach().numpy()
    assert kernels.shape == (80, 705)  # 16 ms
    for i, mu in enumerate(bank.mu().tolist()):
        for n in (-352, -100, -1, 0, 1, 7, 352):
            printed = np.cos(2 * np.pi * mu * n) * np.exp(-(n**2) * mu**2 / 2)
            assert kernels[i, n + 352] == pytest.approx(printed, abs=1e-12)


def test_sinc_is_the_difference_of_two_low_passes():
    bank = Sinc(10, 16000).double()
    f1, f2 = (f.tolist() for f in bank.edges())
    kernels = bank.kernels().detach().numpy()
    hamming = np.hamming(257)
    for i in range(10):
        for n in (-128, -3, 0, 5, 128):
            low, high = ((2 * f if n == 0 else np.sin(2 * np.pi * f * n) / (np.pi * n)) for f in (f1[i], f2[i]))
            assert kernels[i, n + 128] == pytest.approx((high - low) * hamming[n + 128], abs=1e-7)


@pytest.mark.parametrize("sr", [16000, 44100])
def test_banks_start_on_the_mel_scale(sr):
    steps = np.diff(hz_to_mel(CosineGaussian(80, sr).centers_hz()))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert abs(hz_to_mel(Sinc(80, sr).centers_hz()) - hz_to_mel(Mel(80, sr).centers_hz()))[2:].max() < steps[0]


@pytest.mark.parametrize("bank", BANKS)
def test_a_tone_is_loudest_in_its_band(bank):
    bank = BANKS[bank](40, 16000).requires_grad_(False)
    centers = bank.centers_hz()
    for i in (12, 20, 30, 37):
        tone = torch.sin(2 * torch.pi * centers[i] / 16000 * torch.arange(1024))
        level = bank(0.5 * tone)
        # P4's Gaussians narrow in time as they rise, so a higher filter passes more: the tone against white noise
        flat = bank(torch.from_numpy(np.random.default_rng(0).standard_normal((200, 1024))).float()).mean(0)
        assert abs(int((level - flat).argmax()) - i) <= 1
        assert float((bank(tone) - level)[i]) == pytest.approx(6.0206, abs=1e-3)  # twice as loud


@pytest.mark.parametrize("bank", BANKS)
def test_silence_is_finite_and_has_a_gradient(bank):
    bank = BANKS[bank](8, 16000)
    level = bank(torch.zeros(2, 512))
    assert (level == -100).all()
    if list(bank.parameters()):
        level.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in bank.parameters())


@pytest.mark.parametrize("kind", [CosineGaussian, Sinc])
def test_gradients_of_the_banks(kind):
    bank = kind(5, 4000).double()
    frames = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 64)))
    generator = torch.Generator().manual_seed(0)
    shift = (0.05 * torch.randn(bank.shift.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: torch.func.functional_call(bank, {"shift": s}, (frames,)), shift)


def test_filters_stay_ordered_and_below_half_the_rate():
    for bank in (CosineGaussian(20, 16000), Sinc(20, 16000)):
        with torch.no_grad():
            bank.shift.copy_(torch.from_numpy(np.random.default_rng(0).normal(0, 2, bank.shift.shape)))
        centers = bank.centers_hz()
        assert (np.diff(centers) >= 0).all() and centers[0] > 0 and centers[-1] <= 8000
        assert torch.isfinite(bank(torch.randn(1, 512))).all()


@pytest.mark.parametrize("form, n_parameters", [("dense", 1151), ("conv", 185)])
def test_relevance_is_two_layers_over_each_band_s_context(form, n_parameters):
    torch.manual_seed(0)
    assert sum(p.numel() for p in Relevance(10, form).parameters()) == n_parameters  # 1.1k in print
    net = Relevance(3, form).double()
    x = torch.randn(2, 1, 5, 9, dtype=torch.float64)
    ours = net(x).detach().numpy()
    w1, b1, w2, b2 = (p.detach().numpy() for p in (net.hidden.weight, net.hidden.bias, net.out.weight, net.out.bias))

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    for item in range(2):
        for band in range(5):
            for t in range(9):
                context = np.array([x[item, 0, band, min(max(u, 0), 8)] for u in range(t - 3, t + 4)])
                width = w1.shape[3]
                hidden = np.array([[sigmoid(w1[k, 0, 0] @ context[s : s + width] + b1[k]) for s in range(8 - width)]
                                   for k in range(len(w1))])  # fmt: skip
                assert ours[item, 0, band, t] == pytest.approx(sigmoid((w2[0, :, 0] * hidden).sum() + b2[0]), abs=1e-12)


@pytest.mark.parametrize("split", ["blocks", "even-odd"])
@pytest.mark.parametrize("skip", [True, False])
def test_each_head_weighs_its_own_bands(split, skip):
    torch.manual_seed(0)
    weighting = Weighting(8, heads=2, split=split, context=2, skip=skip).double()
    x = torch.randn(1, 1, 8, 6, dtype=torch.float64)
    ours = weighting(x)
    for band in range(8):
        head = weighting.heads[band // 4 if split == "blocks" else band % 2]
        weighed = head(x[:, :, [band]]) * x[:, :, [band]]
        assert torch.allclose(ours[:, :, [band]], weighed + x[:, :, [band]] if skip else weighed)


def test_heads_share_out_all_bands():
    assert head_bands(80, 2, "blocks") == [list(range(40)), list(range(40, 80))]
    assert head_bands(80, 2, "even-odd") == [list(range(0, 80, 2)), list(range(1, 80, 2))]
    assert head_bands(80, 80, "blocks") == [[i] for i in range(80)]  # one per band
    for heads in (1, 2, 3, 4):
        for split in ("blocks", "even-odd"):
            bands = head_bands(80, heads, split)
            assert len(bands) == heads and sorted(band for group in bands for band in group) == list(range(80))
    x = torch.randn(1, 1, 8, 6)
    assert torch.equal(Weighting(8, heads=0)(x), x)


def test_gradients_of_the_weighting():
    torch.manual_seed(0)
    weighting = Weighting(4, heads=2, context=1).double()
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighting, x)


@pytest.mark.parametrize("aligned", [True, False])
def test_spec_augment_is_aligned_across_heads_or_not(aligned):
    net = LearnedNet(
        2, n_filters=8, sr=16000, heads=2, aligned=aligned, mask_frames=20, mask_bands=0, net="lstm", n_lstm=4
    )
    torch.manual_seed(0)
    masked = net._augmented(torch.ones(40, 3, 30, 8))[:, 0] == 0  # (batch, frames, bands)
    together = (masked[:, :, :4].all(2) == masked[:, :, 4:].all(2)).all(1)  # the same frames in both heads
    assert together.all() if aligned else together.float().mean() < 0.3
    ramp = torch.arange(30.0)[:, None].expand(1, 3, 30, 8)
    net.kwargs |= {"crop": 10, "mask_frames": 0}
    starts = torch.stack([net._augmented(ramp)[0, 0, 0] for _ in range(30)])  # (draws, bands)
    assert (starts[:, 0] == starts[:, 7]).all() if aligned else (starts[:, 0] != starts[:, 7]).any()
    assert starts.min() >= 0 and starts.max() <= 10


@pytest.mark.parametrize("name, n_parameters", [("full", 11_743_904), ("urban8k", 4_141_160), ("small", 57_572)])
def test_sizes_and_shapes(name, n_parameters):
    """full: "about 12 M". Its 431 frames of 10 s lose eight to the deltas: the 423 in print."""
    with torch.device("meta"):
        net = LearnedNet(10, **SHAPES[name])
    assert sum(p.numel() for p in net.parameters()) == n_parameters
    patch = SYSTEMS["learned"].patch
    assert PAPERS["p4_frames"].n_frames(441_000) == patch.n_frames
    with torch.device("meta"):
        assert net.planes(augment.planes_of(torch.zeros(1, net.kwargs["n_filters"], patch.n_frames))).shape[2] == 423


def test_every_ablation_builds_runs_and_rebuilds():
    x = torch.randn(2, 1, 16 + 8, 256)
    for changed in ({"heads": n} for n in (0, 1, 3, 4, 12)):
        assert LearnedNet(3, n_filters=12, sr=16000, net="lstm", n_lstm=4, **changed)(x).shape == (2, 3)
    for changed in ({"relevance": "conv"}, {"context": 3}, {"split": "even-odd"}, {"skip": False}, {"aligned": False},
                    {"bank": "sinc"}, {"bank": "mel"}, {"crop": 4}, {"net": "vgg"}):  # fmt: skip
        torch.manual_seed(0)
        net = LearnedNet(3, **{"n_filters": 16, "sr": 16000, "net": "lstm", "n_lstm": 4} | changed)
        logits = net(x)
        logits.sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        again = LearnedNet(**json.loads(json.dumps(net.kwargs)))
        again.load_state_dict(net.state_dict())
        assert torch.equal(again.eval()(x), net.eval()(x))


@pytest.mark.parametrize(
    "changed", [{"heads": 13}, {"heads": -1}, {"heads": True}, {"context": 0}, {"split": "odd"}, {"bank": "gabor"},
                {"relevance": 1}, {"net": None}, {"skip": "no"}, {"n_lstm": 0}, {"n_filters": 1e3}, {"sr": 0}],
)  # fmt: skip
def test_senseless_settings_are_named(changed):
    (name,) = changed
    words = ("split", "bank", "relevance", "net", "skip")
    with pytest.raises(
        ValueError, match=f"^{name} is .*want" if name in words else f"^{name} .* is not a whole number"
    ):
        LearnedNet(3, **{"n_filters": 12, "sr": 16000, "net": "lstm"} | changed)


def test_crops_of_raw_frames_hold_the_sound_and_are_scaled():
    frames = torch.zeros(32, 200)
    frames[:, 80:95] = torch.randn(32, 15)
    torch.manual_seed(0)
    shape = PatchShape(40, 40, "frames")
    goal = torch.zeros(50, 2)
    crops, _ = patches([frames] * 50, goal, shape, Recipe(gain_db=6.0, mixup_alpha=0.0))
    assert crops.shape == (50, 1, 40, 32) and (crops.abs().amax((1, 2, 3)) > 0.5).all()
    plain, _ = patches([frames] * 50, goal, shape, Recipe(gain_db=0.0, mixup_alpha=0.0))
    loudest = plain.abs().amax((1, 2, 3))
    assert loudest.max() <= frames.abs().max() and crops.abs().max() > frames.abs().max()
    crop = frames[:, 60:100][None]
    factors = torch.cat([augment.random_gain(crop, 6.0, raw=True) for _ in range(200)])[:, :, 25] / crop[:, :, 25]
    assert torch.allclose(factors, factors[:, :1].expand_as(factors))  # all of a clip alike
    db = 20 * factors[:, 0].log10()
    assert db.abs().max() <= 6.0 and db.min() < -5 and db.max() > 5


def test_patches_of_raw_frames_are_the_samples_themselves():
    wave = noise(2)[:32000]
    static = spectrogram(wave, SMALL_FRAMES)
    cut = PatchShape(28, 10, "frames").cut(static)
    assert cut.shape == ((65 - 28) // 10 + 1, 1, 28, 512)
    np.testing.assert_array_equal(cut[1, 0, 0, 256 : 256 + 200], wave[5000:5200])
    mean, std = features.unchanged(SMALL_FRAMES)
    np.testing.assert_array_equal((cut - mean[:, None]) / std[:, None], cut)


@pytest.fixture(scope="module")
def trained(sounds, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("learned") / "run"
    result = run(
        "train", "learned", "--shape", "small", "--frontend", "frames_16k", "--set", "n_filters=16", "--set", "n_lstm=8",
        "--set", "heads=2", "--data", sounds, "--fold", 2, "--patch-frames", 32, "--epochs", 30, "--batch-size", 4,
        "--lr", 0.01, "--optimizer", "adam", "--schedule", "cosine", "--threads", 1, "--cache", cache, "--out", out,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out


def test_it_trains_through_the_one_loop(trained):
    finished = load_run(trained)
    assert finished.meta["scores"]["last"]["accuracy"] == 1.0 and finished.meta["scores"]["last"]["n"] == 8
    assert finished.model.kwargs["n_filters"] == 16 and finished.model.kwargs["sr"] == 16000
    assert (finished.model.bank.shift != 0).all()  # each filter moved


def test_learned_centres_are_drawn_against_mel(trained, tmp_path, capsys):
    centres.main([str(trained), "--plot", str(tmp_path / "centres.png")])
    assert (tmp_path / "centres.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[0].isdigit()]
    assert len(rows) == 16
    bank = load_run(trained).model.bank
    np.testing.assert_allclose([float(row[2]) for row in rows], bank.centers_hz(), atol=0.06)


@pytest.mark.parametrize(
    "net, frontend, options, sentence",
    [
        ("cnn7", "frames_16k", [], "cnn7 cannot hear frames: .*learned takes raw frames"),
        ("learned", "mel", ["--shape", "small"], "learned cannot hear mel: give it raw frames"),
        ("learned", "frames_16k", ["--shape", "small", "--mask-bands", "3"], "hide raw samples: .*--set"),
        ("learned", "frames_16k", ["--shape", "small", "--sub-bands", "2"], "SPSMF cuts up one spectrogram"),
        (
            "learned",
            "frames_16k",
            ["--shape", "small", "--set", "colour=1"],
            "learned has no such setting: .*'colour'",
        ),
        (
            "learned",
            "frames_16k",
            ["--shape", "small", "--set", "heads=99"],
            "heads 99 is not a whole number from 0 to 40",
        ),
        ("learned", "frames_16k", ["--shape", "cr"], "learned comes as full, urban8k, small"),
        ("learned", "frames_16k", ["--shape", "small", "--patch-frames", "8"], "choose more frames"),
        ("attentive", "mel", [], "n_features is 1, want 2 or more .*--planes deltas"),
    ],
)
def test_nets_and_front_ends_of_different_kinds_are_refused(sounds, cache, tmp_path, net, frontend, options, sentence):
    args = [
        net,
        "--frontend",
        frontend,
        *options,
        "--data",
        str(sounds),
        "--cache",
        str(cache),
        "--out",
        str(tmp_path / "o"),
    ]
    with pytest.raises(ValueError, match=sentence) as error:
        main(args)
    assert "\n" not in str(error.value) and not (tmp_path / "o").exists()


def test_centres_want_a_run_of_learned(small_runs, tmp_path):
    small_runs[0].save(tmp_path / "cnn7")
    for folder, sentence in (("cnn7", "is a cnn7: only a run of learned"), ("gone", "not a finished training run")):
        with pytest.raises(ValueError, match=sentence):
            centres.main([str(tmp_path / folder)])


@pytest.mark.parametrize("n_samples", [63, 100, 256])
@pytest.mark.parametrize("name", BANKS)
def test_a_trained_bank_is_a_table(name, n_samples):
    """What the converters get, two real products in place of a Fourier transform: the same decibels, loud or quiet."""
    bank = BANKS[name](12, 8000)
    if hasattr(bank, "shift"):
        torch.nn.init.normal_(bank.shift, std=0.2, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([1e-4, 0.05, 1.0])[:, None, None]
    frames = level * torch.randn(3, 5, n_samples, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact, table = bank(frames), bank.as_table(n_samples)(frames)
    assert exact.max() - exact.min() > 40 and (table - exact).abs().max() < 1e-3
    assert bank.as_table(n_samples)(torch.zeros(1, n_samples)).isfinite().all()
