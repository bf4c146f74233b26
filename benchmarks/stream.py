"""What listening costs, beside a loop that people write.  python -m benchmarks.stream [--json]

For windows of 1, 5 and 10 s and hops of 0.5 and 1 s: processor seconds per second of sound, split into front ends, nets
and the rest; beside a loop of librosa, the gammatone package and onnxruntime that takes the sound of each window again at
every hop, as offline code does when it is put behind a microphone. Same nets, same patches, one thread, one run; CPU time
of this process, medians over repeats that alternate.

first_decision_s: from the start of `python -m runtime.stream --realtime` to its first line; rss_mb: of that command at
its end. The JSON holds the worst over the grid; speedup_vs_loop is the smallest.
"""

import runtime  # noqa: F401, I001  before numpy: it sets how many threads numpy takes
import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.frontend import medians_ms
from runtime import command, fusion
from runtime.bundle import DEFAULT, Bundle
from runtime.decide import Stream

GRID = [(window_s, hop_s) for window_s in (1.0, 5.0, 10.0) for hop_s in (0.5, 1.0)]
SOUND_S = 60.0
LOOP_HOPS = 4  # of the loop are measured: each takes as long as the last
BLOCK_S = 0.1


def sound(sr, seconds=SOUND_S):
    """(samples,) noise whose level rises and falls: what a stream costs does not depend on what it hears."""
    rng, t = np.random.default_rng(0), np.arange(round(seconds * sr)) / sr
    return (0.05 * rng.standard_normal(len(t)) * (1.2 + np.sin(t))).astype(np.float32)


class Clock:
    """CPU seconds spent in a function."""

    def __init__(self, function):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args):
        before = time.process_time()
        result = self.function(*args)
        self.seconds += time.process_time() - before
        return result


def ours(bundle, wave, window_s, hop_s):
    """-> CPU seconds per second of sound: all, front ends, nets."""
    stream = Stream(bundle, window_s, hop_s)
    front = stream._frontends.feed = Clock(stream._frontends.feed)
    nets = [Clock(member.log_p) for member in bundle.members]
    for member, net in zip(bundle.members, nets):
        member.log_p = net
    n, before = round(BLOCK_S * bundle.sr), time.process_time()
    for start in range(0, len(wave), n):
        stream.feed(wave[start : start + n])
    total = time.process_time() - before
    for member, net in zip(bundle.members, nets):
        member.log_p = net.function
    return np.array([total, front.seconds, sum(net.seconds for net in nets)]) / (len(wave) / bundle.sr)


def loop(bundle, sessions):
    """-> a function of the last samples and the window in seconds: log probabilities, all computed anew."""
    import librosa
    from gammatone.fftweight import fft_gtgram

    def spectrogram(y, f):
        if f.kind == "mel":
            power = librosa.feature.melspectrogram(
                y=y, sr=f.sr, n_fft=f.n_fft, win_length=f.win_length, hop_length=f.hop_length, n_mels=f.n_bands
            )
            return librosa.power_to_db(power, top_db=None)
        if f.kind == "gammatone":
            bands = fft_gtgram(y, f.sr, f.win_length / f.sr, f.hop_length / f.sr, f.n_bands, f.fmin)
            return 20 * np.log10(bands + 1e-5)
        cqt = librosa.cqt(
            y, sr=f.sr, hop_length=f.hop_length, fmin=f.fmin, n_bins=f.n_bands, bins_per_octave=f.bins_per_octave
        )
        return librosa.amplitude_to_db(np.abs(cqt), top_db=None)

    def decide(y, window_s):
        log_p = []
        for member, session in zip(bundle.members, sessions):
            static = spectrogram(y, member.frontend).astype(np.float32)
            n_patches = math.ceil(window_s * bundle.sr / member.stride_samples)
            cut = member.patch.whole(static)[-n_patches:]
            x = ((cut - member.mean[:, None]) / member.std[:, None]).astype(np.float32)
            name = session.get_inputs()[0].name
            logits = np.stack([session.run(None, {name: patch[None]})[0].reshape(-1) for patch in x])
            log_p.append(member.over_patches(fusion.log_softmax(logits)))
        return fusion.prod(np.stack(log_p))

    return decide


