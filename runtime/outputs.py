"""Where events go, side by side: files, a broker, a web server, recordings.

    outputs = open_outputs(args, bundle, live=True)  # args of a parser that add_arguments() was given
    for output in outputs:
        output.event(event)  # at once, whatever becomes of it; what never leaves is counted in output.unsent
    close_outputs(outputs)

Each output has a thread of its own behind a queue of bounded length: a disk that is full, a broker that is gone or a
server that hangs costs events, which are counted, and never holds up the stream.
"""

import argparse
import contextlib
import csv
import dataclasses
import io
import json
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.events import Event

N_WAITING = 1000  # events that an output keeps while its other end is away; then the oldest is dropped and counted
CLOSE_S, CLOSE_REPLAY_S = 5.0, 30.0  # at the end an output has so long to send what waits: live, or from a file
CSV_COLUMNS = tuple(field.name for field in dataclasses.fields(Event))

Say = Callable[[str], None]


class OutputError(ValueError):
    """An output that cannot be opened: which, why, and what to do."""


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Output:
    """One place where events go. All that is not its own thread's is called by one other, the stream's.

    A subclass gives `name`, `deliver` and perhaps `leave`, which run in the output's own thread, and ends its
    constructor with `start()`.
    """

    name = "output"  # its key in Faults.unsent
    n_waiting = N_WAITING

    def __init__(self, target: str, say: Say = to_stderr, close_s: float = CLOSE_S) -> None:
        self.unsent = 0  # events that never left
        self.target, self.close_s = target, close_s  # the target in words, without secrets
        self._say = say
        self._jobs: deque[Any] = deque()
        self._changed = threading.Condition()  # guards all that follows, and unsent
        self._busy = self._ending = self._gave_up = self._in_trouble = False
        self._thread = threading.Thread(target=self._run, name=f"output {self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def event(self, event: Event) -> None:
        """Take it and return at once. Never raises."""
        self._put(event)

    def sound(self, samples: np.ndarray) -> None:
        """(any,) float32 mono at bundle.sr, finite, as the stream hears it: for outputs that record."""

    def skip(self, n_samples: int) -> None:
        """So many samples at bundle.sr were lost: time goes on."""

    def reset(self) -> None:
        """The next sample is at 0 s, of another recording."""

    def finish(self) -> None:
        """Nothing more will come: send what waits. Returns at once; close() waits for it."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def close(self, within_s: float | None = None) -> None:
        """Send what waits, for within_s seconds at most (default: close_s); the rest is unsent. May be called again."""
        self.finish()
        self._thread.join(self.close_s if within_s is None else within_s)
        with self._changed:
            if self._thread.is_alive() and not self._gave_up:
                self._gave_up = True  # the thread is a daemon: it does not keep the program from ending
                self.unsent += len(self._jobs) + self._busy
                self._jobs.clear()
                self._changed.notify_all()

    def deliver(self, job: Any) -> None:
        """Send one event. Raises whatever it likes for one that was lost; may wait, for `self.ending` at most."""
        raise NotImplementedError

    def leave(self) -> None:
        """After the last event: say goodbye."""

    @property
    def ending(self) -> bool:
        """Whether finish() was called: each event has one try left."""
        return self._ending

    def rest(self, seconds: float) -> None:
        """Wait; the end cuts it short."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending, seconds)

    def trouble(self, what: str) -> None:
        """Say it once, until `works` was called."""
        if not self._was_in_trouble(True):
            self._tell(what)

    def works(self) -> None:
        if self._was_in_trouble(False):
            self._tell(f"works again; {self.unsent} lost so far")

    def _was_in_trouble(self, now: bool) -> bool:
        """Whether it was in trouble before; now it is, or is not."""
        with self._changed:
            before, self._in_trouble = self._in_trouble, now
            self._changed.notify_all()
        return before

    def _tell(self, what: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr may be closed, and that must not cost an event
            self._say(f"{self.name} {self.target}: {what}")

    def _put(self, job: Any) -> None:
        with self._changed:
            if self._gave_up:
                self.unsent += 1
                return
            if len(self._jobs) >= self.n_waiting:
                self._jobs.popleft()
                self.unsent += 1
            self._jobs.append(job)
            self._changed.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self.deliver(job)
            except Exception as error:  # whatever it was, the event is lost, is counted, and the next one has its turn
                with self._changed:
                    self.unsent += not self._gave_up  # else close() has counted it
                self.trouble(f"{sentence(error)}; events are lost until it works again")
            else:
                self.works()
        try:
            self.leave()
        except Exception as error:
            self.trouble(sentence(error))

    def _next(self) -> Any:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._jobs or self._ending)
            self._busy = bool(self._jobs)
            return self._jobs.popleft() if self._jobs else None


def sentence(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class FileOutput(Output):
    """Lines at the end of a file. It is opened anew for each event, so that a log may be rotated or a disk come back."""

    def __init__(self, path: Path, say: Say = to_stderr, close_s: float = CLOSE_S) -> None:
        super().__init__(str(path), say, close_s)
        self.path, self._is_new = path, True  # a pipe has no size that would tell
        if path.is_dir() or not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: give a file's path in a folder that exists")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise OutputError(f"{path} cannot be written: you may not, choose another folder")
        self.start()

    def header(self) -> str:
        return ""

    def line(self, event: Event) -> str:
        raise NotImplementedError

    def deliver(self, job: Event) -> None:
        with self.path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            is_new = not size and (self._is_new or stat.S_ISREG(os.fstat(file.fileno()).st_mode))
            self._is_new = False
            text = self.header() + self.line(job) if is_new else self.line(job)
            if size and not _ends_a_line(self.path, size):
                text = "\n" + text  # the last run was cut off within a line
            data = text.encode(errors="backslashreplace")
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)  # half a line would spoil the next one
                raise


def _ends_a_line(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


class JsonLines(FileOutput):
    """One JSON object a line, see Event."""

    name = "jsonl"

    def line(self, event: Event) -> str:
        return event.to_json() + "\n"


class Csv(FileOutput):
    """One event a line under one header; faults as JSON, empty where a value is None."""

    name = "csv"

    def header(self) -> str:
        return ",".join(CSV_COLUMNS) + "\n"

    def line(self, event: Event) -> str:
        values = json.loads(event.to_json())
        text = io.StringIO()
        faults = json.dumps(values["faults"]) if values["faults"] else ""
        csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n").writerow(values | {"faults": faults})
        return text.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of all outputs."""
    group = parser.add_argument_group(
        "outputs", "where events go: any of them, side by side; none can stall the stream"
    )
    group.add_argument("--events", type=Path, metavar="FILE", help="append each event to FILE, one JSON object a line")
    group.add_argument("--csv", type=Path, metavar="FILE", help="append each event to FILE as CSV")
    group.add_argument(
        "--mqtt",
        metavar="URL",
        help="publish at mqtt[s]://[USER@]HOST[:PORT][/TOPIC] (default topic: tinyear/BUNDLE); "
        "the password: TINYEAR_MQTT_PASSWORD in the environment; needs the extra 'events'",
    )
    group.add_argument(
        "--mqtt-discovery",
        default="homeassistant",
        metavar="PREFIX",
        help="Home Assistant's discovery prefix (default homeassistant; '' announces nothing)",
    )
    group.add_argument("--webhook", metavar="URL", help="POST each event's JSON to an http or https URL")
    group.add_argument(
        "--clips", type=Path, metavar="DIR", help="keep the sound around each event as FLAC; needs the extra 'audio'"
    )
    group.add_argument(
        "--clips-mb", type=float, default=500, metavar="MB", help="then the oldest clips are deleted (default 500)"
    )
    group.add_argument(
        "--clip-s", type=float, default=5, metavar="S", help="seconds before and after the event, 1 to 15 (default 5)"
    )


def are_asked_for(args: argparse.Namespace) -> bool:
    """Whether any of add_arguments' flags names an output."""
    return any((args.events, args.csv, args.clips, args.mqtt, args.webhook))


def open_outputs(args: argparse.Namespace, bundle: Bundle, live: bool, say: Say = to_stderr) -> list[Output]:
    """The outputs that add_arguments' flags ask for. live: time passes by itself, as it does not for a file.

    `say` takes one line when an output fails and when it works again, in that output's thread. Raises OutputError.
    """
    close_s = CLOSE_S if live else CLOSE_REPLAY_S
    outputs: list[Output] = []
    try:
        if args.events:
            outputs.append(JsonLines(args.events, say, close_s))
        if args.csv:
            outputs.append(Csv(args.csv, say, close_s))
        if args.clips:
            from runtime.clips import Clips

            outputs.append(Clips(args.clips, bundle.sr, args.clips_mb, args.clip_s, live, say, close_s))
        if args.mqtt:
            from runtime.publish import Mqtt

            outputs.append(Mqtt(args.mqtt, bundle, args.mqtt_discovery, say, close_s))
        if args.webhook:
            from runtime.publish import Webhook

            outputs.append(Webhook(args.webhook, say, close_s))
    except (OutputError, OSError):
        close_outputs(outputs)
        raise
    return outputs


def close_outputs(outputs: Sequence[Output]) -> None:
    """Close all at the same time: no longer than the slowest one takes."""
    for output in outputs:
        output.finish()
    ends_at = time.monotonic() + max((output.close_s for output in outputs), default=0.0)
    for output in outputs:
        output.close(max(0.0, ends_at - time.monotonic()))
