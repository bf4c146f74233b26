"""train.workers: what other processes compute is what this one would; how they end."""

import operator
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from runtime import command
from runtime.frontend import MEL
from tests.conftest import PROC, children, is_alive, wait_until
from train.data import load_dataset
from train.features import features
from train.layouts import Clip
from train.workers import counted, workers


def test_results_come_in_order_and_errors_as_they_are():
    calls = [(i, 7) for i in range(1, 40)]
    for n in (0, 2):
        with workers(n) as starmap:
            assert list(starmap(divmod, calls)) == [divmod(*call) for call in calls]
            assert list(starmap(divmod, [])) == []
            mixed = starmap(operator.truediv, [(1, 2), (1, 0), (1, 4)])
            assert next(mixed) == 0.5
            with pytest.raises(ZeroDivisionError):
                next(mixed)
    for n in (-1, 65):
        with pytest.raises(ValueError, match="choose 0 to 64"), workers(n):
            pass


def test_a_killed_worker_and_a_damaged_recording_end_in_one_line(sounds, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF, it says")
    clips = [*load_dataset(sounds).clips[:3], Clip(tmp_path / "bad.wav", "hum", None, "bad")]
    with pytest.raises(ChildProcessError) as killed, workers(1) as starmap:
        list(starmap(signal.raise_signal, [(signal.SIGKILL,)]))
    with pytest.raises((ValueError, OSError)) as damaged, workers(1) as starmap:
        features(clips, MEL, tmp_path / "cache", starmap)
    assert "let fewer of them work" in command.one_line(killed.value)
    assert str(tmp_path / "bad.wav") in command.one_line(damaged.value)


def test_features_by_workers_are_those_of_this_process(sounds, tmp_path):
    clips = load_dataset(sounds).clips[:4]
    with workers(2) as starmap:
        theirs = features(clips, MEL, tmp_path / "theirs", starmap)
    ours = features(clips, MEL, tmp_path / "ours")
    assert len(ours) == len(theirs) == 4
    assert all(np.array_equal(a, b) and a.flags.f_contiguous == b.flags.f_contiguous for a, b in zip(ours, theirs))


def test_long_work_says_how_far_it_is(monkeypatch, capsys):
    assert list(counted(range(3), 3, "things")) == [0, 1, 2] and capsys.readouterr().err == ""
    monkeypatch.setattr("train.workers.SAY_EVERY_S", -1.0)
    assert list(counted(range(3), 3, "things")) == [0, 1, 2]
    assert capsys.readouterr().err == "\rthings 1/3  0 s\rthings 2/3  0 s\rthings 3/3  0 s\n"


@pytest.mark.skipif(not os.path.isdir(PROC), reason="processes are counted in /proc, which this system lacks")
def test_ctrl_c_ends_a_training_and_its_workers_in_one_line(sounds, tmp_path):
    """A terminal sends it to all of them."""
    args = ["train", "cnn7", "--frontend", "mel", "--shape", "cr+dc", "--data", sounds, "--epochs", 1000]
    args += [
        "--vary-every",
        1,
        "--workers",
        2,
        "--threads",
        1,
        "--cache",
        tmp_path / "cache",
        "--out",
        tmp_path / "run",
    ]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, args)], stdout=said, stderr=said, start_new_session=True
        )
    wait_until(lambda: len(children(process.pid)) == 3)  # two, and multiprocessing's resource tracker
    started = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == command.INTERRUPTED
    wait_until(lambda: not any(map(is_alive, started)))
    words = (tmp_path / "said").read_text()
    assert "Traceback" not in words and words.endswith("goes on from the last epoch\n")
