"""Live decisions.  python -m runtime.stream --mic | --wav FILE | --stdin"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime import audio
from runtime.bundle import DEFAULT, Bundle
from runtime.decide import Decision, Stream, offline, whole_clip

__all__ = ["Decision", "Stream", "decisions", "offline", "whole_clip"]


def decisions(source: audio.Source, stream: Stream) -> Iterator[Decision]:
    """A source of any rate -> decisions as they fall due; the last ones when it ends."""
    resampler = audio.Resampler(source.sr, stream.bundle.sr)
    for block in source:
        clean, n_bad = audio.sanitize(block)
        stream.n_bad += n_bad
        yield from stream.feed(resampler.feed(clean))
    yield from stream.feed(resampler.flush())
    yield from stream.flush()


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    source = _source(args)
    bundle = Bundle.load(args.bundle, args.engine, args.threads)
    stream = Stream(bundle, args.window, args.hop)
    if not args.jsonl:
        print(_greeting(bundle, source.sr), file=sys.stderr)
    n, stopped = 0, False
    try:
        for decision in decisions(source, stream):
            n += 1
            print(decision.to_json() if args.jsonl else _line(decision), flush=True)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        stopped = True
    if not n and not stopped and args.wav:
        print((_whole_clip(bundle, args.wav)).to_json() if args.jsonl else _line(_whole_clip(bundle, args.wav)))
        print(f"{args.wav} is shorter than one patch: looped, one decision for the whole of it", file=sys.stderr)
    elif not n and not stopped:
        print(f"no decision: the first one takes {_first_s(bundle):.1f} s of sound", file=sys.stderr)
    faults = {
        "NaN, infinite or absurd samples": stream.n_bad,
        "blocks lost": source.n_dropped,
        "samples missing at the end: the file was cut off": source.n_missing,
    }
    for name, count in faults.items():
        if count:
            print(f"{count} {name}", file=sys.stderr)
    return 0


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
    opinions = "  ".join(f"{name} {label} {p:.2f}" for name, (label, p) in decision.members.items())
    bar = "#" * round(20 * decision.p)
    return f"{decision.end_s:8.2f} s  {decision.label:<16} {decision.p:.2f} {bar:<20}  {opinions}"


def _source(args: argparse.Namespace) -> audio.Source:
    if args.wav:
        return audio.blocks(args.wav)
    if args.stdin:
        return audio.stdin_blocks(args.sr, args.sample_format)
    return audio.microphone(device=_device(args.device))


def _device(name: str | None) -> int | str | None:
    return int(name) if name and name.isdecimal() else name


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.stream", description="Live decisions on a stream of sound."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mic", action="store_true", help="listen to a microphone")
    source.add_argument(
        "--wav", type=Path, metavar="FILE", help="a recording (WAV; other formats with the extra 'audio')"
    )
    source.add_argument("--stdin", action="store_true", help="raw mono samples from a pipe")
    parser.add_argument("--bundle", type=Path, default=DEFAULT, help="folder (default: the bundle that ships)")
    parser.add_argument(
        "--window", type=float, metavar="S", help="seconds a decision looks back, 1 to 10 (default: the bundle's)"
    )
    parser.add_argument("--hop", type=float, metavar="S", help="seconds between decisions (default: the bundle's)")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--engine", choices=("tflite", "onnx"), help="which model files to run (default: what is installed)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default 1)")
    parser.add_argument("--device", help="microphone's number or name, from `python -m sounddevice`")
    parser.add_argument("--sr", type=int, default=44100, help="Hz of the raw samples on --stdin (default 44100)")
    parser.add_argument("--sample-format", default="s16le", help="of --stdin: s16le, f32le, ... (default s16le)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader went away: end quietly, and keep Python from flushing into the closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
