"""Bundles of every kind of planes: what the stream decides is what the offline path, torch and a naive loop decide."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SR, noise
from conftest import run as command
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices import report
from export import graph, int8, parity
from export.__main__ import main as export_main
from export.assemble import assemble
from export.numbers import load, to_bytes
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime import stream
from runtime.bundle import Bundle
from runtime.frontend import Frontend, spectrogram
from runtime.member import BundleError
from runtime.patches import PatchShape
from runtime.stack import Stack, frontend_from_json
from train import spectrograms
from train.augment import planes_of, relative
from train.models import MODELS
from train.recipe import Recipe
from train.run import Run
from train.trainer import fitting

N_CLASSES = 4
MEL = Frontend("mel", hop_length=2000, n_bands=16, n_fft=2048, win_length=2048)
CQT = Frontend("cqt", hop_length=2000, n_bands=16, fmin=65.4, bins_per_octave=2)  # looks further ahead than mel
MFCC = Frontend("mfcc", hop_length=2000, n_bands=8, n_fft=2048, win_length=2048, n_mels=16)
FRAMES = Frontend("frames", hop_length=2000, n_bands=64, n_fft=64, win_length=64)
# what is heard -> front end, patches; strides shorter and longer than a patch, and as long
KINDS = {
    "deltas": (MEL, PatchShape(12, 30)),
    "static": (MEL, PatchShape(16, 5, "static")),
    "relative": (MEL, PatchShape(12, 30, quietest_db=-30.0)),
    "certain": (MEL, PatchShape(12, 5, certainty=4.0)),
    "relative stack": (Stack((MEL, CQT)), PatchShape(16, 7, "static", quietest_db=-90.0)),
    "whole clips": (MEL, PatchShape(60, 60, "static")),
    "stacked": (MFCC, PatchShape(16, 16, "stacked")),
    "frames": (FRAMES, PatchShape(16, 9, "frames")),
    "stack": (Stack((MEL, CQT)), PatchShape(16, 7, "static")),
    "stack of deltas": (Stack((CQT, MEL)), PatchShape(8, 8)),
}


class Small(nn.Module):
    """A convolution, its global pool and a classifier: small enough to be written down as a graph by hand."""

    def __init__(self, n_planes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(n_planes, 6, 3, padding=1), nn.Linear(6, N_CLASSES)
        nn.init.normal_(self.fc.weight, std=6.0)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

    def graph(self, in_shape):
        weight, bias, fc = (p.detach().numpy() for p in (self.conv.weight, self.conv.bias, self.fc.weight))
        head = graph.Conv(2, fc[:, :, None, None], self.fc.bias.detach().numpy(), relu=False)
        return graph.Graph(in_shape, (graph.Conv(0, weight, bias, relu=True), graph.Pool(1, in_shape[1:]), head))

    def deployed(self):
        """As nets trained on their int8 grid (compress.qat), so that no converter is needed."""
        return int8.quantize(g := self.graph(self.calibration.shape[1:]), int8.calibrate(g, self.calibration))


def run_of(kind, seed=0):
    """A Run of a random net that hears the kind, normalised on noise."""
    frontend, patch = KINDS[kind]
    torch.manual_seed(seed)
    static = np.concatenate([spectrogram(noise(8), f) for f in frontend.frontends])
    planes = patch.planes_of(static)
    mean, std = planes.mean(2), planes.std(2) + 0.1
    if kind == "frames":
        mean, std = np.zeros_like(mean), np.ones_like(std)
    run = Run("small", Small(len(planes)).eval(), frontend, patch, tuple("abcd"), mean, std, {})
    run.model.calibration = run.normalise(patch.cut(static)).astype(np.float32)
    return run


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """kind -> its run and the folder of its bundle."""
    made = {}
    for kind in KINDS:
        run = run_of(kind)
        folder = tmp_path_factory.mktemp("bundles") / kind.replace(" ", "_")
        assemble([run], folder, [run.model.calibration], noise(5))
        made[kind] = run, folder
    return made


def naive_planes(kind, static):
    """(bands, frames) -> list of (planes, bands') by frame, each delta written out."""

    def delta(x, t):
        return (-2 * x[:, t - 2] - x[:, t - 1] + x[:, t + 1] + 2 * x[:, t + 2]) / 10

    planes = KINDS[kind][1].planes
    if planes == "stacked":
        halves = [(static[:, t], (static[:, t + 1] - static[:, t - 1]) / 2) for t in range(1, static.shape[1] - 1)]
        return [np.concatenate(both)[None] for both in halves]
    if planes == "deltas":
        first = np.stack([delta(static, t) for t in range(2, static.shape[1] - 2)], axis=1)
        at = range(4, static.shape[1] - 4)
        return [np.stack([static[:, t], first[:, t - 2], delta(first, t - 2)]) for t in at]
    return [static[:, t][None] for t in range(static.shape[1])]


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_stream_decides_as_the_offline_path(bundles, kind, fmt):
    bundle, wave = Bundle.load(bundles[kind][1], fmt), noise(9, seed=1)
    offline = stream.offline(bundle, wave, hop_s=0.5)
    assert len(offline) >= 8
    live, rng = stream.Stream(bundle, hop_s=0.5), np.random.default_rng(2)
    for _ in range(2):  # flush starts anew
        decisions, at = [], 0
        while at < len(wave):
            n = int(rng.integers(1, 40000))
            decisions += live.feed(wave[at : at + n])
            at += n
        assert decisions + live.flush() == offline


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_says_what_torch_says_of_a_naive_loops_patches(bundles, kind):
    run, folder = bundles[kind]
    bundle, wave = Bundle.load(folder), noise(7, seed=3)
    static = np.concatenate([spectrogram(wave, f) for f in run.frontend.frontends])
    starts = range(0, static.shape[1] - run.patch.n_static + 1, run.patch.stride)
    windows = [static[:, s : s + run.patch.n_static] for s in starts]
    if (quietest_db := run.patch.quietest_db) is not None:
        loudest = [max(quietest_db, *(frame.mean() for frame in window.T)) for window in windows]
        windows = [np.maximum(window - db, -50) for window, db in zip(windows, loudest)]
        assert (np.array(loudest) > quietest_db).any()
    cut = np.stack([np.stack(naive_planes(kind, window), axis=1) for window in windows])
    x = torch.from_numpy(((cut - run.mean[:, None]) / run.std[:, None]).astype(np.float32))
    with torch.no_grad():
        each = run.model(x).softmax(1).double().numpy()
    known = [sum(q * np.log(N_CLASSES * q) for q in p) ** run.patch.certainty for p in each]
    p = sum(weight * p for weight, p in zip(known, each)) / sum(known)
    if run.patch.certainty:
        assert np.abs(each.mean(0) - p).max() > 0.02
    assert np.ptp(p) > 0.02 and np.abs(bundle.predict(wave, SR) - p).max() < 0.06
    assert bundle.check() < 1e-6


@given(st.floats(-60, 20), st.integers(0, 2**31))
def test_relative_patches_are_the_same_at_every_level_down_to_the_quietest(gain_db, seed):
    """Below quietest_db a sound is as much quieter as it is. Nothing is heard 50 dB below the reference. Torch as numpy."""
    static = np.random.default_rng(seed).normal(-40, 15, (6, 40)).astype(np.float32)
    patch, plain = PatchShape(8, 5, quietest_db=-70.0), PatchShape(8, 5)
    as_heard, louder = patch.whole(static), patch.whole(static + np.float32(gain_db))
    windows = [static[:, s : s + 16] for s in range(0, 25, 5)]
    for i, window in enumerate(windows):
        db = max(-70, window.mean(axis=0).max() + gain_db)
        expected = plain.whole(np.maximum(window + gain_db - db, -50).astype(np.float32))
        assert np.abs(louder[i] - expected[0]).max() < 1e-4
        if db > -70:
            assert np.abs(louder[i] - as_heard[i]).max() < 1e-4
    batch = planes_of(relative(torch.from_numpy(np.stack(windows)), -70.0))
    assert np.abs(batch.numpy() - as_heard).max() < 1e-4


def test_relative_patches_are_of_levels(tmp_path, bundles):
    for planes in ("stacked", "frames"):
        with pytest.raises(ValueError, match=f"planes '{planes}' are no levels in dB: leave quietest_db out"):
            PatchShape(8, 8, planes, -50.0)
    for value in (float("nan"), -91, 101, "-50", True):
        with pytest.raises(ValueError, match=r"quietest_db .* is not a number from -90 to 100"):
            PatchShape(8, 8, "deltas", value)
    with pytest.raises(ValueError, match="mfcc is no level in dB: leave quietest_db out"):
        fitting("cnn7", MFCC, PatchShape(quietest_db=-50.0), Recipe())
    for value in (float("nan"), -1, 17, "4", True):
        with pytest.raises(ValueError, match=r"certainty .* is not a number from 0 to 16"):
            PatchShape(certainty=value)
    assert PatchShape(12, 30).to_json() == {"n_frames": 12, "stride": 30}  # what runs of before are known by
    values = json.loads((bundles["relative"][1] / "bundle.json").read_text())
    assert values["patch"] == {"n_frames": 12, "stride": 30, "quietest_db": -30.0}
    shutil.copytree(bundles["relative"][1], tmp_path / "b")
    values["members"][0]["frontend"] = MFCC.to_json()
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"member .*: quietest_db of mfcc, which is no level"):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_hears_its_patches_and_nothing_else(bundles, kind):
    """Neither what came before the oldest patch of its window, nor what comes behind it."""
    bundle = Bundle.load(bundles[kind][1])
    (member,), wave = bundle.members, noise(9, seed=4)
    before, at_s, after = wave.copy(), 7.0, wave.copy()
    window_s = max(1.0, member.stride_samples / SR)
    patch_s = member.patch_end(0) / SR + 0.8  # look-back of the front ends
    before[: max(0, int((at_s - window_s - patch_s) * SR))] = 0.5
    after[int(at_s * SR) :] = 0.5
    first, *others = ({d.end_s: d for d in stream.offline(bundle, w, window_s, 0.5)} for w in (wave, before, after))
    assert first[at_s] == others[0][at_s] == others[1][at_s]
    assert first[9.0].scores != others[1][9.0].scores


