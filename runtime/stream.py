"""Live decisions and events.  python -m runtime.stream --mic | --wav FILE | --stdin"""

import argparse
import dataclasses
import datetime
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime import audio, command, options
from runtime.bundle import Bundle
from runtime.condition import MAX_GAIN_DB, Conditioner
from runtime.decide import Decision, Stream, offline, whole_clip
from runtime.events import Detector, Event
from runtime.faults import Faults
from runtime.level import CLIP_S
from runtime.meter import Meter
from runtime.microphone import list_devices
from runtime.outputs import Say, close_outputs, open_outputs, to_stderr
from runtime.view import View

__all__ = ["Decision", "Stream", "decisions", "offline", "whole_clip"]


class Tap(Protocol):
    """Whoever wants the sound as the stream hears it."""

    def sound(self, samples: np.ndarray) -> None:
        """(n,) float32 at bundle.sr, the next ones."""

    def skip(self, n_samples: int) -> None:
        """So many samples were lost."""


def decisions(
    source: audio.Source, stream: Stream, conditioner: Conditioner | None = None, taps: Sequence[Tap] = ()
) -> Iterator[Decision]:
    """A source of any rate -> decisions as they fall due; the last ones when it ends."""
    conditioner = conditioner or Conditioner(source.sr, stream.bundle.sr, source.faults)
    if stream.levels:
        stream.levels.source_sr = source.sr

    def hear(samples: np.ndarray) -> list[Decision]:
        for tap in taps:
            tap.sound(samples)
        return stream.feed(samples)

    for block in source:
        if isinstance(block, audio.Gap):
            rest, n_skipped = conditioner.gap(block)
            yield from hear(rest)
            stream.skip(n_skipped)
            for tap in taps:
                tap.skip(n_skipped)
        else:
            yield from hear(conditioner.feed(block))
    yield from hear(conditioner.flush())
    yield from stream.flush()


class _Session:
    """Everything between a source's decisions and whoever reads, hears or stores them."""

    def __init__(self, args: argparse.Namespace, bundle: Bundle, voice: "_Voice") -> None:
        self.args, self.bundle, self.say = args, bundle, voice
        self.is_live = not args.wav
        self.file: str | None = None
        self.rules = options.rules(args, bundle)
        self.meter = Meter(bundle.sr)
        self._last: deque[str] = deque(maxlen=20)
        self.view = View(bundle) if args.view else None
        if self.view:
            voice.to = self.view.say
        self.outputs = open_outputs(args, bundle, self.is_live, voice)

    def run(self, source: audio.Source, path: Path | None) -> None:
        """One source until it ends, or Ctrl-C, which ends the open events first."""
        self.file = path.name if path else None
        stream = Stream(self.bundle, self.args.window, self.args.hop)
        conditioner = Conditioner(source.sr, self.bundle.sr, source.faults, self.args.gain_db, self.args.dc_block)
        detector, n = Detector(self.bundle.labels, self.rules), 0
        ends = _EndsAtGaps(stream.hop, lambda: self._send(detector.flush(), source.faults))
        try:
            for decision in decisions(source, stream, conditioner, [self.meter, ends, *self.outputs]):
                n += 1
                source.faults.late_windows += source.backlog_s() * self.bundle.sr > stream.hop
                self._send(detector.feed(decision), source.faults)
                self._show(decision, detector, source.faults)
                if stream.levels and (warning := stream.levels.warning()):
                    self.say(warning)
            if not n and path and not self.args.duty:
                conditioner = Conditioner(source.sr, self.bundle.sr, Faults(), self.args.gain_db, self.args.dc_block)
                n, decision = 1, _whole_clip(self.bundle, path, conditioner)
                self._send(detector.feed(decision), source.faults)
                self._show(decision, detector, source.faults)
                self.say(f"{path} is shorter than one patch: looped, one decision for the whole of it")
        finally:
            try:
                self._send(detector.flush(), source.faults)
            finally:
                for output in self.outputs:
                    output.reset()
            for sentence in source.faults.sentences():
                self.say(sentence)
        if not n:
            self.say(f"no decision: the first one takes {_first_s(self.bundle):.1f} s of sound")

    def _show(self, decision: Decision, detector: Detector, faults: Faults) -> None:
        if self.view:
            self.view.show(decision, detector.heard, *self.meter.read(), faults)
        else:
            more = {"file": self.file} if self.file and self.args.wav.is_dir() else {}
            is_json = self.args.jsonl
            _print(decision.to_json(heard=detector.heard, **more) if is_json else _line(decision, detector.heard))

    def _send(self, events: list[Event], faults: Faults) -> None:
        faults.unsent = {output.name: output.unsent for output in self.outputs}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds") if self.is_live else None
        events = [dataclasses.replace(e, time=now, file=self.file, faults=faults.counts()) for e in events]
        for output in self.outputs:
            for event in events:
                output.event(event)
        lines = [_event_line(event) for event in events]
        self._last += lines
        if not self.args.jsonl and not self.view:
            for line in lines:  # last: a closed pipe must not keep events from the outputs
                _print(line)

    def close(self) -> None:
        """Let the outputs send what waits, and say what they could not."""
        if self.view:
            self.view.close()
            self.say.to = to_stderr
            for line in self._last:  # the picture is gone
                _print(line)
        close_outputs(self.outputs)
        for output in self.outputs:
            if output.unsent:
                self.say(f"{output.name} {output.target}: {output.unsent} events never left")


