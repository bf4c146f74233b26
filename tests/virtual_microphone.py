"""A recording played into the default microphone against the recording itself. Run by virtual_microphone.sh."""

import subprocess
import sys
import threading
import time

import numpy as np

from runtime.audio import Source, read
from runtime.bundle import Bundle
from runtime.events import Detector
from runtime.microphone import microphone
from runtime.stream import Stream, decisions

MARK = 0.75  # the sample that tells where the recording begins


def from_the_mark(source, n_samples, heard):
    """The source's blocks from the first sample near MARK on, n_samples in all; they are added to `heard` too."""
    n, deadline_s = 0, time.monotonic() + n_samples / source.sr + 30
    for block in source:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{n} of {n_samples} samples came in time")
        if not n:
            at = np.flatnonzero(np.abs(block - MARK) < 1e-3)
            if not len(at):
                continue
            block = block[at[0] :]
        block = block[: n_samples - n]
        heard.append(block)
        n += len(block)
        yield block
        if n == n_samples:
            return


def events_of(source, bundle):
    detector, events = Detector(bundle.labels, bundle.rules), []
    for decision in decisions(source, Stream(bundle)):
        events += detector.feed(decision)
        if not decision.end_s % 60:
            print(f"{decision.end_s / 60:.0f} min, {len(events)} events", flush=True)
    return events + detector.flush()


def main():
    path = sys.argv[1]
    wave, sr = read(path)
    whole = (np.concatenate([np.float32([MARK]), wave]) * 32767).round().astype("<i2")
    marked = whole.astype(np.float32) / 32768
    raw = bytes(2 * sr) + whole.tobytes()  # a server may drop the very first samples of a playback
    bundle = Bundle.load()
    from_file = events_of(Source(sr, iter(np.array_split(marked, 600))), bundle)
    source = microphone()
    player = subprocess.Popen(
        ["pacat", "--playback", "--device=virtual", f"--rate={sr}", "--channels=1", "--format=s16le"],
        stdin=subprocess.PIPE,
    )
    time.sleep(1)
    threading.Thread(target=lambda: (player.stdin.write(raw), player.stdin.close()), daemon=True).start()
    heard = []
    live = Source(source.sr, from_the_mark(source, len(marked), heard), source.faults, source.backlog_s)
    from_mic = events_of(live, bundle)
    heard = np.concatenate(heard)
    n_same = int((heard == marked).sum())
    print(f"{n_same} of {len(marked)} samples as played; faults {source.faults.counts()}")
    print(f"{len(from_mic)} events from the microphone, {len(from_file)} from the file")
    if n_same != len(marked) or from_mic != from_file:
        sys.exit("error: the microphone and the file differ")


if __name__ == "__main__":
    main()
