"""runtime.stream and runtime.bundle: streaming equals offline, bad input ends in one line."""

import dataclasses
import json
import shutil
import subprocess
import sys
import wave as wavfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.assemble import _write_json
from runtime import fusion, stream
from runtime.bundle import Bundle
from runtime.member import BundleError
from tests.conftest import SR, noise
from train import trainer
from train.data import Clip, Dataset


@pytest.fixture(params=["tflite", "onnx"])
def bundle(request, small_bundle):
    return Bundle.load(small_bundle, request.param)


def ragged(live, wave, rng, most=30000):
    decisions, start = [], 0
    while start < len(wave):
        n = int(rng.integers(1, most))
        decisions += live.feed(wave[start : start + n])
        start += n
    return decisions + live.flush()


@pytest.mark.parametrize("window_s, hop_s", [(1, 1), (3, 0.5), (5, 0.77), (10, 2)])
def test_a_ragged_stream_decides_as_the_offline_path(bundle, window_s, hop_s):
    wave = noise(12, seed=3)
    offline = stream.offline(bundle, wave, window_s, hop_s)
    live = stream.Stream(bundle, window_s, hop_s)
    for seed in range(2):  # twice: flush starts anew
        assert ragged(live, wave, np.random.default_rng(seed)) == offline
    assert len(offline) >= 4


def test_no_decision_before_the_first_patch_and_one_per_hop_after(bundle):
    first_s = max(member.patch_end(0) for member in bundle.members) / SR
    live = stream.Stream(bundle, 5, 0.5)
    ends = [d.end_s for d in live.feed(noise(9))]
    assert ends == pytest.approx([t for t in np.arange(0.5, 9.01, 0.5) if t >= first_s])


def test_a_decision_never_hears_the_future(bundle):
    wave = noise(8)
    changed = wave.copy()
    changed[6 * SR :] = 0.9
    before, after = (stream.Stream(bundle, 2, 0.5).feed(w) for w in (wave, changed))
    early = [d for d in before if d.end_s <= 6]
    assert len(early) >= 4 and early == after[: len(early)] and before[-1] != after[-1]


def test_fused_scores_are_the_product_of_the_members(bundle):
    wave = noise(5)
    means = bundle.member_log_p(wave)
    product = np.prod([np.exp(m) for m in means], axis=0)
    assert bundle.predict(wave, SR) == pytest.approx(product / product.sum(), rel=1e-9)


def test_predict_takes_stereo_other_rates_and_short_clips(bundle):
    soxr = pytest.importorskip("soxr")
    wave = noise(5)
    p = bundle.predict(wave, SR)
    assert p.shape == (4,) and p.sum() == pytest.approx(1)
    assert np.array_equal(bundle.predict(np.stack([wave, wave], axis=1), SR), p)
    at_96k = soxr.resample(wave, SR, 96000)
    assert np.abs(bundle.predict(at_96k, 96000) - p).max() < 0.05
    assert bundle.predict(wave[:2000], SR).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="without samples"):
        bundle.predict(wave[:0], SR)


def test_nan_and_silence_are_counted_and_finite(bundle):
    wave = np.zeros(6 * SR, np.float32)
    wave[1000:1010] = np.nan
    live = stream.Stream(bundle, 2, 1)
    decisions = live.feed(wave)
    assert live.n_bad == 10 and decisions
    assert all(np.isfinite(list(d.scores.values())).all() for d in decisions)


@pytest.mark.parametrize("window_s, hop_s", [(0.5, 1), (11, 1), (float("nan"), 1), (5, 0), (5, float("inf"))])
def test_senseless_windows_are_refused(bundle, window_s, hop_s):
    with pytest.raises(ValueError, match=r"window|hop"):
        stream.Stream(bundle, window_s, hop_s)


def test_one_certain_no_can_be_outvoted():
    """The first net rules class 1 out, the others are sure of it: a product of plain probabilities would die."""
    p = np.exp(fusion.prod(fusion.log_softmax(np.array([[0.0, -2000, 0], [0, 20, 0], [0, 20, 0]]))))
    assert p.sum() == pytest.approx(1) and p.argmax() == 1 and (p > 0).all()


@given(st.integers(1, 6), st.integers(2, 12), st.floats(0, 16), st.integers(0, 2**31))
def test_opinions_on_patches_become_one_between_them(n, n_classes, certainty, seed):
    log_p = fusion.log_softmax(np.random.default_rng(seed).normal(size=(n, n_classes)) * 4)
    p, each = np.exp(fusion.over_patches(log_p, certainty)), np.exp(log_p)
    assert p.sum() == pytest.approx(1) and (p > each.min(0) - 1e-9).all() and (p < each.max(0) + 1e-9).all()
    assert np.exp(fusion.over_patches(log_p[::-1], certainty)) == pytest.approx(p)
    assert fusion.over_patches(log_p) == pytest.approx(fusion.mean(log_p))


