"""How commands end: on Ctrl-C, when the reader of their output has gone, and with one line for what the user can mend."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "devices", "train", "export", "compress", "benchmarks")


def ends(body):
    """A fresh process whose main is `body` -> (exit code, stdout, stderr)."""
    code = f"import os, signal, sys\nfrom runtime import command\ndef main():\n    {body}\ncommand.run(main, 'stopped')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    """A limit on the size of files, as a full disk: also for safetensors, whose error is none of the system's."""
    for write in (
        "write_atomic('x.bin', lambda path: path.write_bytes(bytes(100_000)))",
        "write_tensors('x.bin', {'a': torch.zeros(100_000)})",
        "save_array(Path('x.bin'), np.zeros(100_000))",
    ):
        body = f"""import os, resource; os.chdir({str(tmp_path)!r})
    from pathlib import Path
    import numpy as np, torch
    from runtime.files import write_atomic
    from train.features import save_array
    from train.run import write_tensors
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    {write}"""
        code, _, said = ends(body)
        assert code == 1 and said.startswith("error: ") and said.rstrip().endswith(f"{tmp_path}/x.bin'"), said
        assert said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_what_ends_how():
    assert ends("print('done')") == (0, "done\n", "")
    assert ends("return 7") == (7, "", "")
    for how in ("SIGINT", "SIGTERM"):
        assert ends(f"os.kill(os.getpid(), signal.{how})") == (130, "", "\nstopped\n")
    assert ends("raise ValueError('two\\n lines')") == (1, "", "error: two lines\n")
    assert ends("raise OSError()") == (1, "", "error: OSError\n")
    code, _, said = ends("return 1 / 0")  # a bug of ours keeps its traceback
    assert code == 1 and "ZeroDivisionError" in said


def test_every_command_ends_this_way():
    """Every `__main__` block of the project is one call of command.run."""
    found = 0
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                assert len(node.body) == 1 and ast.unparse(node.body[0]).startswith("command.run(main"), path
                found += 1
    assert found >= 16


@pytest.mark.parametrize(
    "args",
    [("devices.report", "runtime/bundles/esc10", "--runs", 0), ("devices.report", "--help"), ("runtime.bundle",),
     ("benchmarks.devices", "--json")],
)  # fmt: skip
def test_a_closed_pipe_is_no_error(args):
    """The reader is gone before the first line, as after `| head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        command_line = [sys.executable, "-m", *map(str, args)]
        done = subprocess.run(command_line, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    said = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]  # LiteRT's own
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_that_is_stopped_has_done_its_work(how):
    """Nothing else ends a microphone's stream: 0, whether a person or a service manager stops it."""
    arguments = [sys.executable, "-m", "runtime.stream", "--stdin"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=ROOT, **pipes) as stream:
        stream.stdin.write(bytes(2 * 44100))
        stream.stdin.flush()
        while not stream.stderr.readline().startswith(b"esc10"):  # the greeting: it listens now
            assert stream.poll() is None
        stream.send_signal(how)
        said = stream.stderr.read().decode()
    assert stream.returncode == 0 and said.splitlines()[-1] == "stopped"


def test_ctrl_c_and_missing_packages_during_imports(tmp_path):
    """A stand-in for torch that is interrupted while it loads, and none at all."""
    torch = tmp_path / "torch.py"
    for text, code, sentence in [
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", 130, "stopped"),
        ("import nowhere_to_be_found", 1, "error: No module named 'nowhere_to_be_found': see pyproject.toml"),
    ]:
        torch.write_text(text)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        command_line = [sys.executable, "-m", "compress.size"]
        done = subprocess.run(command_line, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == code and done.stderr.strip().startswith(sentence), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_bad_paths_end_in_one_line(tmp_path):
    for args in (
        ("benchmarks.devices", "--rows", tmp_path / "none.csv"),
        ("benchmarks.devices", "--models", tmp_path / "none"),
        ("runtime.bundle", tmp_path / "none"),
    ):
        done = run(*args)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert str(tmp_path / "none") in done.stderr
