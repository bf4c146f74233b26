"""python -m runtime.stream: rules from the command line, folders, short files, gaps, and what says nothing."""

import io
import json
import os
import stat

import numpy as np
import pytest

from runtime import audio, options, stream
from runtime.bundle import Bundle
from runtime.files import write_atomic
from tests.conftest import SR, noise
from tests.test_stream import write_wav


def heard(capsys, *args):
    code = stream.main([str(arg) for arg in args])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def always(bundle):
    """Arguments that call the first class an event whatever its probability."""
    return ["--bundle", bundle, "--on", f"{Bundle.load(bundle, 'onnx').labels[0]}=1e-9"]


def test_rules_of_the_command_line(small_bundle):
    bundle = Bundle.load(small_bundle, "onnx")
    given = ["--stdin", "--on", "hum=0.3", "--min-s", "2", "--cooldown-s", "7"]
    rules = options.rules(options.arguments(given), bundle)
    assert rules.on["hum"] == 0.3 and rules.off["hum"] == pytest.approx(
        0.3 * bundle.rules.off["hum"] / bundle.rules.on["hum"]
    )
    assert {label: on for label, on in rules.on.items() if label != "hum"} == {"bark": 0.6, "rain": 0.6, "tick": 0.6}
    assert (rules.smooth_s, rules.min_s, rules.cooldown_s) == (0, 2, 7)
    for wrong, sentence in (
        ("cat=0.5", "knows bark, hum"),
        ("hum=2", "choose a probability"),
        ("hum=nan", "choose a probability"),
    ):
        with pytest.raises(ValueError, match=sentence):
            options.rules(options.arguments(["--stdin", "--on", wrong]), bundle)


@pytest.mark.parametrize(
    "args",
    [
        ("--wav", "a.wav", "--device", "3"),
        ("--wav", "a.wav", "--sr", "8000"),
        ("--wav", "a.wav", "--channel", "1"),
        ("--mic", "--sample-format", "s16le"),
        ("--mic", "--realtime"),
        ("--stdin", "--calibrate", "nan"),
        ("--stdin", "--on", "hum"),
        ("--stdin", "--duty", "9/3"),
        ("--stdin", "--view", "--jsonl"),
        ("--stdin", "--nice", "-1"),
        ("--stdin", "--calibrate", "10", "--jsonl"),
        ("--stdin", "--calibrate", "10", "--clips", "sounds"),
        ("--stdin", "--events", "heard", "--csv", "./heard"),
    ],
)
def test_arguments_that_say_nothing_are_refused(args, capsys):
    with pytest.raises(SystemExit) as ended:
        options.arguments(list(args))
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


def test_a_short_recording_makes_events_and_heeds_the_gain(small_bundle, tmp_path, capsys):
    write_wav(tmp_path / "short.wav", noise(1))
    events = tmp_path / "events.jsonl"
    code, lines, said = heard(
        capsys, "--wav", tmp_path / "short.wav", *always(small_bundle), "--events", events, "--jsonl"
    )
    assert code == 0 and "looped" in said and len(lines) == 1
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    assert [row["end_s"] is None for row in rows if row["label"] == "bark"] == [True, False]
    _, quiet, _ = heard(capsys, "--wav", tmp_path / "short.wav", "--bundle", small_bundle, "--gain-db", -60, "--jsonl")
    assert json.loads(quiet[0])["scores"] != json.loads(lines[0])["scores"]


@pytest.mark.parametrize("bad", [("b.wav",), ("a.wav",), ("a.wav", "b.wav"), ("b.wav", "c.wav")])
def test_bad_files_do_not_end_a_folder(small_bundle, tmp_path, capsys, bad):
    good = {"a.wav", "b.wav", "c.wav"} - set(bad)
    for name in good:
        write_wav(tmp_path / name, noise(5))
    for name in bad:
        (tmp_path / name).write_bytes(b"RIFF1234WAVEjunk")
    code, lines, said = heard(capsys, "--wav", tmp_path, "--bundle", small_bundle, "--jsonl")
    assert code == 1 and all(name in said for name in bad)
    assert {json.loads(line)["file"] for line in lines} == good


def test_a_folder_of_bad_files_is_an_error(small_bundle, tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(audio.AudioError, match=r"b\.wav"):
        stream.main(["--wav", str(tmp_path), "--bundle", str(small_bundle)])


def test_events_end_where_the_sound_stops(small_bundle, tmp_path, capsys):
    """Heard 5 s of every 20: nothing is known of the 15 in between."""
    write_wav(tmp_path / "a.wav", noise(26))
    events = tmp_path / "events.jsonl"
    heard(
        capsys, "--wav", tmp_path / "a.wav", *always(small_bundle), "--duty", "5/20", "--events", events, "--hop", 0.5
    )
    rows = [json.loads(line) for line in events.read_text().splitlines() if '"bark"' in line]
    spans = [(row["start_s"], row["end_s"]) for row in rows if row["end_s"] is not None]
    assert len(spans) == 2 and spans[0][1] <= 5 and spans[1][0] >= 20


def test_a_duty_cycle_too_short_for_a_decision_is_refused(small_bundle, tmp_path):
    write_wav(tmp_path / "a.wav", noise(5))
    with pytest.raises(ValueError, match=r"--duty 2/10: a decision takes 3\.9 s"):
        stream.main(["--wav", str(tmp_path / "a.wav"), "--bundle", str(small_bundle), "--duty", "2/10"])


def test_a_wav_file_on_standard_input_is_no_noise(tmp_path):
    write_wav(tmp_path / "a.wav", noise(1))
    raw = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(audio.AudioError, match="holds a WAV file"):
        list(audio.stdin_blocks(SR, stream=io.BytesIO(raw)))


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    """As /dev/full was, by a rename."""
    fifo, link, target = tmp_path / "fifo", tmp_path / "link", tmp_path / "target"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(fifo, lambda path: path.write_text("hello"))
    assert os.read(reader, 9) == b"hello" and stat.S_ISFIFO(fifo.stat().st_mode)
    os.close(reader)
    link.symlink_to(target)
    write_atomic(link, lambda path: path.write_text("there"))
    assert link.is_symlink() and target.read_text() == "there"
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path, lambda path: path.write_text(""))


def test_control_characters_of_a_bundle_reach_no_terminal(small_bundle, tmp_path):
    import shutil

    from runtime.member import BundleError

    for key, value in (("labels", ["bark", "hum", "rain", "\x1b[2J"]), ("labels", ["bark", "hum", "rain", ""])):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(small_bundle, folder)
        values = json.loads((folder / "bundle.json").read_text())
        (folder / "bundle.json").write_text(json.dumps(values | {key: value}))
        with pytest.raises(BundleError, match="printable"):
            Bundle.load(folder, "onnx")


def test_smoothing_takes_the_same_number_of_decisions_wherever_it_is():
    """Tenths of a second are not exact: three tenths must not be three decisions here and four there."""
    from runtime.decide import Decision
    from runtime.events import Detector, Rules

    detector, sizes = Detector(["a"], Rules({"a": 1.0}, {"a": 0.5}, smooth_s=0.3)), set()
    for i in range(1, 400):
        detector.feed(Decision(0.0, i * 4410 / SR, "a", 0.2, {"a": 0.2}, {}))
        sizes.add(len(detector._recent))
    assert sizes == {1, 2, 3} and np.isclose(0.3, 3 * 4410 / SR)
