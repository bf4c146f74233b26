"""What the command line of runtime.stream says: which sound, which bundle, how much load, where events go."""

import argparse
import dataclasses
from pathlib import Path

from runtime import audio, outputs
from runtime.bundle import DEFAULT, Bundle
from runtime.microphone import microphone
from runtime.rules import Rules


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parsed and checked."""
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
    _add_source(parser)
    _add_events(parser)
    _add_load(parser)
    outputs.add_arguments(parser)
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("the source")
    source.add_argument("--device", help="microphone's number or name, see --list (default: the system's)")
    source.add_argument("--channel", type=int, help="of a microphone with several, from 1 (default 1)")
    source.add_argument("--sr", type=int, help="Hz of --stdin (default 44100), or to ask of the microphone")
    source.add_argument("--sample-format", metavar="FMT", help="of --stdin: s16le, f32le, ... (default s16le)")
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


def _add_events(parser: argparse.ArgumentParser) -> None:
    events = parser.add_argument_group(
        "the events", "in place of the bundle's rules: python -m runtime.bundle shows them"
    )
    events.add_argument(
        "--on",
        type=_threshold,
        action="append",
        default=[],
        metavar="LABEL=P",
        help="probability at which a class is on; it goes off at the same share of it as before; repeat for several",
    )
    events.add_argument("--smooth-s", type=float, metavar="S", help="average probabilities over S seconds first")
    events.add_argument("--min-s", type=float, metavar="S", help="report a class once it was on for S seconds")
    events.add_argument("--cooldown-s", type=float, metavar="S", help="then leave it silent for S seconds")


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("the load")
    load.add_argument("--engine", choices=("tflite", "onnx"), help="model files to run (default: what is installed)")
    load.add_argument("--threads", type=int, default=1, help="threads of the engine (default 1)")
    load.add_argument("--nice", type=int, default=0, metavar="N", help="give way to others: 0 to 19")
    load.add_argument(
        "--duty", type=_duty, metavar="ON/PERIOD", help="listen ON seconds of every PERIOD, as 10/60, for batteries"
    )
    load.add_argument("--view", action="store_true", help="a live picture in the terminal instead of lines")


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program for what one argument alone cannot tell."""
    for flag, value, kind in (
        ("--device", args.device, args.mic),
        ("--channel", args.channel, args.mic),
        ("--sample-format", args.sample_format, args.stdin),
        ("--sr", args.sr, args.stdin or args.mic),
        ("--realtime", args.realtime or None, not args.mic),
    ):
        if value is not None and not kind:
            parser.error(f"{flag} says nothing about this source")
    if args.calibrate is not None and not 6 <= args.calibrate <= 60:
        parser.error(f"--calibrate {args.calibrate}: choose 6 to 60 seconds")
    if args.calibrate is not None and (args.jsonl or args.view or outputs.are_asked_for(args)):
        parser.error("--calibrate only says which gain to use: leave --jsonl, --view and the outputs out")
    if args.events and args.csv and args.events.resolve() == args.csv.resolve():
        parser.error(f"--events and --csv both write {args.csv}: name two files")
    if args.view and args.jsonl:
        parser.error("--view and --jsonl: both write to the terminal, choose one (--events FILE takes JSON lines)")
    if not 0 <= args.nice <= 19:
        parser.error(f"--nice {args.nice}: choose 0 to 19")


def rules(args: argparse.Namespace, bundle: Bundle) -> Rules:
    """The bundle's, as far as the arguments do not say otherwise. Raises ValueError."""
    on, off = dict(bundle.rules.on), dict(bundle.rules.off)
    for label, p in args.on:
        if label not in bundle.labels:
            raise ValueError(f"--on {label}={p}: this bundle knows {', '.join(bundle.labels)}")
        if not 0 <= p <= 1:
            raise ValueError(f"--on {label}={p}: choose a probability, 0 to 1")
        on[label], off[label] = p, p * off.get(label, 0.5) / (on.get(label, 1.0) or 1.0)
    spans = {name: getattr(args, name) for name in ("smooth_s", "min_s", "cooldown_s")}
    return dataclasses.replace(bundle.rules, on=on, off=off, **{k: v for k, v in spans.items() if v is not None})


def source(args: argparse.Namespace, path: Path | None, say: outputs.Say = outputs.to_stderr) -> audio.Source:
    """The recording at `path`, or the pipe or microphone that the arguments name. Raises AudioError."""
    if path:
        sound = audio.blocks(path)
    elif args.stdin:
        sound = audio.stdin_blocks(44100 if args.sr is None else args.sr, args.sample_format or "s16le")
    else:
        sound = microphone(args.sr, _device(args.device), 1 if args.channel is None else args.channel, say=say)
    if args.realtime:
        sound = audio.paced(sound)
    return audio.duty_cycle(sound, *args.duty) if args.duty else sound


def _device(name: str | None) -> int | str | None:
    return int(name) if name and name.isdecimal() else name


def _threshold(text: str) -> tuple[str, float]:
    label, _, p = text.rpartition("=")
    try:
        return label, float(p)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=P as in rain=0.7") from None


def _duty(text: str) -> tuple[float, float]:
    try:
        on_s, period_s = (float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers of seconds as in 10/60") from None
    if not 1 <= on_s < period_s <= 86400:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 <= ON < PERIOD <= 86400 seconds")
    return on_s, period_s
