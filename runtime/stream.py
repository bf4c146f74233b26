"""Live decisions.  python -m runtime.stream --mic | --wav FILE | --stdin

A patch is a net's input: 128 frames on an absolute grid. The decision at time t fuses the patches that were complete in
the window (t - window, t]: a patch may reach back before the window, never past t. Until the first one is complete there
is no decision.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime import audio, command, fusion
from runtime.bundle import DEFAULT, Bundle, Member
from runtime.frontend import FrontendStream, spectrogram

MIN_WINDOW_S, MAX_WINDOW_S = 1.0, 10.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was heard between start_s and end_s. `scores`: label -> fused probability; `members`: name -> (label, p)."""

    start_s: float
    end_s: float
    label: str
    p: float
    scores: dict[str, float]
    members: dict[str, tuple[str, float]]

    def to_json(self) -> str:
        """One line of JSON."""
        values = dataclasses.asdict(self)
        values["members"] = {name: {"label": label, "p": round(p, 6)} for name, (label, p) in self.members.items()}
        values["scores"] = {label: round(p, 6) for label, p in self.scores.items()}
        return json.dumps(values | {"p": round(self.p, 6)})


class Stream:
    """Samples in, one fused decision every hop_s seconds out. Times count from the first sample fed.

    window_s 1..10 and at least a member's stride between patches; both default to the bundle's own. Raises ValueError.
    """

    def __init__(self, bundle: Bundle, window_s: float | None = None, hop_s: float | None = None) -> None:
        self.bundle = bundle
        self.window, self.hop = _window_samples(bundle, window_s, hop_s)
        self.n_bad = 0  # NaN and infinite samples, replaced by silence
        self._members = [_MemberStream(member) for member in bundle.members]
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is at 0 s."""
        self.n_samples = self._decided = 0
        for member in self._members:
            member.reset()

    def feed(self, samples: np.ndarray) -> list[Decision]:
        """(any,) mono float32 at bundle.sr -> the decisions that fell due."""
        samples, n_bad = audio.sanitize(samples)
        self.n_bad += n_bad
        decisions = []
        while len(samples):
            # Stop at every due time: patches that end later must not be dropped from a window that is still open.
            due = self._decided + self.hop
            now, samples = samples[: due - self.n_samples], samples[due - self.n_samples :]
            self.n_samples += len(now)
            for member in self._members:
                member.feed(now)
            if self.n_samples == due:
                decisions += self._decide(due)
        return decisions

    def flush(self) -> list[Decision]:
        """-> the decision for the rest of a recording that ended between two hops, if there is one; then starts anew."""
        decisions = self._decide(self.n_samples) if self.n_samples > self._decided else []
        self.reset()
        return decisions

    def _decide(self, end: int) -> list[Decision]:
        self._decided = end
        log_p = [member.window(end - self.window, end) for member in self._members]
        return _decision(self.bundle, log_p, end - self.window, end)


class _MemberStream:
    """One member's frames, patches and log probabilities, no more of each than a window needs."""

    def __init__(self, member: Member) -> None:
        self._member, self._frontend = member, FrontendStream(member.frontend)
        self.reset()

    def reset(self) -> None:
        self._frontend.reset()
        self._static = np.zeros((self._member.frontend.n_bands, 0), np.float32)  # from the next patch's first frame on
        self._n_patches = 0
        self._ends: list[int] = []
        self._log_p: list[np.ndarray] = []

    def feed(self, samples: np.ndarray) -> None:
        member = self._member
        self._static = np.concatenate([self._static, self._frontend.feed(samples)], axis=1)
        while self._static.shape[1] >= member.n_static:
            patch = member.patches(self._static[:, : member.n_static])
            self._ends.append(member.patch_end(self._n_patches))
            self._log_p.append(member.log_p(patch)[0])
            self._static = self._static[:, member.stride :]
            self._n_patches += 1

    def window(self, start: int, end: int) -> np.ndarray:
        """-> (n, classes) of the patches that ended in (start, end]; forgets those that ended before."""
        while self._ends and self._ends[0] <= start:
            del self._ends[0], self._log_p[0]
        return np.array([p for at, p in zip(self._ends, self._log_p) if at <= end])


def offline(
    bundle: Bundle, wave: np.ndarray, window_s: float | None = None, hop_s: float | None = None
) -> list[Decision]:
    """A whole recording, (samples,) mono at bundle.sr -> the decisions that a Stream gives: the definition, in one piece."""
    window, hop = _window_samples(bundle, window_s, hop_s)
    members = []
    for member in bundle.members:
        log_p = member.log_p(member.patches(spectrogram(wave, member.frontend)))
        members.append((member.patch_end(np.arange(len(log_p))), log_p))
    decisions = []
    for end in [*range(hop, len(wave), hop), len(wave)]:
        chosen = [log_p[(ends > end - window) & (ends <= end)] for ends, log_p in members]
        decisions += _decision(bundle, chosen, end - window, end)
    return decisions


def _decision(bundle: Bundle, log_p: list[np.ndarray], start: int, end: int) -> list[Decision]:
    """Per member (patches, classes) -> one decision, or none while a member has no complete patch."""
    if not all(len(p) for p in log_p):
        return []
    means = [fusion.mean(p) for p in log_p]
    fused = np.exp(bundle.fused(means))
    best = int(fused.argmax())
    opinions = {m.name: (bundle.labels[int(p.argmax())], float(np.exp(p.max()))) for m, p in zip(bundle.members, means)}
    scores = {label: float(p) for label, p in zip(bundle.labels, fused)}
    return [
        Decision(max(0, start) / bundle.sr, end / bundle.sr, bundle.labels[best], float(fused[best]), scores, opinions)
    ]


def _window_samples(bundle: Bundle, window_s: float | None, hop_s: float | None) -> tuple[int, int]:
    window_s = bundle.window_s if window_s is None else window_s
    hop_s = bundle.hop_s if hop_s is None else hop_s
    stride_s = max(member.stride_samples for member in bundle.members) / bundle.sr
    lowest = max(MIN_WINDOW_S, stride_s)
    if not lowest <= window_s <= MAX_WINDOW_S:
        raise ValueError(f"window {window_s} s: this bundle takes {lowest:.2f} to {MAX_WINDOW_S:.0f} s")
    if not 0.02 <= hop_s <= 60:
        raise ValueError(f"hop {hop_s} s: choose 0.02 to 60 s")
    return round(window_s * bundle.sr), round(hop_s * bundle.sr)


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
    return command.INTERRUPTED if stopped else 0


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
    log_p = bundle.member_log_p(mono)
    return dataclasses.replace(_decision(bundle, [p[None] for p in log_p], 0, len(mono))[0], start_s=0.0)


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
    command.run(main)
