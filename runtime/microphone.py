"""A microphone as a Source: PortAudio's callback fills a ring, so that the nets never hold up the capture.

What is lost is never hidden: a Gap stands where sound is missing, and the source's `faults` count it. A device that was
unplugged is waited for; a device whose rate is not the one it claims is said to be so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from runtime.audio import INSTALL, AudioError, Gap, Source, check_sr, n_block
from runtime.faults import Faults

NONE_HERE = "no microphone here: plug one in, or pipe into --stdin"
RING_S = 10.0  # sound that may wait; then the oldest gives way
QUIET_S = 3.0  # a device that delivers nothing for so long is gone
RETRY_S = 1.0
RATE_AFTER_S = 20.0  # how long the rate is measured; what a scheduler jitters is under RATE_TOLERANCE of that
RATE_TOLERANCE = 0.02


class Ring:
    """Blocks between a callback that must not wait and a reader that may be late. The oldest give way, and are counted."""

    def __init__(self, max_samples: int) -> None:
        self.max_samples = max_samples
        self._blocks: deque[tuple[int, np.ndarray, float]] = deque()
        self._n_samples = 0
        self._filled = threading.Condition()

    @property
    def n_samples(self) -> int:
        return self._n_samples

    def put(self, block: np.ndarray, n_lost: int = 0) -> None:
        """n_lost: samples that the driver lost before this block."""
        with self._filled:
            self._blocks.append((n_lost, block, time.monotonic()))
            self._n_samples += len(block)
            while self._n_samples > self.max_samples and len(self._blocks) > 1:
                n_before, oldest, _ = self._blocks.popleft()
                n_next, block, at = self._blocks[0]
                self._blocks[0] = n_before + len(oldest) + n_next, block, at
                self._n_samples -= len(oldest)
            self._filled.notify()

    def get(self, timeout_s: float) -> tuple[int, np.ndarray, float] | None:
        """-> (samples lost before it, block, time.monotonic() of its arrival), or None where none comes."""
        with self._filled:
            if not self._filled.wait_for(lambda: self._blocks, timeout_s):
                return None
            item = self._blocks.popleft()
            self._n_samples -= len(item[1])
            return item


class Microphone:
    """An open PortAudio input and its ring."""

    def __init__(
        self, sr: int | None, device: int | str | None, channel: int, block_s: float, say: Callable[[str], None]
    ) -> None:
        self.wanted_sr, self.device, self.channel, self.block_s = sr, device, channel, block_s
        self.faults, self._say = Faults(), say
        self._stream: Any = None
        self.open()

    def open(self) -> None:
        """Raises AudioError where PortAudio, the device, the channel or the rate is not to be had."""
        sounddevice = _sounddevice()
        if not any(device["max_input_channels"] for device in sounddevice.query_devices()):
            raise AudioError(NONE_HERE)
        try:
            facts = sounddevice.query_devices(self.device, "input")
            self.sr = int(facts["default_samplerate"] if self.wanted_sr is None else self.wanted_sr)
            check_sr(self.sr, "the device")
            if self.channel > facts["max_input_channels"]:
                raise AudioError(f"channel {self.channel}: the microphone has {facts['max_input_channels']}")
            self.ring = Ring(round(RING_S * self.sr))
            self._next_adc_s = None
            size = n_block(self.block_s, self.sr)
            self._stream = sounddevice.InputStream(
                self.sr, size, self.device, channels=self.channel, dtype="float32", callback=self._callback
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            self.close()
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"this microphone is not to be had ({error}): `--list` shows what there is") from error

    def close(self) -> None:
        if self._stream:
            self._stream.close()
            self._stream = None

    def backlog_s(self) -> float:
        return self.ring.n_samples / self.sr

    def _callback(self, samples: np.ndarray, n: int, clock: Any, status: Any) -> None:
        """On PortAudio's thread. How much an overflow lost only the device's clock can tell."""
        n_lost = 0
        if status.input_overflow:
            expected_s = self._next_adc_s if self._next_adc_s is not None else clock.inputBufferAdcTime
            n_lost = max(1, round((clock.inputBufferAdcTime - expected_s) * self.sr))
        self._next_adc_s = clock.inputBufferAdcTime + n / self.sr
        self.ring.put(samples[:, self.channel - 1].copy(), n_lost)

    def listen(self) -> Iterator[np.ndarray | Gap]:
        """Blocks and gaps, for ever."""
        rate = _RateWatch(self.sr)
        heard_at = time.monotonic()
        try:
            while True:
                item = self.ring.get(QUIET_S)
                if item is None:
                    yield self._come_back(heard_at)
                    rate = _RateWatch(self.sr)
                    heard_at = time.monotonic()
                    continue
                n_lost, block, heard_at = item
                if n_lost:
                    self.faults.overruns += 1
                    self.faults.lost_samples += n_lost
                    yield Gap(n_lost)
                if rate.is_wrong(n_lost + len(block), heard_at):
                    self.faults.rate_changes += 1
                    self._say(
                        f"the device claims {self.sr} Hz and delivers {rate.measured_hz:.0f}: what is heard is off pitch"
                    )
                yield block
        finally:
            self.close()

    def _come_back(self, gone_at: float) -> Gap:
        """Wait for the device, open it again -> what was lost meanwhile, by the clock."""
        self._say(f"the microphone delivered nothing for {QUIET_S:.0f} s: waiting for it to come back")
        old_sr = self.sr
        self.close()
        while True:
            _forget_devices()
            try:
                self.open()
                break
            except AudioError:
                time.sleep(RETRY_S)
        lost = round((time.monotonic() - gone_at) * old_sr)
        self.faults.restarts += 1
        self.faults.lost_samples += lost
        self.faults.rate_changes += self.sr != old_sr
        self._say(f"the microphone is back, at {self.sr} Hz")
        return Gap(lost, self.sr)


class _RateWatch:
    """Samples per second of the clock against what the device claims."""

    def __init__(self, sr: int) -> None:
        self.sr, self.measured_hz = sr, float(sr)
        self._began: float | None = None
        self._n = 0
        self._said = False

    def is_wrong(self, n_samples: int, at_s: float) -> bool:
        """The next samples and when they came -> True once, if the rate is another."""
        if self._began is None:
            self._began = at_s  # these samples came before the clock was started
            return False
        self._n += n_samples
        passed_s = at_s - self._began
        if self._said or passed_s < RATE_AFTER_S:
            return False
        self.measured_hz = self._n / passed_s
        self._said = abs(self.measured_hz / self.sr - 1) > RATE_TOLERANCE
        self._began, self._n = at_s, 0
        return self._said


def microphone(
    sr: int | None = None,
    device: int | str | None = None,
    channel: int = 1,
    block_s: float = 0.1,
    say: Callable[[str], None] = print,
) -> Source:
    """A microphone's Source, at `sr` Hz or the device's own rate; the default one unless `device` names another.

    channel 1.. of a device with several. Raises AudioError where PortAudio, the device or the rate is not to be had; a
    device that goes away later is waited for, and `say` is told.
    """
    if channel < 1:
        raise AudioError(f"channel {channel}: they count from 1")
    opened = Microphone(sr, device, channel, block_s, say)
    return Source(opened.sr, opened.listen(), opened.faults, opened.backlog_s)


def list_devices() -> str:
    """One line per microphone: number, name, channels, rate. Raises AudioError without PortAudio or microphones."""
    devices = list(enumerate(_sounddevice().query_devices()))
    inputs = [(i, d) for i, d in devices if d["max_input_channels"] > 0]
    if not inputs:
        raise AudioError(NONE_HERE)
    return "\n".join(
        f"{i:3d}  {d['name']}  ({d['max_input_channels']} channels, {d['default_samplerate']:.0f} Hz)"
        for i, d in inputs
    )


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise AudioError(f"a microphone needs `{INSTALL}`") from error
    except OSError as error:
        raise AudioError("a microphone needs PortAudio: install libportaudio2, or pipe into --stdin") from error
    return sounddevice


def _forget_devices() -> None:
    """PortAudio lists devices once, when it starts: without this a device that comes back stays unseen."""
    sounddevice = _sounddevice()
    sounddevice._terminate()
    sounddevice._initialize()