def sessions_of(bundle):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return [
        onnxruntime.InferenceSession(str(m.path("onnx")), options, providers=["CPUExecutionProvider"])
        for m in bundle.members
    ]


def measure_cpu(folder, fmt, repeats):
    """-> rows: window, hop, ours (all, front ends, nets), the loop's, per second of sound."""
    bundle = Bundle.load(folder, fmt)
    wave = sound(bundle.sr)
    decide = loop(bundle, sessions_of(bundle))
    span = max(member.patch_end(0) for member in bundle.members)
    rows = []
    for window_s, hop_s in GRID:
        n = span + round(window_s * bundle.sr)  # the patches that end in the window begin before it

        def run_loop(n=n, window_s=window_s, hop_s=hop_s):
            for hop in range(LOOP_HOPS):
                start = round(hop * hop_s * bundle.sr)
                decide(wave[start : start + n], window_s)

        parts = []
        taken = medians_ms(
            {"ours": lambda w=window_s, h=hop_s, parts=parts: parts.append(ours(bundle, wave, w, h)), "loop": run_loop},
            repeats,
        )
        mine = np.median(parts[1:], axis=0)
        theirs = taken["loop"] / 1e3 / LOOP_HOPS / hop_s
        rows.append({"window_s": window_s, "hop_s": hop_s, "ours": mine.tolist(), "loop": theirs})
        print(f"window {window_s:.0f} s, hop {hop_s} s done", file=sys.stderr, flush=True)
    return rows


RUN = """
import sys
from runtime import stream
stream.main(sys.argv[1:])
fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Vm"))
print("rss", fields["VmRSS"].split()[0], fields["VmHWM"].split()[0], file=sys.stderr)
"""


def measure_start(folder, fmt, window_s, hop_s):
    """-> seconds to the first decision, RSS and its peak in MB, of the command as a user runs it."""
    bundle = Bundle.load(folder, fmt)
    first_s = max(member.patch_end(0) for member in bundle.members) / bundle.sr
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sound.wav"
        soundfile.write(path, sound(bundle.sr, first_s + 2 * hop_s), bundle.sr, "PCM_16")
        command = [sys.executable, "-c", RUN, "--wav", str(path), "--realtime", "--jsonl", "--engine", fmt]
        command += ["--bundle", str(folder), "--window", str(window_s), "--hop", str(hop_s)]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            first = time.monotonic() - began
            _, said = process.communicate()
    rss, peak = (int(kb) / 1024 for kb in said.split("rss ")[1].split())
    return first, rss, peak


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__.split("  python")[0])
    parser.add_argument("--bundle", type=Path, default=DEFAULT)
    parser.add_argument(
        "--engine", choices=("tflite", "onnx"), default="tflite", help="of ours; the loop's is onnxruntime"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rows = measure_cpu(args.bundle, args.engine, args.repeats)
    for row in rows:
        row["first_decision_s"], row["rss_mb"], row["peak_mb"] = measure_start(
            args.bundle, args.engine, row["window_s"], row["hop_s"]
        )
    worst = {
        "cpu_per_audio_s": max(row["ours"][0] for row in rows),
        "speedup_vs_loop": min(row["loop"] / row["ours"][0] for row in rows),
        "rss_mb": max(row["rss_mb"] for row in rows),
        "first_decision_s": max(row["first_decision_s"] for row in rows),
    }
    if args.json:
        print(json.dumps(worst | {"grid": rows}))
        return 0
    print("window  hop   ours  front ends  nets  rest      loop  ratio  first decision  RSS   (peak)")
    for row in rows:
        total, front, nets = row["ours"]
        print(
            f"{row['window_s']:4.0f} s {row['hop_s']:4.1f} s {100 * total:5.2f} % {front / total:7.0%} {nets / total:7.0%}"
            f" {1 - (front + nets) / total:5.0%} {100 * row['loop']:8.1f} % {row['loop'] / total:5.1f}"
            f" {row['first_decision_s']:10.2f} s {row['rss_mb']:7.1f} MB ({row['peak_mb']:.1f})"
        )
    print(
        "percent of one core, processor time per time of sound; worst: "
        + ", ".join(f"{k} {v:.3f}" for k, v in worst.items())
    )
    return 0


if __name__ == "__main__":
    command.run(main)
