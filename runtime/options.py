"""What the command line of runtime.stream says: which sound, which bundle, how much load, where events go."""

import argparse
from pathlib import Path

from runtime import audio, outputs
from runtime.bundle import DEFAULT
from runtime.microphone import microphone


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
    load.add_argument("--view", action="store_true", help="a live picture in the terminal instead of lines")
    outputs.add_arguments(parser)
    args = parser.parse_args(argv)
    args.sr = args.sr or (44100 if args.stdin else None)
    if args.view and args.jsonl:
        parser.error("--view and --jsonl: both write to the terminal, choose one (--events FILE takes JSON lines)")
    if not 0 <= args.nice <= 19:
        parser.error(f"--nice {args.nice}: choose 0 to 19")
    return args


def source(args: argparse.Namespace, path: Path | None, say: outputs.Say = outputs.to_stderr) -> audio.Source:
    """The recording at `path`, or the pipe or microphone that the arguments name. Raises AudioError."""
    if path:
        sound = audio.blocks(path)
    elif args.stdin:
        sound = audio.stdin_blocks(args.sr, args.sample_format)
    else:
        sound = microphone(args.sr, _device(args.device), args.channel, say=say)
    if args.realtime:
        sound = audio.paced(sound)
    return audio.duty_cycle(sound, *args.duty) if args.duty else sound


def _device(name: str | None) -> int | str | None:
    return int(name) if name and name.isdecimal() else name


def _duty(text: str) -> tuple[float, float]:
    try:
        on_s, period_s = (float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers of seconds as in 10/60") from None
    if not 1 <= on_s < period_s <= 86400:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 <= ON < PERIOD <= 86400 seconds")
    return on_s, period_s