def test_members_of_one_bundle_hear_different_planes(tmp_path):
    """P1's log-mel and its MFCC with delta under one product; the member whose patch differs says so."""
    runs = [run_of(kind) for kind in ("static", "stacked")]
    bundle = assemble(runs, tmp_path / "b", [r.model.calibration for r in runs], noise(5), fuse="mean")
    values = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert values["patch"] == {"n_frames": 16, "stride": 5, "planes": "static"}
    assert [m.get("patch") for m in values["members"]] == [None, {"n_frames": 16, "stride": 16, "planes": "stacked"}]
    wave = noise(6, seed=5)
    each = [np.exp(log_p) for log_p in bundle.member_log_p(wave)]
    assert bundle.predict(wave, SR) == pytest.approx(np.mean(each, axis=0))
    assert stream.Stream(bundle).feed(wave) == stream.offline(bundle, wave)


def test_a_clip_shorter_than_a_patch_is_looped_as_in_training(bundles):
    run, folder = bundles["whole clips"]
    wave = noise(1.2)
    x = run.normalise(run.patch.cut(spectrogram(wave, run.frontend))).astype(np.float32)
    with torch.no_grad():
        p = run.model(torch.from_numpy(x)).softmax(1).mean(0).numpy()
    assert np.abs(Bundle.load(folder).predict(wave, SR) - p).max() < 0.06


