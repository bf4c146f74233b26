"""runtime.outputs and runtime.clips: what leaves, what is counted, and that nothing holds up the stream."""

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import audio
from runtime.bundle import Bundle
from runtime.events import Detector, Event
from runtime.outputs import CSV_COLUMNS, Csv, JsonLines, OutputError, add_arguments, close_outputs, open_outputs
from runtime.stream import Stream, decisions

ROOT = Path(__file__).parents[1]

CLIP_SR = 8000


def event(n, end_s=None, label="dog"):
    return Event(label, float(n), end_s, n + 1.0, 0.75)


def events_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def python(code, *args):
    """The code in a process of its own -> its CompletedProcess."""
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120)


def let_go(fifo, output):
    """Somebody reads at last: the output's thread goes on, and ends."""
    reader = os.open(fifo, os.O_RDWR)
    output._thread.join(60)
    os.close(reader)
    assert not output._thread.is_alive()


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


def test_lines_are_the_events_and_a_restart_appends(tmp_path):
    sent = [
        event(1),
        event(1, 2.5),
        Event('a "b",\nc', 1 / 3, None, 9.0, 0.5, "2026-11-21T18:56:01Z", "b.wav", {"overruns": 2}),
    ]
    for part in (sent[:1], sent[1:]):
        outputs = [JsonLines(tmp_path / "e.jsonl"), Csv(tmp_path / "e.csv")]
        for each in part:
            for output in outputs:
                output.event(each)
        close_outputs(outputs)
        assert [output.unsent for output in outputs] == [0, 0]
    assert events_of(tmp_path / "e.jsonl") == [dataclasses.asdict(each) for each in sent]
    with (tmp_path / "e.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["label"], float(row["start_s"])) for row in rows] == [(each.label, each.start_s) for each in sent]
    assert [row["end_s"] for row in rows] == ["", "2.5", ""]
    assert [row["faults"] for row in rows] == ["", "", '{"overruns": 2}']


@pytest.mark.parametrize("kind", [JsonLines, Csv])
def test_a_line_cut_off_by_a_crash_costs_no_other(tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for path in (whole, cut):
        output = kind(path)
        output.event(event(1))
        output.close()
    cut.write_text(cut.read_text() + '{"label": "do')
    for path in (whole, cut):
        output = kind(path)
        output.event(event(2))
        output.close()
    assert cut.read_text().splitlines()[-1] == whole.read_text().splitlines()[-1]


def test_a_full_device_is_said_once_and_each_event_counted(tmp_path):
    said = []
    (tmp_path / "full").symlink_to("/dev/full")
    outputs = [JsonLines(tmp_path / "full", said.append), JsonLines(tmp_path / "e.jsonl", said.append)]
    for n in range(5):
        for output in outputs:
            output.event(event(n))
    close_outputs(outputs)
    assert [output.unsent for output in outputs] == [5, 0]
    assert len(said) == 1 and said[0].startswith(f"jsonl {tmp_path / 'full'}: No space left on device")
    assert [row["start_s"] for row in events_of(tmp_path / "e.jsonl")] == [0, 1, 2, 3, 4]


FULL_DISK = """
import json, resource, signal, sys
import numpy as np
from pathlib import Path
from runtime.clips import Clips
from runtime.events import Event
from runtime.outputs import JsonLines

def settle():
    with lines._changed:
        lines._changed.wait_for(lambda: not lines._jobs and not lines._busy)

folder, said = Path(sys.argv[1]), []
lines, clips = JsonLines(folder / "e.jsonl", said.append), Clips(folder / "clips", 8000, live=False, say=said.append)
room = lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
noise = np.random.default_rng(0).uniform(-1, 1, 8000 * 20).astype(np.float32)
room(300)
for n in range(6):
    lines.event(Event("dog", float(n), None, n + 1.0, 0.75))
settle()
clips.event(Event("dog", 5.0, None, 6.0, 0.75))
clips.event(Event("dog", 5.0, 6.0, 6.0, 0.75))
clips.sound(noise)
with clips._changed:
    clips._changed.wait_for(lambda: clips.unsent)
lost = [lines.unsent, clips.unsent]
room(resource.RLIM_INFINITY)
lines.event(Event("dog", 9.0, None, 10.0, 0.75))
clips.event(Event("rain", 20.0, None, 21.0, 0.75))
clips.event(Event("rain", 20.0, 21.0, 21.0, 0.75))
clips.sound(noise)
lines.close(), clips.close()
print(json.dumps({"lost": lost, "unsent": [lines.unsent, clips.unsent], "said": said}))
"""


def test_a_disk_that_fills_up_within_a_line_and_has_room_again(tmp_path):
    """The limit on a file's size stands for the disk's: the write that reaches it is cut short, the next one fails."""
    result = python(FULL_DISK, tmp_path)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    rows = events_of(tmp_path / "e.jsonl")  # each line is whole
    n_before = len(rows) - 1
    assert 0 < n_before < 6 and [row["start_s"] for row in rows] == [*range(n_before), 9.0]
    assert seen["lost"] == seen["unsent"] == [6 - n_before, 1]
    for name in ("jsonl", "clips"):
        assert [line.partition(" ")[0] for line in seen["said"]].count(name) == 2  # it fails, it works again
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["tinyear-000020.000s-rain.flac"]


def test_a_hanging_sink_costs_the_oldest_events_and_no_time(tmp_path):
    """A FIFO that nobody reads hangs in open(): for ever, as far as the output can know."""
    os.mkfifo(tmp_path / "fifo")
    output = JsonLines(tmp_path / "fifo")
    output.n_waiting = 50
    for n in range(500):
        output.event(event(n))
    reader = os.open(tmp_path / "fifo", os.O_RDWR)
    output.close()
    os.set_blocking(reader, False)
    got = [json.loads(line)["start_s"] for line in os.read(reader, 1 << 16).splitlines()]
    os.close(reader)
    assert got[-50:] == list(range(450, 500)) and len(got) <= 51  # one was under way
    assert output.unsent == 500 - len(got)


def test_close_gives_up_on_what_hangs(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    output = JsonLines(tmp_path / "fifo")
    for n in range(7):
        output.event(event(n))
    output.close(0.1)
    assert output.unsent == 7
    output.event(event(8))
    output.close(0.1)
    assert output.unsent == 8
    let_go(tmp_path / "fifo", output)
    assert output.unsent == 8  # nothing is counted twice


def test_a_program_ends_though_its_output_hangs(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import sys; from pathlib import Path; from runtime.events import Event; from runtime.outputs import *\n"
        "outputs = [JsonLines(Path(sys.argv[1]), close_s=0.1), Csv(Path(sys.argv[2]), close_s=0.1)]\n"
        "for output in outputs: output.event(Event('dog', 1.0, None, 2.0, 0.9))\n"
        "close_outputs(outputs); print([output.unsent for output in outputs])"
    )
    result = python(code, tmp_path / "fifo", tmp_path / "e.csv")
    assert result.returncode == 0 and result.stdout.strip() == "[1, 0]", result.stderr
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 2


def test_no_event_is_lost_or_doubled_by_threads(tmp_path):
    """Sent and unsent add up, whatever the queue's length."""
    for n_waiting in (1, 3, 1000):
        path = tmp_path / f"{n_waiting}.jsonl"
        output = JsonLines(path)
        output.n_waiting = n_waiting
        for n in range(400):
            output.event(event(n))
        output.close()
        got = [row["start_s"] for row in events_of(path)]
        assert got == sorted(set(got)) and got[-1] == 399 and len(got) + output.unsent == 400


@pytest.fixture()
def recorder(tmp_path):
    from runtime.clips import Clips

    pytest.importorskip("soundfile")
    made = []

    def make(**settings):
        made.append(Clips(tmp_path / "clips", CLIP_SR, **settings))
        return made[-1]

    yield make
    close_outputs(made)


def white(seconds, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, round(seconds * CLIP_SR)).astype(np.float32)


def read_clip(path):
    import soundfile

    with soundfile.SoundFile(path) as file:
        return file.read(dtype="int16"), json.loads(file.comment), file.samplerate


def play(output, wave, rng, events=()):
    """Ragged blocks; each event once the stream has reached its at_s."""
    at, events = 0, sorted(events, key=lambda each: each.at_s)
    while at < len(wave):
        n = int(rng.integers(1, 2 * CLIP_SR))
        if events:
            n = max(1, min(n, round(events[0].at_s * CLIP_SR) - at))
        output.sound(wave[at : at + n])
        at += n
        while events and events[0].at_s * CLIP_SR <= at:
            output.event(events.pop(0))
    return events


def test_a_clip_is_the_sound_around_its_event_to_the_sample(recorder, tmp_path):
    wave, output = white(120), recorder(clip_s=2, live=False)
    dog, rain = Event("dog", 70.5, None, 71.0, 0.9), Event("sea waves", 72.0, None, 72.0, 0.8)
    ends = [dataclasses.replace(dog, end_s=75.25, at_s=75.25), dataclasses.replace(rain, end_s=118.0, at_s=118.0)]
    assert play(output, wave, np.random.default_rng(1), [dog, rain, *ends]) == []
    output.close()
    assert output.unsent == 0
    paths = sorted((tmp_path / "clips").iterdir())
    assert [path.name for path in paths] == ["tinyear-000070.500s-dog.flac", "tinyear-000072.000s-sea_waves.flac"]
    for path, start_s, stop_s, said in zip(paths, (68.5, 70), (77.25, 100), (ends[0], rain)):  # 30 s are the most
        samples, comment, sr = read_clip(path)
        wanted = np.rint(wave[round(start_s * CLIP_SR) : round(stop_s * CLIP_SR)] * 32767)
        assert sr == CLIP_SR and np.array_equal(samples, wanted) and comment == dataclasses.asdict(said)


def test_clips_at_both_ends_of_a_stream_take_what_there_is(recorder, tmp_path):
    wave, output = white(9), recorder(clip_s=5, live=False)
    play(output, wave, np.random.default_rng(0), [Event("dog", 2.0, None, 2.0, 0.9)])
    output.close()
    (path,) = (tmp_path / "clips").iterdir()
    assert np.array_equal(read_clip(path)[0], np.rint(wave * 32767))


def test_lost_samples_are_silence_and_time_goes_on(recorder, tmp_path):
    day = 86400 * CLIP_SR
    wave, output = white(4), recorder(clip_s=1, live=False)
    output.sound(wave)
    output.event(Event("dog", 4.0, None, 4.0, 0.9))
    output.skip(day)
    output.sound(wave)
    output.event(Event("dog", 86406.0, None, 86406.0, 0.9))
    output.close()
    first, second = (read_clip(path)[0] for path in sorted((tmp_path / "clips").iterdir()))
    sound = np.rint(wave * 32767)
    assert np.array_equal(first, np.concatenate([sound[3 * CLIP_SR :], np.zeros(29 * CLIP_SR)]))
    assert np.array_equal(second, sound[1 * CLIP_SR :])


def test_each_recording_of_a_folder_begins_at_0_s(recorder, tmp_path):
    output = recorder(clip_s=1, live=False)
    for seed in range(2):
        output.sound(white(5, seed))
        output.event(Event("dog", 4.0, None, 4.0, 0.9))
        output.reset()
    output.close()
    paths = sorted((tmp_path / "clips").iterdir(), key=lambda path: len(path.name))
    assert [path.name for path in paths] == ["tinyear-000004.000s-dog.flac", "tinyear-000004.000s-dog-2.flac"]
    for seed, path in enumerate(paths):
        assert np.array_equal(read_clip(path)[0], np.rint(white(5, seed)[3 * CLIP_SR :] * 32767))


def test_the_oldest_clips_give_way_and_foreign_files_stay(recorder, tmp_path):
    foreign = {"mine.flac": 9_000_000, "tinyear-notes.flac": 5, "tinyear-000001.000s-dog.flac.txt": 5}
    (tmp_path / "clips").mkdir()
    for name, n_bytes in foreign.items():
        (tmp_path / "clips" / name).write_bytes(bytes(n_bytes))
    stale = tmp_path / "clips" / "tinyear-000000.100s-dog.flac.part"  # a crash left it: ours, and the oldest
    stale.write_bytes(bytes(1000))
    os.utime(stale, (1, 1))
    output = recorder(cap_mb=5, clip_s=15, live=False)
    events = [Event(f"n{n}", 20.0 + 30 * n, None, 20.0 + 30 * n, 0.9) for n in range(15)]
    play(output, white(20 + 30 * 15), np.random.default_rng(0), events)
    output.close()
    paths = sorted(path for path in (tmp_path / "clips").iterdir() if path.name not in foreign)
    sizes = [path.stat().st_size for path in paths]
    assert output.unsent == 0 and 5e6 - max(sizes) < sum(sizes) <= 5e6
    assert [path.name.split("-")[2] for path in paths] == [f"n{n}.flac" for n in range(15 - len(paths), 15)]
    assert {name: (tmp_path / "clips" / name).stat().st_size for name in foreign} == foreign


def test_clips_of_a_live_stream_are_named_by_the_clock_and_none_is_overwritten(recorder, tmp_path):
    output = recorder(clip_s=1)
    for _ in range(2):  # a clock that was set back
        output.sound(white(3))
        moment = Event("../a b\ud800日", output._n / CLIP_SR, None, 1.0, 0.9, "2026-11-21T19:56:01.2345+01:00")
        output.event(moment)
    output.close()
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["tinyear-20261121T185601.234Z-_a_b_日-2.flac", "tinyear-20261121T185601.234Z-_a_b_日.flac"]


def test_a_folder_that_goes_away_and_comes_back(recorder, tmp_path):
    said = []
    output = recorder(clip_s=1, live=False, say=said.append)
    (tmp_path / "clips").rmdir()

    def clip(label, n_lost):
        output.event(Event(label, output._n / CLIP_SR + 1, None, 1.0, 0.9))
        output.sound(white(35))
        with output._changed:
            output._changed.wait_for(lambda: not output._jobs and not output._busy)
        assert output.unsent == n_lost

    clip("one", 1), clip("two", 2)
    (tmp_path / "clips").mkdir()
    clip("three", 2)
    assert len(said) == 2 and "No such file" in said[0] and "works again; 2 lost" in said[1]


@pytest.mark.parametrize("live", [True, False])
def test_a_disk_that_hangs_costs_clips_and_holds_up_the_stream_once_at_most(recorder, tmp_path, live):
    """A FIFO stands where the first clip would be written."""
    output = recorder(clip_s=1, live=live, close_s=0.1)
    fifo = tmp_path / "clips" / "tinyear-000000.000s-n0.flac.part"
    os.mkfifo(fifo)
    for n in range(40):
        output.event(Event(f"n{n}", float(n), None, float(n), 0.9))
        output.event(Event(f"n{n}", float(n), float(n), float(n), 0.9))
        output.sound(white(1))
        while n == 2 and not output._busy:  # the first clip is cut by now: let it be the one that hangs
            time.sleep(0.01)
    output.close()
    assert output.unsent == 40 and not output._patient  # a replay has waited for it once, and no more
    let_go(fifo, output)


def test_a_fast_replay_loses_no_clip_and_its_memory_is_bounded(recorder, tmp_path):
    import tracemalloc

    output = recorder(clip_s=1, live=False)
    wave = white(1)
    tracemalloc.start()
    for n in range(60):
        output.event(Event(f"n{n}", float(n), None, float(n), 0.9))
        output.event(Event(f"n{n}", float(n), float(n), float(n), 0.9))
        output.sound(wave)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    output.close()
    assert output.unsent == 0 and len(list((tmp_path / "clips").iterdir())) == 60
    assert peak < 2e6, f"{peak} bytes"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--events", "/nowhere/e.jsonl"], "/nowhere/e.jsonl cannot be written: give a file's path in a folder"),
        (["--csv", "/"], "/ cannot be written"),
        (["--clips", "/dev/null"], "--clips /dev/null is no folder"),
        (["--clips", "/proc/none"], "--clips /proc/none is no folder"),
        (["--clips", "x", "--clip-s", "nan"], "--clip-s nan: choose 1 to 15 seconds"),
        (["--clips", "x", "--clips-mb", "0"], "--clips-mb 0.0: choose 5 MB or more"),
        (["--webhook", "ftp://a/b"], "--webhook: give http://HOST or https://HOST"),
        (["--webhook", "file:///etc/passwd"], "--webhook: give http://HOST"),
        (["--webhook", "http://a:99999/"], "the host or the port cannot be read"),
        (["--webhook", "http://a/b\r\nX: y"], "without spaces"),
        (["--mqtt", "http://a"], "--mqtt: give mqtt://HOST or mqtts://HOST"),
        (["--mqtt", "mqtt://"], "--mqtt: give mqtt://HOST"),
        (["--mqtt", "mqtt://a/b+"], "leave out + and #"),
        (["--mqtt", "mqtt://a/%23"], "leave out + and #"),
        (["--mqtt", "mqtt://a/" + "b" * 2000], "shorter than 1000"),
        (["--mqtt", "mqtt://a", "--mqtt-discovery", "#"], "--mqtt-discovery '#': leave out"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(small_bundle, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    args = arguments("--events", tmp_path / "e.jsonl", *words)
    with pytest.raises(OutputError) as caught:
        open_outputs(args, Bundle.load(small_bundle), live=True)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert "secret" not in str(caught.value) and not (tmp_path / "x").exists()


def test_secrets_in_a_bad_url_are_not_quoted(small_bundle):
    for flag, url in (("--mqtt", "mqtt://me:secret@h:port"), ("--webhook", "https://me:secret@/secret")):
        with pytest.raises(OutputError) as caught:
            open_outputs(arguments(flag, url), Bundle.load(small_bundle), live=True)
        assert "secret" not in str(caught.value)


def test_flags_open_the_outputs_they_name(small_bundle, tmp_path):
    pytest.importorskip("soundfile")
    bundle = Bundle.load(small_bundle)
    assert open_outputs(arguments(), bundle, live=True) == []
    words = ("--events", tmp_path / "e", "--csv", tmp_path / "c", "--clips", tmp_path / "d", "--webhook", "http://a")
    outputs = open_outputs(arguments(*words), bundle, live=True)
    close_outputs(outputs)
    assert [output.name for output in outputs] == ["jsonl", "csv", "clips", "webhook"]


def test_what_an_output_needs_is_imported_with_it_alone():
    code = (
        "import sys, runtime.outputs, runtime.view\n"
        "print({'paho', 'soundfile', 'urllib.request', 'http.client', 'ssl', 'curses', 'runtime.clips'}"
        " & set(sys.modules))"
    )
    result = python(code)
    assert result.stdout.strip() == "set()", result.stderr


def test_a_replayed_file_arrives_everywhere(tmp_path):
    """The shipped bundle on a real recording, through the stream's own loop."""
    soundfile = pytest.importorskip("soundfile")
    bundle = Bundle.load()
    dog, sr = soundfile.read(ROOT / "train/recordings/audio/1-100032-A-0.ogg", dtype="float32")
    wave = np.concatenate([np.zeros(5 * sr), np.tile(dog, 12 * sr // len(dog)), np.zeros(10 * sr)])
    soundfile.write(tmp_path / "a.wav", wave, sr)
    outputs = open_outputs(arguments("--events", tmp_path / "e", "--clips", tmp_path / "c"), bundle, live=False)
    detector, seen = Detector(bundle.labels), []  # whatever rules the bundle has learned
    for decision in decisions(audio.blocks(tmp_path / "a.wav"), Stream(bundle), taps=outputs):
        for each in detector.feed(decision):
            seen.append(each)
            for output in outputs:
                output.event(each)
    close_outputs(outputs)
    assert [output.unsent for output in outputs] == [0, 0]
    assert events_of(tmp_path / "e") == [dataclasses.asdict(each) | {"p": round(each.p, 6)} for each in seen]
    begins = [each for each in seen if each.end_s is None]
    assert "dog" in [each.label for each in begins] and len(begins) == len(list((tmp_path / "c").iterdir()))
    for path in (tmp_path / "c").iterdir():
        samples, comment, _ = read_clip(path)
        start = round((comment["start_s"] - 5) * sr)
        heard = np.rint(np.clip(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], -1, 1) * 32767)
        assert np.abs(samples - heard[start : start + len(samples)]).max() <= 1
