"""Everything that goes wrong with a live stream, in one run of the command: counted once each, and survived."""

import _thread
import json
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest

from runtime import microphone as mic
from runtime import stream
from tests.conftest import SR, noise
from tests.test_microphone import FakePortAudio

BLOCK = SR // 10


@pytest.fixture
def eager_bundle(small_bundle, tmp_path):
    """A copy whose rules call everything an event."""
    folder = tmp_path / "eager"
    shutil.copytree(small_bundle, folder)
    values = json.loads((folder / "bundle.json").read_text())
    everything = dict.fromkeys(values["labels"], 0.0)
    (folder / "bundle.json").write_text(json.dumps(values | {"rules": {"on": everything, "off": everything}}))
    return folder


class Device(FakePortAudio):
    """Plays blocks into the callback as fast as they are taken, and what a test wants in between."""

    sr, played = SR, 0

    def play(self, seconds, wave=None, overflow=False, lost_s=0.0):
        wave = noise(seconds, seed=self.played) if wave is None else wave
        self.played += 1
        for start in range(0, len(wave) - BLOCK + 1, BLOCK):
            while self.callback.__self__.backlog_s() > 1:
                time.sleep(0.002)
            block = np.repeat(wave[start : start + BLOCK, None], self.channels, axis=1)
            self.deliver(block, overflow, lost_s)
            overflow, lost_s = False, 0.0


@pytest.fixture
def device(monkeypatch):
    fake = Device("sounddevice")
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(mic, "QUIET_S", 0.5)
    monkeypatch.setattr(mic, "RETRY_S", 0.05)
    return fake


def test_every_fault_is_counted_once_and_survived(eager_bundle, device, tmp_path, capfd):
    events = tmp_path / "events.jsonl"
    # nobody listens on port 9, and /dev/full is always full
    arguments = ["--mic", "--bundle", str(eager_bundle), "--window", "1", "--hop", "0.5", "--events", str(events)]
    arguments += ["--csv", "/dev/full", "--webhook", "http://127.0.0.1:9/", "--mqtt", "mqtt://127.0.0.1:9"]

    def play():
        device.play(6)
        device.play(1, overflow=True, lost_s=0.25)  # the driver's overrun
        broken = noise(0.2)
        broken[100:200] = np.nan
        device.play(0.2, broken)
        device.play(1)
        clipped = noise(0.1)
        clipped[50:60] = 1.0
        device.play(0.1, clipped)
        device.play(1, np.zeros(SR, np.float32))
        device.is_plugged = False  # nothing comes for longer than QUIET_S: it is taken for gone
        time.sleep(1)
        device.sr, device.is_plugged = 16000, True
        while not device.is_open:
            time.sleep(0.01)
        device.play(3)
        ring = device.callback.__self__.ring
        with ring._filled:  # a reader that is held up for more than the ring holds, as by a machine that swaps
            for _ in range(int(mic.RING_S * 10) + 20):
                device.deliver(np.full((1600, 1), 0.01, np.float32))
        while device.callback.__self__.backlog_s():
            time.sleep(0.01)
        time.sleep(0.1)
        _thread.interrupt_main(signal.SIGINT)

    threading.Thread(target=play, daemon=True).start()
    assert stream.main(arguments) == 0
    said = capfd.readouterr().err
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    faults = rows[-1]["faults"]
    assert faults.pop("lost_samples") > 0.25 * SR + 20 * 1600
    assert faults.pop("late_windows", 0) <= 4 * mic.RING_S  # at most all that waited in the ring
    assert faults.pop("silent_samples") == SR
    assert faults.pop("unsent_csv") > 0
    assert faults == {"overruns": 2, "restarts": 1, "rate_changes": 1, "bad_bursts": 1, "bad_samples": 100,
                      "clipped_samples": 10}  # fmt: skip
    assert {row["label"] for row in rows if row["end_s"] is None} == {row["label"] for row in rows if row["end_s"]}
    for sentence in (
        "csv /dev/full",
        "waiting for it to come back",
        "is back, at 16000 Hz",
        "events never left",
        "stopped",
    ):
        assert sentence in said, said
    assert said.count("No space left") == 1
