"""Shared by the tests: a small bundle of untrained nets, a small data set, sounds, and commands."""

import runtime  # noqa: F401, I001  before numpy: it sets how many threads numpy takes
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

SR = 44100
PROC = "/proc"
# A shell makes what it starts in the background ignore Ctrl-C, and children inherit that: commands under test must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_runs():
    """Three untrained runs of narrow nets, 4 classes; statistics made up so that every net says something else."""
    import dataclasses

    import torch

    from runtime.frontend import PRESETS
    from train.features import PatchShape
    from train.models import MODELS
    from train.run import Run

    runs = []
    for i, frontend in enumerate(PRESETS.values()):
        torch.manual_seed(i)
        model = MODELS["cnn7"](4, widths=[4, 8, 8, 8, 12, 16], decomposed=True, order="deploy").eval()
        for block in model.blocks:
            torch.nn.init.normal_(block.after.bias, std=0.3)
        torch.nn.init.normal_(model.fc.weight, std=2.0)
        mean = np.repeat(np.array([[-40.0], [0.0], [0.0]], np.float32), 128, axis=1)
        std = np.repeat(np.array([[20.0], [2.0], [0.5]], np.float32), 128, axis=1)
        frontend = dataclasses.replace(frontend, hop_length=1120)
        runs.append(Run("cnn7", model, frontend, PatchShape(), ("bark", "hum", "rain", "tick"), mean, std, {}))
    return runs


@pytest.fixture(scope="session")
def small_bundle(small_runs, tmp_path_factory):
    """The same as an int8 bundle on disk."""
    from export.assemble import assemble
    from runtime.frontend import spectrogram
    from runtime.patches import deltas, patches

    wave = noise(8)
    calibration = [
        run.normalise(patches(deltas(spectrogram(wave, run.frontend)), run.patch.n_frames, 16)) for run in small_runs
    ]
    folder = tmp_path_factory.mktemp("bundles") / "small"
    assemble(small_runs, folder, calibration, wave[: 5 * SR])
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """ESC layout: 2 classes x 2 folds x 4 clips of 1.5 s, a steady hum and pulses of noise."""
    import soundfile

    root = tmp_path_factory.mktemp("sounds")
    (root / "audio").mkdir()
    (root / "meta").mkdir()
    rng = np.random.default_rng(0)
    rows = ["filename,fold,target,category"]
    t = np.arange(int(1.5 * SR)) / SR
    for target, label in enumerate(("hum", "pulses")):
        for i in range(8):
            hz = rng.uniform(6, 12)
            noise = 0.1 * rng.standard_normal(len(t))
            wave = noise * (np.sin(2 * np.pi * hz * t) > 0.7) if target else 0.3 * np.sin(40 * hz * t) + 0.01 * noise
            soundfile.write(root / "audio" / f"{label}{i}.wav", wave, SR)
            rows.append(f"{label}{i}.wav,{i % 2 + 1},{target},{label}")
    (root / "meta" / "sounds.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run(*args):
    """python -m ARGS -> its CompletedProcess, text captured."""
    return subprocess.run([sys.executable, "-m", *map(str, args)], capture_output=True, text=True, timeout=300)


def noise(seconds, seed=0):
    """(samples,) float32: bursts of noise and tones, so that patches differ."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * SR)) / SR
    loud = 10 ** (-2 + 1.5 * np.sin(2 * np.pi * 0.4 * t))
    tone = np.sin(2 * np.pi * (300 + 200 * t) * t)
    return (loud * (0.3 * rng.standard_normal(len(t)) + 0.5 * tone)).astype(np.float32)


def children(pid):
    """-> pids of the processes that `pid` started, by /proc."""
    found = []
    for name in filter(str.isdigit, os.listdir(PROC)):
        try:
            with open(f"{PROC}/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(name))
    return found


def is_alive(pid):
    try:
        with open(f"{PROC}/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=60):
    """Waits, however slow the machine; a minute means never."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