def test_the_window_of_long_patches(bundles):
    """Its bundle's own window holds a stride, and may be longer than ten seconds where the stride is."""
    bundle = Bundle.load(bundles["whole clips"][1])
    assert bundle.window_s == 5.0
    bundle.members[0].patch = PatchShape(60, 300, "static")  # 13.6 s
    with pytest.raises(ValueError, match=r"window 10 s: this bundle takes 13.61 to 14 s"):
        stream.Stream(bundle, 10)
    assert stream.Stream(bundle, 14).window == 14 * SR


def test_the_commands_take_raw_frames_and_cepstra(bundles, tmp_path):
    """No band has a centre frequency there; the greeting, the check and the report must not ask for one."""
    import soundfile

    soundfile.write(tmp_path / "a.wav", noise(5), SR)
    for kind in ("frames", "stacked"):
        _, folder = bundles[kind]
        heard = command("runtime.stream", "--bundle", folder, "--wav", tmp_path / "a.wav", "--jsonl")
        assert heard.returncode == 0, heard.stderr
        last = stream.offline(Bundle.load(folder), noise(5))[-1]
        assert json.loads(heard.stdout.splitlines()[-1])["p"] == pytest.approx(last.p, abs=0.02)  # 16 bits
    assert "nothing above" not in heard.stderr


