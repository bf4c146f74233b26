"""What becomes of a compress.cnn7 that is stopped: its workers end with it and say nothing; and what it refuses early."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import PROC, children, is_alive, run, wait_until


def is_importing_torch(pid):
    """So it has heard from its parent what to do: before that, Python's own start of a process ends in a traceback."""
    with open(f"{PROC}/{pid}/maps") as file:
        return "libtorch" in file.read()


@pytest.mark.skipif(not os.path.isdir(PROC), reason="processes are counted in /proc, which this system lacks")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_stopped_compression(sounds, cache, tmp_path, how):
    """Killed, or by Ctrl-C, which a terminal sends to all of them, while the workers still import torch."""
    command = ["compress.cnn7", "--budget", "48kb", "--data", sounds, "--epochs", 1000, "--runs", tmp_path / "runs"]
    command += ["--cache", cache, "--out", tmp_path / "b"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], stdout=said, stderr=said, start_new_session=True
        )
    wait_until(lambda: sum(map(is_importing_torch, children(process.pid))) == 3)
    workers = children(process.pid)
    assert len(workers) == 4  # and multiprocessing's resource tracker
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_alive, workers)))
    words = (tmp_path / "said").read_text()
    assert "Traceback" not in words
    assert how == signal.SIGKILL or words.endswith("goes on from the last epoch\n")


@pytest.mark.parametrize("command", ["compress.cnn7", "export"])
def test_a_folder_that_is_no_bundle_is_refused_before_the_work(small_runs, sounds, cache, tmp_path, command):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    args = ["--data", sounds, "--cache", cache]
    if command == "export":
        small_runs[0].save(tmp_path / "run")
        result = run(command, tmp_path / "run", "--to", tmp_path / "b", *args)
    else:
        result = run(command, "--budget", "48kb", "--runs", tmp_path / "runs", "--out", tmp_path / "b", *args)
    assert result.returncode == 1 and "is no bundle: name another folder" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "runs").exists()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.txt"]
