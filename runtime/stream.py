"""Live decisions and events.  python -m runtime.stream --mic | --wav FILE | --stdin"""

import argparse
import dataclasses
import datetime
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime import audio, command
from runtime.bundle import DEFAULT, Bundle
from runtime.condition import MAX_GAIN_DB, Conditioner
from runtime.decide import Decision, Stream, offline, whole_clip
from runtime.events import Detector, Event
from runtime.level import CLIP_S
from runtime.meter import Meter
from runtime.microphone import list_devices, microphone

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

    def __init__(self, args: argparse.Namespace, bundle: Bundle) -> None:
        self.args, self.bundle = args, bundle
        self.is_live = not args.wav
        self.meter = Meter(bundle.sr)

    def run(self, source: audio.Source, path: Path | None) -> None:
        """One source until it ends, or Ctrl-C, which ends the open events first."""
        stream = Stream(self.bundle, self.args.window, self.args.hop)
        conditioner = Conditioner(source.sr, self.bundle.sr, source.faults, self.args.gain_db, self.args.dc_block)
        detector = Detector(self.bundle.labels, self.bundle.rules)
        n = 0
        try:
            for decision in decisions(source, stream, conditioner, [self.meter]):
                n += 1
                source.faults.late_windows += source.backlog_s() * self.bundle.sr > stream.hop
                self._show(decision)
                if stream.levels and (warning := stream.levels.warning()):
                    _say(warning)
                self._send(detector.feed(decision), source)
        finally:
            self._send(detector.flush(), source)
            for sentence in source.faults.sentences():
                _say(sentence)
        if not n and path:
            self._show(_whole_clip(self.bundle, path))
            _say(f"{path} is shorter than one patch: looped, one decision for the whole of it")
        elif not n:
            _say(f"no decision: the first one takes {_first_s(self.bundle):.1f} s of sound")

    def _show(self, decision: Decision) -> None:
        print(decision.to_json() if self.args.jsonl else _line(decision), flush=True)

    def _send(self, events: list[Event], source: audio.Source) -> None:
        for event in events:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds") if self.is_live else None
            event = dataclasses.replace(event, time=now, faults=source.faults.counts())
            if not self.args.jsonl:
                print(_event_line(event), flush=True)

    def close(self) -> None:
        pass


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    if args.list:
        print(list_devices())
        return 0
    if args.nice:
        os.nice(args.nice)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is stopped as Ctrl-C stops a person's
    paths = audio.recordings(args.wav) if args.wav else [None]
    source = _source(args, paths[0])  # before the bundle: a wrong path is said at once
    bundle = Bundle.load(args.bundle, args.engine, args.threads)
    if not args.jsonl:
        _say(_greeting(bundle, source.sr))
    if args.calibrate:
        print(_calibrate(source, Stream(bundle), args.calibrate))
        return 0
    session = _Session(args, bundle)
    try:
        for number, path in enumerate(paths):
            if len(paths) > 1:
                _say(f"{path}:")
            session.run(source if not number else _source(args, path), path)
    except KeyboardInterrupt:
        _say("stopped")
    finally:
        session.close()
    return 0


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
    return f"--gain-db {np.clip(gain_db, -MAX_GAIN_DB, MAX_GAIN_DB):.0f}"


def _first_s(bundle: Bundle) -> float:
    return max(member.patch_end(0) for member in bundle.members) / bundle.sr


def _greeting(bundle: Bundle, sr: int) -> str:
    rate = f"listening at {sr} Hz"
    if sr != bundle.sr:
        rate += f", resampled to {bundle.sr} Hz"
    top_hz = max(float(member.frontend.centers_hz[-1]) for member in bundle.members)
    if sr / 2 < top_hz:
        rate += f" (nothing above {sr // 2} Hz in it, the nets learned up to {top_hz:.0f} Hz: trust them less)"
    return (
        f"{bundle.folder.name} ({bundle.format}), {len(bundle.labels)} classes; {rate}; "
        f"first decision after {_first_s(bundle):.1f} s"
    )


def _whole_clip(bundle: Bundle, path: Path) -> Decision:
    """The decision on a recording that is too short for a stream, looped."""
    wave, sr = audio.read(path)
    mono, _ = audio.sanitize(audio.to_mono(wave))
    resampler = audio.Resampler(sr, bundle.sr)
    mono = np.concatenate([resampler.feed(mono), resampler.flush()])
    if not len(mono):
        raise ValueError(f"{path} holds too few samples to say anything")
    return whole_clip(bundle, mono)


