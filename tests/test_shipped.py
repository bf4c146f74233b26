"""The bundle and the recordings that ship: whole, within the budget, and the stream decides as the offline path."""

import json
import subprocess
import sys

import numpy as np
import pytest

from runtime import stream
from runtime.bundle import DEFAULT, Bundle
from tests.conftest import run
from train.data import load_dataset, load_wave, split

BUDGET_BYTES = 131_072
FOLD = 4


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def bundle(request):
    return Bundle.load(fmt=request.param)


@pytest.fixture(scope="module")
def waves():
    """A fold of the shipped recordings: [(label, (samples,) float32)]."""
    _, clips = split(load_dataset(), FOLD)
    return [(clip.label, load_wave(clip.path, 44100)) for clip in clips]


def test_it_is_whole_and_fits(bundle):
    assert bundle.check() <= 0.02
    assert sum(path.stat().st_size for path in DEFAULT.glob(f"*.{bundle.format}")) <= BUDGET_BYTES
    assert bundle.labels == load_dataset().labels
    for member in bundle.members:
        assert bundle.provenance["runs"][member.name]["data"]["fold"] in (None, 0)  # all four folds


def test_a_ragged_stream_decides_as_the_offline_path_on_every_clip_of_a_fold(waves):
    """Bit for bit, with the real nets. Every clip in pieces of its own sizes."""
    bundle = Bundle.load()
    live, n = stream.Stream(bundle, 2.0, 0.25), 0
    for i, (_, wave) in enumerate(waves):
        rng = np.random.default_rng(i)
        cuts = np.sort(rng.integers(0, len(wave), rng.integers(1, 12)))
        decisions = [d for piece in np.split(wave, cuts) for d in live.feed(piece)] + live.flush()
        assert decisions == stream.offline(bundle, wave, 2.0, 0.25)
        n += len(decisions)
    assert n >= 4 * len(waves) >= 4 * 70


def test_it_knows_what_it_learned(waves):
    """Its own training clips: no measure of quality, but labels in the wrong order would fail it."""
    bundle = Bundle.load()
    hits = [bundle.labels[int(bundle.predict(wave, 44100).argmax())] == label for label, wave in waves]
    assert np.mean(hits) > 0.85


def test_the_commands_take_it_by_default(tmp_path):
    clip = split(load_dataset(), FOLD)[1][0]
    result = run("runtime.stream", "--wav", clip.path, "--jsonl")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows and set(rows[0]["scores"]) == set(load_dataset().labels)
    assert run("runtime.bundle", "--check").stdout.count("golden window within") == 2


def test_the_stream_needs_numpy_and_an_engine_only(tmp_path):
    """Deciding on a recording loads none of what training needs. (tests/runtimes.sh installs each engine alone.)"""
    code = (
        "import sys, numpy as np; from runtime.bundle import Bundle; from runtime.stream import Stream;"
        "live = Stream(Bundle.load()); assert live.feed(np.zeros(5 * 44100, np.float32));"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {
        "torch",
        "librosa",
        "soundfile",
        "soxr",
        "matplotlib",
        "onnx",
        "train",
        "export",
        "compress",
    }
