"""The microphone against a PortAudio that the test plays: overruns, unplugging, lies about the rate."""

import sys
import threading
import types

import numpy as np
import pytest

from runtime import microphone as mic
from runtime.audio import AudioError, Gap
from runtime.microphone import Ring, list_devices, microphone


class FakePortAudio(types.ModuleType):
    """sounddevice with one device whose blocks the test pushes by hand."""

    class PortAudioError(Exception):
        pass

    sr, is_plugged, n_initialized, adc_s = 48000, True, 0, 0.0

    def query_devices(self, device=None, kind=None):
        if device == "nosuch":
            raise ValueError("No input device matching 'nosuch'")
        facts = {"name": "fake", "default_samplerate": float(self.sr), "max_input_channels": 2}
        return facts if kind else [facts, facts | {"name": "loudspeaker", "max_input_channels": 0}]

    def InputStream(self, sr, blocksize, device, channels, dtype, callback):
        if sr == 96000 or not self.is_plugged:
            raise self.PortAudioError("Invalid sample rate")
        self.blocksize, self.channels, self.callback, self.is_open = blocksize, channels, callback, False
        return self

    def start(self):
        self.is_open = True

    def close(self):
        self.is_open = False

    def _terminate(self):
        self.n_initialized -= 1

    def _initialize(self):
        self.n_initialized += 1

    def push(self, value: float, overflow: bool = False, lost_s: float = 0.0):
        block = np.full((self.blocksize, self.channels), value, np.float32)
        block[:, -1] += 0.125
        self.deliver(block, overflow, lost_s)

    def deliver(self, block: np.ndarray, overflow: bool = False, lost_s: float = 0.0):
        self.adc_s += lost_s
        clock = types.SimpleNamespace(inputBufferAdcTime=self.adc_s)
        self.callback(block, len(block), clock, types.SimpleNamespace(input_overflow=overflow))
        self.adc_s += len(block) / self.sr
        block[:] = np.nan  # PortAudio reuses its buffer


@pytest.fixture
def portaudio(monkeypatch):
    fake = FakePortAudio("sounddevice")
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(mic, "QUIET_S", 0.02)
    monkeypatch.setattr(mic, "RETRY_S", 0.01)
    return fake


def values(blocks, n):
    return [block if isinstance(block, Gap) else float(block[0]) for _, block in zip(range(n), blocks)]


def test_delivers_copies_of_one_channel_at_the_device_rate(portaudio):
    source = microphone()
    portaudio.push(0.25)
    portaudio.push(0.5)
    assert source.backlog_s() == pytest.approx(0.2)
    assert source.sr == 48000 and values(source, 2) == [0.375, 0.625]  # a single channel is the last, too
    assert portaudio.blocksize == 4800 and portaudio.is_open
    source.blocks.close()
    assert not portaudio.is_open
    second = microphone(channel=2)
    portaudio.push(0.25)
    assert portaudio.channels == 2 and values(second, 1) == [0.375]


def test_a_slow_reader_loses_the_oldest_in_one_gap(portaudio):
    source = microphone(44100)
    n_blocks = round(mic.RING_S * 10) + 3
    for number in range(n_blocks):
        portaudio.push(number)
    assert source.backlog_s() == pytest.approx(mic.RING_S)
    assert values(source, 3) == [Gap(3 * 4410), 3.125, 4.125]
    assert source.faults.counts() == {"overruns": 1, "lost_samples": 3 * 4410}


def test_what_the_driver_lost_is_told_by_its_clock(portaudio):
    source = microphone()
    portaudio.push(0.0)
    portaudio.push(1.0, overflow=True, lost_s=0.25)
    assert values(source, 3) == [0.125, Gap(12000), 1.125]
    assert source.faults.counts() == {"overruns": 1, "lost_samples": 12000}


def test_a_device_that_was_unplugged_comes_back_at_its_new_rate(portaudio, capsys):
    source = microphone()
    portaudio.push(0.0)
    assert values(source, 1) == [0.125]
    portaudio.is_plugged = False

    def plug_in():
        portaudio.sr, portaudio.is_plugged = 16000, True

    threading.Timer(0.1, plug_in).start()
    gap = next(source.blocks)
    assert gap.sr == 16000 and 0.1 * 48000 < gap.n_samples < 5 * 48000
    portaudio.push(1.0)
    assert len(next(source.blocks)) == 1600
    assert source.faults.counts() == {"restarts": 1, "rate_changes": 1, "lost_samples": gap.n_samples}
    said = capsys.readouterr().out
    assert "waiting for it" in said and "back, at 16000 Hz" in said
    assert portaudio.n_initialized == 0  # each end of PortAudio was followed by a new start


@pytest.mark.parametrize("real_sr, is_lie", [(48000, True), (44100, False), (43900, False), (16000, True)])
def test_a_device_that_lies_about_its_rate_is_told_once(real_sr, is_lie):
    watch, told = mic._RateWatch(44100), []
    for block in range(1200):  # two minutes of 0.1 s, each up to 30 ms late
        jitter_s = 0.03 * ((block * 7919) % 100) / 100
        told.append(watch.is_wrong(real_sr // 10, block * 0.1 + jitter_s))
    assert sum(told) == is_lie
    assert watch.measured_hz == pytest.approx(real_sr, rel=0.01)


def test_ring_under_two_threads_loses_nothing_it_does_not_count():
    ring, n_blocks = Ring(max_samples=64), 5000

    def fill():
        for number in range(n_blocks):
            ring.put(np.full(1 + number % 7, number, np.float32))

    writer = threading.Thread(target=fill)
    writer.start()
    seen, n_lost, last = 0, 0, -1
    while (item := ring.get(0.2)) is not None:
        lost, block, _ = item
        n_lost, seen = n_lost + lost, seen + len(block)
        assert block[0] > last
        last = block[0]
    writer.join()
    assert seen + n_lost == sum(1 + number % 7 for number in range(n_blocks)) and last == n_blocks - 1


def test_a_microphone_that_cannot_be_had(portaudio, monkeypatch):
    with pytest.raises(AudioError, match=r"nosuch.*--list"):
        microphone(device="nosuch")
    with pytest.raises(AudioError, match="Invalid sample rate"):
        microphone(96000)
    with pytest.raises(AudioError, match="sample rate 1 Hz"):
        microphone(1)
    with pytest.raises(AudioError, match="channel 3: the microphone has 2"):
        microphone(channel=3)
    with pytest.raises(AudioError, match="count from 1"):
        microphone(channel=0)


def test_list_names_what_can_be_heard(portaudio):
    assert list_devices() == "  0  fake  (2 channels, 48000 Hz)"


def test_without_the_audio_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"pip install 'tinyear\[audio\]'"):
        microphone()


def test_without_portaudio(monkeypatch):
    class NoLibrary:
        def find_spec(self, name, path=None, target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoLibrary(), *sys.meta_path])
    with pytest.raises(AudioError, match="libportaudio2"):
        microphone()