class _EndsAtGaps:
    """A tap that ends the events that last when the sound stops for longer than a hop: nobody hears them go on."""

    def __init__(self, hop: int, end: Callable[[], None]) -> None:
        self._hop, self._end = hop, end

    def sound(self, samples: np.ndarray) -> None:
        """Nothing ends while there is sound."""

    def skip(self, n_samples: int) -> None:
        if n_samples > self._hop:
            self._end()


class _Voice:
    """A line to the user: on standard error, or below the picture while there is one."""

    to: Say = staticmethod(to_stderr)

    def __call__(self, line: str) -> None:
        self.to(line)


def main(argv: list[str] | None = None) -> int:
    args = options.arguments(argv)
    if args.list:
        print(list_devices())
        return 0
    if args.nice:
        os.nice(args.nice)
    voice = _Voice()
    paths: list[Path | None] = [*audio.recordings(args.wav)] if args.wav else [None]
    n_paths = len(paths)
    source, paths = _first(args, paths, voice)  # before the bundle: a wrong path is said at once
    bundle = Bundle.load(args.bundle, args.engine, args.threads)
    if not args.jsonl:
        voice(_greeting(bundle, source.sr))
    if args.calibrate:
        print(_calibrate(source, Stream(bundle), args.calibrate))
        return 0
    if args.duty and args.duty[0] < _first_s(bundle):
        raise ValueError(
            f"--duty {args.duty[0]:g}/{args.duty[1]:g}: a decision takes {_first_s(bundle):.1f} s of sound"
        )
    session, code = _Session(args, bundle, voice), int(len(paths) < n_paths)
    try:
        for number, path in enumerate(paths):
            if n_paths > 1:
                (voice if args.jsonl or args.view else _print)(f"{path}:")
            try:
                session.run(source if not number else options.source(args, path, voice), path)
            except audio.AudioError as error:
                if n_paths == 1:
                    raise
                voice(f"error: {error}")  # the others of the folder shall be heard
                code = 1
    except KeyboardInterrupt:
        voice("stopped")
    finally:
        session.close()
    return code


def _first(args: argparse.Namespace, paths: list[Path | None], voice: _Voice) -> tuple[audio.Source, list[Path | None]]:
    """-> what can be heard first, and the paths from there on. Raises AudioError where nothing can."""
    for i, path in enumerate(paths[:-1]):
        try:
            return options.source(args, path, voice), paths[i:]
        except audio.AudioError as error:
            voice(f"error: {error}")
    return options.source(args, paths[-1], voice), paths[-1:]


def _calibrate(source: audio.Source, stream: Stream, listen_s: float) -> str:
    """Listen for so long -> the gain to use."""
    if not stream.levels:
        raise ValueError(f"{stream.bundle.folder} does not say on which levels it was trained: python -m export.rules")
    for decision in decisions(source, stream):
        if decision.end_s >= listen_s:
            break
    gain_db = stream.levels.gain_db()
    if gain_db is None:
        raise ValueError(f"too little sound to tell its level: {CLIP_S:.0f} s at least")
    if not gain_db:
        to_stderr("the level lies within what the nets bear: no gain is needed")
    return f"--gain-db {np.clip(gain_db, -MAX_GAIN_DB, MAX_GAIN_DB):.0f}"


def _first_s(bundle: Bundle) -> float:
    return max(member.patch_end(0) for member in bundle.members) / bundle.sr


def _greeting(bundle: Bundle, sr: int) -> str:
    rate = f"listening at {sr} Hz"
    if sr != bundle.sr:
        rate += f", resampled to {bundle.sr} Hz"
    heard_hz, front_end_hz = bundle.highest_hz, max(frontend.highest_hz for frontend in bundle.frontends)
    if sr / 2 < heard_hz:
        rate += f" (nothing above {sr // 2} Hz in it, the nets learned up to {heard_hz:.0f} Hz: trust them less)"
    if heard_hz < min(sr / 2, front_end_hz):
        rate += f" (the nets learned nothing above {heard_hz:.0f} Hz, which this may hold: trust them less)"
    return (
        f"{bundle.folder.name} ({bundle.format}), {len(bundle.labels)} classes; {rate}; "
        f"first decision after {_first_s(bundle):.1f} s"
    )


def _whole_clip(bundle: Bundle, path: Path, conditioner: Conditioner) -> Decision:
    """The decision on a recording that is too short for a stream, looped."""
    mono = audio.to_mono(audio.read(path)[0])
    mono = np.concatenate([conditioner.feed(mono), conditioner.flush()])
    if not len(mono):
        raise ValueError(f"{path} holds too few samples to say anything")
    return whole_clip(bundle, mono)


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written ({error.strerror}): free the disk") from error


def _line(decision: Decision, heard: list[str]) -> str:
    """heard: labels of the events that last; a decision has a likeliest class even where none of them is sure."""
    if decision.silent:
        return f"{decision.end_s:8.2f} s  (silence)"
    opinions = "  ".join(f"{name} {label} {p:.2f}" for name, (label, p) in decision.members.items())
    bar = ("#" if heard else ".") * round(20 * decision.p)
    known = "" if heard else "  nothing known"
    return f"{decision.end_s:8.2f} s  {decision.label:<16} {decision.p:.2f} {bar:<20}  {opinions}{known}"


def _event_line(event: Event) -> str:
    if event.end_s is None:
        return f"{event.at_s:8.2f} s  > {event.label}, {event.p:.2f}"
    return f"{event.at_s:8.2f} s  < {event.label}, {event.end_s - event.start_s:.1f} s long, at most {event.p:.2f}"


if __name__ == "__main__":
    command.run(main)
