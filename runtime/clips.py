"""The sound around each event, as FLAC files that name when and what.

    tinyear-20261121T185601.234Z-dog.flac     live: the clock's time, UTC
    tinyear-000012.340s-dog.flac              from a file: seconds of the stream

The event's JSON, as it was known when the clip ended, is the file's comment.
"""

import dataclasses
import io
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from runtime.audio import INSTALL
from runtime.events import Event
from runtime.outputs import CLOSE_S, Output, OutputError, Say, to_stderr

MAX_CLIP_S = 30.0
RING_S = MAX_CLIP_S + 5  # an event is reported a little after it began, and a clip is cut a little after it ended
MIN_CAP_MB = 5.0  # the longest clip, of noise, takes 2.7 MB
FULL_SCALE = 32767
OURS = re.compile(r"tinyear-(\d{8}T\d{6}\.\d{3}Z|\d{6,}\.\d{3}s)-[\w-]+\.flac(\.part)?")


@dataclasses.dataclass
class _Clip:
    """A recording from sample `start` of the stream to before sample `stop`."""

    event: Event
    start: int
    stop: int
    samples: np.ndarray | None = None  # int16, once it is cut


class Clips(Output):
    """Keeps the last RING_S seconds; cuts a clip once the stream has passed its end, and writes it in its own thread.

    A clip lasts from clip_s before its event to clip_s after it, MAX_CLIP_S at most. Clips take cap_mb MB (1e6 bytes)
    together at most: then the oldest are deleted. Other files in the folder are neither counted nor touched.
    """

    name = "clips"
    n_waiting = 4  # cut clips, 2.6 MB each

    def __init__(
        self,
        folder: Path,
        sr: int,
        cap_mb: float = 500,
        clip_s: float = 5,
        live: bool = True,
        say: Say = to_stderr,
        close_s: float = CLOSE_S,
    ) -> None:
        super().__init__(str(folder), say, close_s)
        if not 1 <= clip_s <= MAX_CLIP_S / 2:
            raise OutputError(f"--clip-s {clip_s}: choose 1 to {MAX_CLIP_S / 2:.0f} seconds")
        if not MIN_CAP_MB <= cap_mb <= 1e9:
            raise OutputError(f"--clips-mb {cap_mb}: choose {MIN_CAP_MB:.0f} MB or more")
        try:
            import soundfile
        except (ImportError, OSError) as error:  # OSError: the package without its library
            raise OutputError(f"--clips writes FLAC, and that needs `{INSTALL}`") from error
        self._soundfile: Any = soundfile
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"--clips {folder} is no folder and cannot be made one: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise OutputError(f"--clips {folder}: you may not write there, choose another folder")
        self.folder, self.sr, self.cap_bytes = folder, sr, int(cap_mb * 1e6)
        self._around, self._longest = round(clip_s * sr), round(MAX_CLIP_S * sr)
        self._patient = not live  # a file can wait for the disk
        self._ring = np.zeros(round(RING_S * sr), np.int16)
        self._n = 0  # samples of the stream so far
        self._lasting: list[_Clip] = []  # the stream has not passed their end yet
        self.start()

    def event(self, event: Event) -> None:
        at = round(event.start_s * self.sr)
        if event.end_s is None:
            start = max(0, at - self._around, self._n - len(self._ring) + self.sr)  # a second may come before the cut
            self._lasting.append(_Clip(event, start, start + self._longest))
            return
        for clip in self._lasting:
            if clip.event.label == event.label and clip.event.start_s == event.start_s:
                clip.stop = min(clip.stop, round(event.end_s * self.sr) + self._around)
                clip.event = dataclasses.replace(event, time=clip.event.time)  # it is named by its beginning

    def sound(self, samples: np.ndarray) -> None:
        for i in range(0, len(samples), self.sr):  # the ring has room for a few seconds more than a clip
            piece = np.clip(samples[i : i + self.sr], -1, 1) * FULL_SCALE
            self._ring[np.arange(self._n, self._n + len(piece)) % len(self._ring)] = np.rint(piece)
            self._n += len(piece)
            self._cut(self._n)

    def skip(self, n_samples: int) -> None:
        """What was lost is silence in the clips."""
        n_silent = min(n_samples, len(self._ring))  # then every clip has ended
        self.sound(np.zeros(n_silent, np.float32))
        self._n += n_samples - n_silent

    def reset(self) -> None:
        for clip in self._lasting:
            clip.stop = min(clip.stop, self._n)
        self._cut(self._n)
        self._n = 0

    def finish(self) -> None:
        self.reset()
        super().finish()

    def _cut(self, now: int) -> None:
        for clip in [clip for clip in self._lasting if clip.stop <= now]:
            self._lasting.remove(clip)
            clip.samples = self._ring[np.arange(clip.start, clip.stop) % len(self._ring)]
            if self._patient:
                with self._changed:  # once, and then never again: a disk that hangs must not hold up the stream
                    self._patient = self._changed.wait_for(lambda: len(self._jobs) < self.n_waiting, self.close_s)
            self._put(clip)

    def deliver(self, job: _Clip) -> None:
        file = io.BytesIO()
        with self._soundfile.SoundFile(file, "w", self.sr, 1, "PCM_16", format="FLAC") as flac:
            flac.comment = job.event.to_json()
            flac.write(job.samples)
        data = file.getvalue()
        path = self._free_name(job.event)
        partial = path.with_name(path.name + ".part")
        self._make_room(len(data))
        try:
            with partial.open("wb") as target:
                target.write(data)
                target.flush()
                os.fsync(target.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _free_name(self, event: Event) -> Path:
        if event.time:
            time = datetime.fromisoformat(event.time).astimezone(UTC)
            when = f"{time:%Y%m%dT%H%M%S}.{time.microsecond // 1000:03d}Z"
        else:
            when = f"{event.start_s:010.3f}s"
        label = re.sub(r"[^\w-]+", "_", event.label)[:40] or "_"
        path, n = self.folder / f"tinyear-{when}-{label}.flac", 1
        while path.exists():  # another run of the same file: nothing is overwritten
            n += 1
            path = self.folder / f"tinyear-{when}-{label}-{n}.flac"
        return path

    def _make_room(self, n_bytes: int) -> None:
        """Delete the oldest clips until n_bytes more fit under the cap. One that a crash left half-written counts too."""
        with os.scandir(self.folder) as entries:
            ours = [e for e in entries if OURS.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
            clips = sorted((e.stat().st_mtime_ns, e.name, e.stat().st_size) for e in ours)
        total = sum(size for *_, size in clips)
        for _, name, size in clips:
            if total + n_bytes <= self.cap_bytes:
                return
            (self.folder / name).unlink(missing_ok=True)
            total -= size
