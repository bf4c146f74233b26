"""A day through the file path, an hour through the callback path: memory flat, time exact.  python -m tests.soak [HOURS]

Not a test of `make test`: a day of sound takes about forty minutes of one core. Exits with 1 where anything grows or drifts.
"""

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from runtime.audio import Source, blocks
from runtime.bundle import Bundle
from runtime.events import Detector
from runtime.stream import Stream, decisions
from tests.test_microphone import FakePortAudio

SOUND = Path("train/recordings/audio")
WARM_UP_S, REPORT_S, FLAT_MB = 600, 600, 1.0


def rss_mb() -> float:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


def day_of_files(sr: int, n_samples: int) -> Iterator[np.ndarray]:
    """The recordings that ship, read one after the other, over and over."""
    paths = sorted(SOUND.glob("*.ogg"))[:40]
    left = n_samples
    while left:
        for path in paths:
            for block in blocks(path):
                yield block[:left]
                left -= len(block[:left])
                if not left:
                    return


def soak(name: str, source: Source, hours: float) -> bool:
    stream = Stream(Bundle.load(), 5, 1)
    detector, n_events, last_s = Detector(stream.bundle.labels, stream.bundle.rules), 0, 0.0
    memory, cpu_s = [], time.process_time()
    for n, decision in enumerate(decisions(source, stream)):
        n_events += len(detector.feed(decision))
        last_s = decision.end_s
        if n % REPORT_S == REPORT_S - 1:
            now = time.process_time()
            if last_s > WARM_UP_S:
                memory.append(rss_mb())
            print(
                f"{name}: {last_s / 3600:6.2f} h, {rss_mb():.1f} MB, {(now - cpu_s) / REPORT_S:.4f} s of processor per s, "
                f"{n_events} events, faults {source.faults.counts()}",
                flush=True,
            )
            cpu_s = now
    drift = last_s - hours * 3600
    grown = max(memory) - min(memory) if memory else 0.0
    print(f"{name}: memory within {grown:.2f} MB after warm-up, the last decision {drift:+.6f} s off the sound's end")
    return grown <= FLAT_MB and abs(drift) < 1e-6


def callback_source(sr: int, n_samples: int) -> Source:
    """A microphone whose callback is called from another thread, as fast as the ring takes it."""
    from runtime import microphone

    fake = FakePortAudio("sounddevice")
    fake.sr = sr
    sys.modules["sounddevice"] = fake
    opened = microphone.Microphone(None, None, 1, 0.1, print)

    clock, status = SimpleNamespace(inputBufferAdcTime=0.0), SimpleNamespace(input_overflow=False)

    def fill() -> None:
        for block in day_of_files(sr, n_samples):
            while opened.backlog_s() > microphone.RING_S / 2:
                time.sleep(0.001)
            fake.callback(block[:, None], len(block), clock, status)
        fake.callback(np.zeros((0, 1), np.float32), 0, clock, status)  # the end

    threading.Thread(target=fill, daemon=True).start()

    def until_the_end() -> Iterator[np.ndarray]:
        for block in opened.listen():
            if not len(block):
                return
            yield block

    return Source(sr, until_the_end(), opened.faults, opened.backlog_s)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument(
        "hours", type=float, nargs="?", default=24.0, help="of sound through the file path (default 24)"
    )
    hours = parser.parse_args().hours
    sr = Bundle.load().sr
    from_files = soak("files", Source(sr, day_of_files(sr, round(hours * 3600 * sr))), hours)
    hour = min(1.0, hours)
    return 0 if soak("callback", callback_source(sr, round(hour * 3600 * sr)), hour) and from_files else 1


if __name__ == "__main__":
    sys.exit(main())