def test_what_a_bundle_hears_is_drawn(bundles, tmp_path):
    for kind, drawn in (("stack", {"mel+cqt: mel 16": MEL, "mel+cqt: cqt 16": CQT}), ("stacked", {"mfcc": MFCC})):
        assert spectrograms._heard_by(Bundle.load(bundles[kind][1])) == drawn
    with pytest.raises(ValueError, match="hears raw frames: there is no spectrogram"):
        spectrograms.main([str(tmp_path / "a.wav"), "--plot", "a.png", "--bundle", str(bundles["frames"][1])])


def test_report_of_a_stack_counts_each_front_end(bundles):
    numbers = report.report_dict(bundles["stack"][1], ["stm32u5"], runs=0)
    mel, cqt = numbers["product"]["frontends"]
    assert (mel["kind"], cqt["kind"]) == ("mel", "cqt") and mel["name"] == "mel+cqt: mel 16"
    assert numbers["models"][0]["frontend_bytes"] == mel["table_bytes"] + cqt["table_bytes"]
    assert mel["frame_bytes"] == cqt["frame_bytes"] == 16 * 16 * 4
    (raw,) = report.report_dict(bundles["frames"][1], ["stm32u5"], runs=0)["product"]["frontends"]
    assert (raw["table_bytes"], raw["lean_bytes"], raw["flops_per_s"]) == (0, 0, 0)


def decides_on_frames(n_classes=N_CLASSES):
    """-> SPSMT around a narrow CNN-7 in which BN statistics and classifier are no identity, and frames that differ."""
    torch.manual_seed(0)
    model = MODELS["strategies"](n_classes, "cnn7", {"widths": [4, 8, 8, 8, 12, 16]}, frame_decisions=True).eval()
    for bn in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        nn.init.normal_(bn.bias, 0, 0.5)
        bn.running_var.uniform_(0.5, 1.5)
    model.nets[0].fc.weight.data *= 15
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 3, 48, 16)) + 3 * rng.standard_normal((12, 3, 48, 1))
    return model, x.astype(np.float32)


def test_spsmt_in_int8_is_one_net_in_every_engine(tmp_path):
    """The reference, LiteRT, XNNPACK and onnxruntime agree frame by frame, and the numbers survive the file."""
    model, x = decides_on_frames()
    net = int8.quantize(g := graph.graph_of(model, x.shape[1:]), int8.calibrate(g, x))
    assert int8.run(net, x).shape == graph.run(g, x).shape == (12, 6, N_CLASSES)
    parity.check_int8(net, tflite_bytes(net), onnx_bytes(net), x)
    (tmp_path / "net.safetensors").write_bytes(to_bytes(net))
    assert np.array_equal(int8.run(load(tmp_path / "net.safetensors"), x), int8.run(net, x))


def test_spsmt_of_cnn7_through_the_same_export(tmp_path):
    """Trained on frames, deployed on frames: bundle, stream and float form say what train.strategies says."""
    model, x = decides_on_frames()
    mean, std = np.zeros((3, 16), np.float32), np.array([[20.0], [2.0], [0.5]], np.float32).repeat(16, 1)
    run = Run("strategies", model, MEL, PatchShape(48, 16), tuple("abcd"), mean, std, {})
    for quantized, bound in ((True, 0.15), (False, 1e-5)):
        bundle = assemble([run], tmp_path / "b", [x], noise(6), quantized=quantized)
        for fmt in ("tflite", "onnx"):
            (member,) = Bundle.load(tmp_path / "b", fmt).members
            with torch.no_grad():
                p = model(torch.from_numpy(x)).exp().numpy()
            assert np.abs(np.exp(member.log_p(x)) - p).max() < bound
        said = bundle.provenance["differences_from_torch"]["mel"]
        assert max(said.values()) < bound and len(said) == 2
    assert stream.Stream(bundle).feed(noise(8)) == stream.offline(bundle, noise(8))
    assert report.report_dict(tmp_path / "b", ["stm32u5"], runs=0)["models"][0]["macs"] == graph.macs(
        graph.graph_of(model, x.shape[1:])
    )