def _line(decision: Decision) -> str:
    if decision.silent:
        return f"{decision.end_s:8.2f} s  (silence)"
    opinions = "  ".join(f"{name} {label} {p:.2f}" for name, (label, p) in decision.members.items())
    bar = "#" * round(20 * decision.p)
    return f"{decision.end_s:8.2f} s  {decision.label:<16} {decision.p:.2f} {bar:<20}  {opinions}"


def _event_line(event: Event) -> str:
    if event.end_s is None:
        return f"{event.at_s:8.2f} s  > {event.label}, {event.p:.2f}"
    return f"{event.at_s:8.2f} s  < {event.label}, {event.end_s - event.start_s:.1f} s long, at most {event.p:.2f}"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _source(args: argparse.Namespace, path: Path | None) -> audio.Source:
    if path:
        source = audio.blocks(path)
    elif args.stdin:
        source = audio.stdin_blocks(args.sr, args.sample_format)
    else:
        source = microphone(args.sr, _device(args.device), args.channel)
    if args.realtime:
        source = audio.paced(source)
    return audio.duty_cycle(source, *args.duty) if args.duty else source


def _device(name: str | None) -> int | str | None:
    return int(name) if name and name.isdecimal() else name


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.stream", description="Live decisions and events on a stream of sound."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--mic", action="store_true", help="listen to a microphone")
    what.add_argument(
        "--wav", type=Path, metavar="PATH", help="a recording, or a folder of them (other formats: extra 'audio')"
    )
    what.add_argument("--stdin", action="store_true", help="raw mono samples from a pipe")
    what.add_argument("--list", action="store_true", help="list the microphones")
    parser.add_argument("--bundle", type=Path, default=DEFAULT, help="folder (default: the bundle that ships)")
    parser.add_argument(
        "--window", type=float, metavar="S", help="seconds a decision looks back, 1 to 10 (default: the bundle's)"
    )
    parser.add_argument("--hop", type=float, metavar="S", help="seconds between decisions (default: the bundle's)")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object a line for each decision, nothing else")

    source = parser.add_argument_group("the source")
    source.add_argument("--device", help="microphone's number or name, see --list (default: the system's)")
    source.add_argument("--channel", type=int, default=1, help="of a microphone with several, from 1 (default 1)")
    source.add_argument("--sr", type=int, help="Hz of --stdin (default 44100), or to ask of the microphone")
    source.add_argument("--sample-format", default="s16le", help="of --stdin: s16le, f32le, ... (default s16le)")
    source.add_argument("--realtime", action="store_true", help="play a recording at its own pace")
    source.add_argument("--gain-db", type=float, default=0.0, metavar="DB", help="for a quiet microphone")
    source.add_argument(
        "--calibrate",
        type=float,
        nargs="?",
        const=60.0,
        metavar="S",
        help="listen for S seconds (default 60), in which it sounds as it will, and print the gain to use",
    )
    source.add_argument("--dc-block", action="store_true", help="for a microphone with an offset; 0.1 s later")

    load = parser.add_argument_group("the load")
    load.add_argument("--engine", choices=("tflite", "onnx"), help="model files to run (default: what is installed)")
    load.add_argument("--threads", type=int, default=1, help="threads of the engine (default 1)")
    load.add_argument("--nice", type=int, default=0, metavar="N", help="give way to others: 0 to 19")
    load.add_argument(
        "--duty", type=_duty, metavar="ON/PERIOD", help="listen ON seconds of every PERIOD, as 10/60, for batteries"
    )
    args = parser.parse_args(argv)
    args.sr = args.sr or (44100 if args.stdin else None)
    if not 0 <= args.nice <= 19:
        parser.error(f"--nice {args.nice}: choose 0 to 19")
    return args


def _duty(text: str) -> tuple[float, float]:
    try:
        on_s, period_s = (float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers of seconds as in 10/60") from None
    if not 1 <= on_s < period_s <= 86400:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 <= ON < PERIOD <= 86400 seconds")
    return on_s, period_s


if __name__ == "__main__":
    command.run(main)