def test_a_patch_that_could_be_anything_hardly_counts():
    """A bark in one patch, silence in nine: at certainty 0 it is outvoted nine to one, at 4 it decides."""
    heard = fusion.log_softmax(np.array([[3.0, 0, 0, 0], *[[0.3, 0.8, 0, 0]] * 9]))
    alike, surest = (np.exp(fusion.over_patches(heard, certainty)) for certainty in (0, 4))
    assert alike.argmax() == 1 and surest.argmax() == 0 and surest[0] > 0.8
    nothing = np.full((3, 4), np.log(0.25))
    assert np.exp(fusion.over_patches(nothing, 4)) == pytest.approx([0.25] * 4)


def write_wav(path, wave, sr=SR):
    with wavfile.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sr)
        file.writeframes((np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes())


def run(*args, stdin=None):
    return subprocess.run([sys.executable, "-m", *map(str, args)], capture_output=True, input=stdin, timeout=60)


def test_the_command_streams_files_and_pipes_alike(small_bundle, tmp_path):
    wave = noise(7)
    write_wav(tmp_path / "a.wav", wave)
    command = ("runtime.stream", "--bundle", small_bundle, "--window", 3, "--hop", 0.5, "--jsonl")
    from_file = run(*command, "--wav", tmp_path / "a.wav")
    samples = (np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes()
    from_pipe = run(*command, "--stdin", stdin=samples)
    assert from_file.returncode == from_pipe.returncode == 0, from_file.stderr
    assert from_file.stdout == from_pipe.stdout
    rows = [json.loads(line) for line in from_file.stdout.splitlines()]
    assert len(rows) >= 6
    for row in rows:
        assert row["end_s"] - row["start_s"] == pytest.approx(min(3, row["end_s"]))
        assert row["p"] == max(row["scores"].values()) == row["scores"][row["label"]]
        assert set(row["members"]) == {"mel", "gam", "cqt"}


def test_a_recording_shorter_than_a_patch_gets_one_decision(small_bundle, tmp_path):
    write_wav(tmp_path / "short.wav", noise(1))
    result = run("runtime.stream", "--bundle", small_bundle, "--wav", tmp_path / "short.wav", "--jsonl")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 1
    assert b"looped" in result.stderr


def test_importing_the_stream_loads_nothing_heavy():
    code = "import sys, runtime.stream; print(sorted({m.split('.')[0] for m in sys.modules} | set(sys.modules)))"
    loaded = eval_list(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    heavy = {"torch", "tensorflow", "librosa", "numba", "scipy.signal", "onnxruntime", "ai_edge_litert"}
    ours = {"train", "compress", "export", "devices"}
    assert not loaded & (heavy | ours)


def eval_list(text):
    return set(json.loads(text.replace("'", '"')))


def damaged(bundle, folder, damage):
    shutil.copytree(bundle, folder)
    damage(folder)
    return folder


def edit(key, value):
    def change(folder):
        values = json.loads((folder / "bundle.json").read_text())
        values[key] = value
        (folder / "bundle.json").write_text(json.dumps(values))

    return change


def flip(name, at=-40):
    def change(folder):
        raw = bytearray((folder / name).read_bytes())
        raw[at] ^= 1
        (folder / name).write_bytes(raw)

    return change


def truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:100])


DAMAGES = {
    "a model is missing": (lambda folder: (folder / "gam.tflite").unlink(), "gam.tflite is missing"),
    "a byte of a model changed": (flip("cqt.tflite"), "cqt.tflite is not the file"),
    "half a model": (truncate("mel.tflite"), "mel.tflite is not the file"),
    "half a bundle.json": (truncate("bundle.json"), "bundle.json is damaged"),
    "no bundle.json": (lambda folder: (folder / "bundle.json").unlink(), "no bundle"),
    "another format": (edit("format", 99), "format 99"),
    "no members": (edit("members", []), "no members"),
    "a member that is none": (edit("members", [1]), "damaged"),
    "too few labels": (edit("labels", ["bark", "hum"]), "tells 4 classes apart"),
    "labels twice": (edit("labels", ["a", "a", "b", "c"]), "different names"),
    "an unknown fusion": (edit("fuse", "vote"), "fuse 'vote'"),
    "another rate": (edit("sr", 48000), "48000"),
    "a patch of nothing": (edit("patch", {"n_frames": 0, "stride": 32}), "n_frames 0"),
    "a window that is no number": (edit("window_s", "5"), "window_s"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_refused_in_one_line(small_bundle, tmp_path, name):
    damage, sentence = DAMAGES[name]
    folder = damaged(small_bundle, tmp_path / "bundle", damage)
    with pytest.raises(BundleError, match=sentence) as caught:
        Bundle.load(folder, "tflite")
    assert "\n" not in str(caught.value)


def test_a_path_out_of_the_bundle_is_refused(small_bundle, tmp_path):
    values = json.loads((small_bundle / "bundle.json").read_text())
    values["members"][0]["files"]["tflite"]["file"] = "../mel.tflite"
    folder = damaged(small_bundle, tmp_path / "bundle", edit("members", values["members"]))
    with pytest.raises(BundleError, match="no plain name"):
        Bundle.load(folder, "tflite")


def test_the_golden_window_notices_other_numbers(small_bundle, tmp_path):
    assert Bundle.load(small_bundle, "onnx").check() < 0.02
    values = json.loads((small_bundle / "bundle.json").read_text())
    values["members"][1]["temperature"] = 100.0
    folder = damaged(small_bundle, tmp_path / "bundle", edit("members", values["members"]))
    with pytest.raises(BundleError, match="golden window"):
        Bundle.load(folder, "onnx").check()


def test_bad_sounds_end_in_one_line_and_an_exit_code(small_bundle, tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound at all")
    write_wav(tmp_path / "good.wav", noise(1))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:30])
    for name in ("missing.wav", "empty.wav", "text.wav", "cut.wav"):
        result = run("runtime.stream", "--bundle", small_bundle, "--wav", tmp_path / name)
        assert result.returncode != 0 and not result.stdout, name
        lines = result.stderr.decode().strip().splitlines()
        assert lines[-1].startswith("error: ") and name in lines[-1] and len(lines) == 1, lines


def test_what_a_recording_lacks_is_said(small_bundle, tmp_path):
    command = ("runtime.stream", "--bundle", small_bundle)
    write_wav(tmp_path / "whole.wav", noise(6))
    raw = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(raw[:-SR])
    cut = run(*command, "--wav", tmp_path / "cut.wav")
    assert cut.returncode == 0 and f"{SR // 2} samples missing".encode() in cut.stderr
    assert b"missing" not in run(*command, "--wav", tmp_path / "whole.wav").stderr
    pytest.importorskip("soxr")
    write_wav(tmp_path / "slow.wav", noise(6)[::4], SR // 4)
    assert b"nothing above 5512 Hz" in run(*command, "--wav", tmp_path / "slow.wav").stderr


def test_nets_of_recordings_at_a_lower_rate(small_runs, small_bundle, tmp_path):
    """Said where a source holds more, or less, than these; not where it holds the same."""
    write_wav(tmp_path / "half.wav", noise(1)[::2], SR // 2)
    half = Dataset("half", (Clip(tmp_path / "half.wav", "bark", 1, "half"),), ("bark",))
    heard = trainer.data_facts(half, None, SR)
    assert heard["highest_hz"] == SR / 4 and "highest_hz" not in trainer.data_facts(half, None, SR // 2)
    runs = [dataclasses.replace(one, meta={"data": heard}) for one in small_runs]
    _write_json(tmp_path, runs, [({"name": name}, {}) for name in ("mel", "gam", "cqt")], True, "prod")
    said = json.loads((tmp_path / "bundle.json").read_text())["highest_hz"]
    shutil.copytree(small_bundle, tmp_path / "b")
    values = json.loads((small_bundle / "bundle.json").read_text())
    assert "highest_hz" not in values
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(values | {"highest_hz": said}))
    greetings = [stream._greeting(Bundle.load(tmp_path / "b"), sr) for sr in (SR // 4, SR // 2, SR)]
    assert "nothing above 5512 Hz in it, the nets learned up to 11025 Hz" in greetings[0]
    assert "trust" not in greetings[1] and "learned nothing above 11025 Hz, which this may hold" in greetings[2]
    assert "trust" not in stream._greeting(Bundle.load(small_bundle), SR)
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(values | {"highest_hz": float("nan")}))
    with pytest.raises(ValueError, match="highest_hz nan is not a number from 1 to 22050"):
        Bundle.load(tmp_path / "b")


def test_pipes_that_say_too_little(small_bundle):
    command = ("runtime.stream", "--bundle", small_bundle, "--stdin")
    empty = run(*command, stdin=b"")
    assert empty.returncode == 1 and b"standard input is empty" in empty.stderr
    short = run(*command, stdin=bytes(2 * SR))
    assert short.returncode == 0 and b"no decision: the first one takes 3.9 s" in short.stderr and not short.stdout