def test_the_command_takes_a_stride_and_a_fusion(sounds, cache, tmp_path, capsys):
    mean, std = np.zeros((3, 16), np.float32), np.array([[20.0], [2.0], [0.5]], np.float32).repeat(16, 1)
    run = Run("strategies", decides_on_frames(2)[0], MEL, PatchShape(16, 16), ("hum", "pulses"), mean, std, {})
    run.save(tmp_path / "run")
    common = [str(tmp_path / "run"), "--data", str(sounds), "--cache", str(cache), "--to", str(tmp_path / "b")]
    export_main([*common, "--stride", "4", "--fuse", "max"])
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.fuse == "max" and bundle.members[0].patch == PatchShape(16, 4)
    assert "difference from torch on recordings: probabilities, int8, mean" in capsys.readouterr().out
    for options, said in (
        (["--stride", "0"], "every 1 to 4096"),
        (["--only", "onnx"], "--only onnx goes with --converters"),
    ):
        with pytest.raises(ValueError, match=said):
            export_main([*common, *options])
    assert Bundle.load(tmp_path / "b").check() < 1e-6  # what was there is as it was


def test_spsmf_is_told_the_flag(tmp_path):
    model = MODELS["strategies"](N_CLASSES, "cnn7", {"widths": [4] * 6}, n_sub_bands=2).eval()
    run = dataclasses.replace(run_of("deltas"), model=model)
    with pytest.raises(ValueError, match="SPSMF of 2 nets has no form of ours: export it with --converters"):
        assemble([run], tmp_path / "b", [np.zeros((1, 3, 12, 16), np.float32)], noise(5))
    assert not list(tmp_path.iterdir())


def changed(member=(), patch=(), without=()):
    def change(values):
        (first,) = values["members"]
        first |= dict(member)
        values["patch"] |= dict(patch)
        for name in without:
            del first[name]

    return change


DAMAGES = {
    "unknown planes": ("static", changed(patch={"planes": "odd"}), "planes 'odd': choose deltas"),
    "planes of another type": ("static", changed(patch={"planes": [1]}), "damaged"),
    "raw frames of a spectrogram": (
        "static",
        changed(patch={"planes": "frames"}),
        "frames planes of a front end of mel",
    ),
    "a spectrogram of raw frames": ("frames", changed(patch={"planes": "static"}), "static planes of a front end"),
    "statistics of other planes": ("static", changed(patch={"planes": "deltas"}), "not 3 x 16 numbers"),
    "no statistics": ("static", changed(without=["mean"]), "'mean' is missing"),
    "an empty stack": ("stack", changed({"frontend": {"stack": []}}), "0 front ends"),
    "a stack of no list": ("stack", changed({"frontend": {"stack": "mel"}}), "a list of front ends"),
    "a stack of stacks": ("stack", changed({"frontend": {"stack": [{"stack": []}]}}), "a front end is an object"),
    "a stack of two hops": (
        "stack",
        changed({"frontend": {"stack": [MEL.to_json(), CQT.to_json() | {"hop_length": 512}]}}),
        "need the same",
    ),
    "a member's own patch": ("static", changed({"patch": {"n_frames": 16}}), "'stride' is missing"),
    "a patch too long": ("static", changed(patch={"n_frames": 4096}), "patches of planes x frames x bands"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_no_stream_makes_is_refused_in_one_line(bundles, tmp_path, name):
    kind, change, said = DAMAGES[name]
    shutil.copytree(bundles[kind][1], tmp_path / "b")
    values = json.loads((tmp_path / "b" / "bundle.json").read_text())
    change(values)
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=said) as error:
        Bundle.load(tmp_path / "b")
    assert str(error.value).count("\n") == 0 and str(tmp_path / "b") in str(error.value)


def test_front_ends_survive_json():
    for frontend, _ in KINDS.values():
        assert frontend_from_json(json.loads(json.dumps(frontend.to_json()))) == frontend
