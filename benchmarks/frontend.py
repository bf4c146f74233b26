"""Front ends beside what people use, in one run, on one thread.  python -m benchmarks.frontend [--json | --costs | --cqt]

Times are CPU time of this process, medians over repeats that alternate between ours and the peers: another process on
the machine takes the same from both. Speedups are of mel, gammatone and CQT together over librosa mel, the gammatone
package and librosa.cqt:

    clip_10s      a 10 s clip in one call
    windows_1s    windows of 1 s every 0.5 s, one call each
    stream_100ms  10 s in chunks of 100 ms through a stream, over the peers' ONE call on those 10 s: none has a stream

All with what is installed; "numpy alone" is the same without scipy. "FFTs alone" is the floor under the time of all three,
the rest of the way is printed kernel by kernel ("of it").

max_db_error: against a float64 evaluation (CQT: librosa.cqt at sparsity 0, frames away from the ends, where librosa
cuts each octave's recording off), over the cells within 80 dB of their frame's maximum and above the floor; mfcc: largest
difference over largest value.
"""

import runtime  # noqa: F401, I001  before numpy: it sets how many threads numpy takes
import argparse
import dataclasses
import functools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from runtime import command, filterbanks, spectrum
from runtime import frontend as frontend_module
from runtime.frontend import (
    CQT,
    CQT_SEED,
    GAMMATONE,
    MEL,
    Frontend,
    FrontendStream,
    SharedStream,
    spectrogram,
    spectrograms,
    table_bytes,
)
from runtime.patches import deltas
from runtime.spectrum import rfft32
from runtime.tape import BATCH, Tape, framed

SR, HOP = 44100, 620
THREE = {"mel": MEL, "gammatone": GAMMATONE, "cqt": CQT}
STFT, MFCC = Frontend("stft", n_bands=4097), Frontend("mfcc", n_bands=20)
FRAMES = Frontend("frames", n_bands=2048, win_length=2048, hop_length=1024)
RSS = """
import runtime.frontend
for frontend in runtime.frontend.PRESETS.values():
    runtime.frontend.table_bytes(frontend)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss would remember the parent
"""


def sounds(folder=None, n_clips=8):
    """-> name -> (samples,) float32: chirp, tone, noise, silence, and clips of a folder of recordings."""
    t = np.arange(2 * SR) / SR
    made = {
        "tone": 0.5 * np.sin(2 * np.pi * 1000 * t),
        "chirp": 0.5 * np.sin(2 * np.pi * (100 * t + 4000 * t**2)),
        "noise": 0.1 * np.random.default_rng(0).standard_normal(len(t)),
        "silence": np.zeros(len(t)),
    }
    files = sorted(Path(folder).rglob("*.*")) if folder else []
    files = [file for file in files if file.suffix in (".wav", ".flac", ".ogg")]
    for file in files[:: max(1, len(files) // n_clips)]:
        from train.data import load_wave

        made[file.name] = load_wave(file, SR)
    return {name: wave.astype(np.float32) for name, wave in made.items()}


def floor_s(wave, dtype):
    """Run the FFTs alone, into arrays made before: what is left if everything else were free. The CQT has none."""
    padded, window = np.pad(wave, 2048), filterbanks.hann(4096).astype(dtype)
    n = MEL.n_frames(len(wave)) // 8 * 8
    frames, buffer = framed(padded, n, 4096, HOP), np.zeros((8, 8192), dtype)
    spectra = np.empty((8, 4097), np.complex128)

    def fft():
        if dtype == np.float32:
            return rfft32()(buffer)
        return np.fft.rfft(buffer, out=spectra)

    def run():
        for i in range(0, n, 8):
            np.multiply(frames[i : i + 8], window, out=buffer[:, :4096])
            fft()

    return run


def peers():
    """name -> function of a wave. Each as its documentation shows it, with our parameters."""
    import librosa
    from gammatone.fftweight import fft_gtgram

    return {
        "mel": lambda y: librosa.power_to_db(
            librosa.feature.melspectrogram(y=y, sr=SR, n_fft=8192, win_length=4096, hop_length=HOP, n_mels=128),
            top_db=None,
        ),
        "gammatone": lambda y: 20 * np.log10(fft_gtgram(y, SR, 4096 / SR, HOP / SR, 128, 50) + 1e-12),
        "cqt": lambda y: librosa.amplitude_to_db(
            np.abs(librosa.cqt(y, sr=SR, hop_length=HOP, fmin=32.703, n_bins=128, bins_per_octave=14, tuning=0)),
            top_db=None,
        ),
    }


def streamed(wave, frontends, n=4410):
    stream = SharedStream(frontends)
    for start in range(0, len(wave), n):
        stream.feed(wave[start : start + n])
    stream.flush()


def without_scipy(function):
    """-> the same function, run as where the extra `fast` is not installed."""
    plans = functools.lru_cache(frontend_module._plan.__wrapped__)

    def run():
        kept = frontend_module._plan, frontend_module.rfft32, spectrum.rfft32
        try:
            frontend_module._plan, frontend_module.rfft32, spectrum.rfft32 = plans, lambda: None, lambda: None
            return function()
        finally:
            frontend_module._plan, frontend_module.rfft32, spectrum.rfft32 = kept

    return run


def kernels(wave):
    """name -> function: what `spectrograms` of the three is made of, on as much data, each kernel alone."""
    shared, cqt = frontend_module._plan((MEL, GAMMATONE)), frontend_module._plan((CQT,))
    n, block = MEL.n_frames(len(wave)), 64
    mel, gammatone = shared._heads
    tape = Tape()
    tape.append(np.pad(wave, (0, 8192)))
    magnitude = np.empty((block // BATCH, BATCH, 4097), np.float32)
    magnitude_squared = np.empty_like(magnitude)
    rows, norms = magnitude.reshape(block, 4097), np.ones(block, np.float32)
    shared._magnitudes(tape, 8, rows[:8], norms[:8])
    magnitude[:] = magnitude[:1]
    bands = magnitude[0, :, :128].repeat(8, 0)
    tapes = [Tape(first) for first in cqt.first_samples]
    tapes[0].append(np.pad(wave, (0, cqt.lookahead + 1)))
    cqt.descend(tapes)

    def decimations():
        again = [tapes[0], *(Tape(first) for first in cqt.first_samples[1:])]
        cqt.descend(again)

    def blocks(function):
        return lambda: [function() for _ in range(0, n, block)]

    return {
        "windows, FFTs, magnitudes": lambda: [
            shared._magnitudes(tape, at, rows[:8], norms[:8]) for at in range(0, n // 8 * 8, 8)
        ],
        "squares": blocks(lambda: np.square(magnitude, out=magnitude_squared)),
        "mel product": blocks(lambda: mel.bands(magnitude)),
        "gammatone product": blocks(lambda: gammatone.bands(magnitude)),
        "coarse frames found, logs": blocks(
            lambda: [(h.doubtful(bands, norms, rows), spectrum.decibels(bands, 1e-10)) for h in (mel, gammatone)]
        ),
        "CQT decimations": decimations,
        "CQT products, logs": lambda: [cqt.block(tapes, at, min(at + block, n)) for at in range(0, n, block)],
    }


def medians_ms(functions, repeats):
    """name -> function; -> name -> median CPU milliseconds. Every round runs each once; the first round is not counted."""
    times = {name: [] for name in functions}
    for _ in range(1 + repeats):
        for name, function in functions.items():
            before = time.process_time()
            function()
            times[name].append(1e3 * (time.process_time() - before))
    return {name: float(np.median(taken[1:])) for name, taken in times.items()}


def measure_speed(repeats):
    wave = sounds()["noise"]
    wave = np.tile(wave, 5)  # 10 s
    windows = [wave[start : start + SR] for start in range(0, 4 * SR, SR // 2)]
    three = list(THREE.values())
    functions = {
        "together 10 s": lambda: spectrograms(wave, three),
        "together windows": lambda: [spectrograms(w, three) for w in windows],
        "together stream": lambda: streamed(wave, three),
        "FFTs alone 10 s": floor_s(wave, np.float32 if rfft32() else np.float64),
        "float64 FFTs alone 10 s": floor_s(wave, np.float64),
    }
    functions |= {
        f"{name}, numpy alone": without_scipy(functions[name])
        for name in ("together 10 s", "together windows", "together stream")
    }
    functions |= {f"of it: {name}": kernel for name, kernel in kernels(wave).items()}
    for name, peer in peers().items():
        functions[f"peer {name} 10 s"] = lambda peer=peer: peer(wave)
        functions[f"peer {name} windows"] = lambda peer=peer: [peer(w) for w in windows]
        functions[f"{name} 10 s"] = lambda name=name: spectrogram(wave, THREE[name])
        functions[f"{name} windows"] = lambda name=name: [spectrogram(w, THREE[name]) for w in windows]
    for name, frontend in (("stft", STFT), ("mfcc", MFCC), ("frames", FRAMES)):
        functions[f"{name} 10 s"] = lambda frontend=frontend: spectrogram(wave, frontend)
    static = spectrogram(wave, MEL)
    functions["deltas 10 s"] = lambda: deltas(static)
    return medians_ms(functions, repeats)


def speedups(ms):
    clip = sum(ms[f"peer {name} 10 s"] for name in THREE)
    windows = sum(ms[f"peer {name} windows"] for name in THREE)
    return {
        "clip_10s": clip / ms["together 10 s"],
        "windows_1s": windows / ms["together windows"],
        "stream_100ms": clip / ms["together stream"],
        "numpy_alone_clip_10s": clip / ms["together 10 s, numpy alone"],
        "numpy_alone_windows_1s": windows / ms["together windows, numpy alone"],
        "numpy_alone_stream_100ms": clip / ms["together stream, numpy alone"],
        "floor_of_clip_10s": clip / ms["FFTs alone 10 s"],
        **{f"{name}_clip_10s": ms[f"peer {name} 10 s"] / ms[f"{name} 10 s"] for name in THREE},
        **{f"{name}_windows_1s": ms[f"peer {name} windows"] / ms[f"{name} windows"] for name in THREE},
    }


def float64_power(wave, frontend):
    """(frames, bins) of windowed FFTs in float64."""
    before = FrontendStream(frontend).lookback
    padded = np.pad(wave.astype(float), (before, frontend.win_length))
    frames = framed(padded, frontend.n_frames(len(wave)), frontend.win_length, frontend.hop_length)
    return np.abs(np.fft.rfft(frames * filterbanks.hann(frontend.win_length), frontend.n_fft)) ** 2


def references(wave):
    """kind -> (front end, reference in dB or coefficients, its floor, frames to skip at either end)."""
    import librosa

    power = float64_power(wave, MEL)
    mel = 10 * np.log10(np.maximum(power @ filterbanks.mel_weights(SR, 8192, 128, 0, SR / 2).T, 1e-10)).T
    weights = filterbanks.gammatone_weights(SR, 8192, 128, 50, SR / 2) / 8192
    cqt = librosa.cqt(
        wave.astype(float), sr=SR, hop_length=HOP, fmin=32.703, n_bins=128, bins_per_octave=14, tuning=0, sparsity=0,
        dtype=np.complex128,
    )  # fmt: skip
    return {
        "mel": (MEL, mel, -100, 0),
        "gammatone": (GAMMATONE, 20 * np.log10(np.maximum(np.sqrt(power) @ weights.T, 1e-6)).T, -120, 0),
        "cqt": (CQT, 20 * np.log10(np.maximum(np.abs(cqt), 1e-5)), -100, 1 + FrontendStream(CQT).lookahead // HOP),
        "stft": (STFT, 10 * np.log10(np.maximum(power, 1e-10)).T, -100, 0),
        "mfcc": (MFCC, filterbanks.dct_matrix(20, 128) @ mel, None, 0),
    }


def errors(waves):
    """-> kind -> (largest difference, the sound it is in, cells that differ by more than 0.01, cells judged)."""
    found = {}
    for name, wave in waves.items():
        for kind, (frontend, reference, floor, skip) in references(wave).items():
            inner = slice(skip, reference.shape[1] - skip)
            ours, reference = spectrogram(wave, frontend)[:, inner], reference[:, inner]
            differs = np.abs(ours - reference)
            if floor is None:
                differs = differs / np.abs(reference).max()
            else:
                differs = differs[(reference > reference.max(axis=0, initial=-999) - 80) & (reference > floor + 1)]
            if not differs.size:
                continue  # silence: nothing above the floor
            worst, where, n_over, n = found.get(kind, (-1.0, "", 0, 0))
            worst, where = max((worst, where), (float(differs.max()), name))
            found[kind] = worst, where, n_over + int((differs > 0.01).sum()), n + differs.size
    return found


def costs(repeats):
    """Print a table: each front end's time per second of audio, what it keeps, how late it is."""
    wave = np.tile(sounds()["noise"], 5)
    named = {
        "mel": MEL, "gammatone": GAMMATONE, "cqt": CQT, "cqt, preset `seed`": CQT_SEED,
        "cqt, hop 1120": dataclasses.replace(CQT, hop_length=1120), "stft": STFT, "mfcc": MFCC, "frames": FRAMES,
    }  # fmt: skip
    functions = {(name, "clip"): lambda f=f: spectrogram(wave, f) for name, f in named.items()}
    functions |= {(name, "stream"): lambda f=f: streamed(wave, [f]) for name, f in named.items()}
    ms = medians_ms(functions, repeats)
    print("| front end | CPU ms per s, clip | in 100 ms chunks | tables, KB | held by a stream, KB | look-ahead, s |")
    print("|---|---|---|---|---|---|")
    for name, frontend in named.items():
        stream, n_held = FrontendStream(frontend), 0
        for start in range(0, len(wave), 4410):
            stream.feed(wave[start : start + 4410])
            n_held = max(n_held, stream.n_held)
        times = [f"{ms[name, kind] / 10:.2f}" for kind in ("clip", "stream")]
        kept = [f"{n / 1024:.0f}" for n in (table_bytes(frontend), 4 * n_held)]
        print("| " + " | ".join([name, *times, *kept, f"{stream.lookahead_s:.3f}"]) + " |")


def direct_cqt_db(wave, frame, band):
    """One cell in float64 at the recording's full rate: no octaves, no decimation, no spectrum of a kernel."""
    length = filterbanks.cqt_quality(14) * SR / CQT.centers_hz[band]
    n = np.arange(-int(length // 2), int(length // 2) + 1)
    window = 0.5 + 0.5 * np.cos(2 * np.pi * n / length)
    at = frame * HOP + n
    samples = np.where((at >= 0) & (at < len(wave)), wave[np.clip(at, 0, len(wave) - 1)], 0.0)
    response = np.abs((samples * window) @ np.exp(-2j * np.pi * CQT.centers_hz[band] / SR * n))
    return 20 * np.log10(max(response / window.sum() * np.sqrt(length), 1e-5))


def compare_cqt(waves):
    """Print for each sound where librosa and we differ by more than 0.01 dB, and who is how far from the direct sum."""
    rng = np.random.default_rng(0)
    for name, wave in waves.items():
        frontend, reference, floor, skip = references(wave)["cqt"]
        ours = spectrogram(wave, frontend)
        judged = (reference > reference.max(axis=0, initial=-999) - 80) & (reference > floor + 1)
        judged[:, :skip] = judged[:, reference.shape[1] - skip :] = False
        if not judged.any():
            continue
        differs = np.where(judged, np.abs(ours - reference), 0)
        line = f"{name}: at most {differs.max():.4f} dB, above 0.01 in {(differs > 0.01).sum()} of {judged.sum()} cells"
        for title, where in (("200 cells", judged), ("those above 0.01", differs > 0.01)):
            cells = rng.permutation(np.argwhere(where))[:200]
            if len(cells):
                direct = np.array([direct_cqt_db(wave, frame, band) for band, frame in cells])
                bands, frames = cells.T
                far = [np.abs(x[bands, frames] - direct).mean() for x in (reference, ours)]
                line += f"; {title}: librosa {far[0]:.4f}, ours {far[1]:.4f} dB from the direct sum on average"
        print(line)


def rss_mb():
    """Peak of a fresh process that imports runtime.frontend and builds the three plans."""
    kib = subprocess.run([sys.executable, "-c", RSS], capture_output=True, text=True, check=True).stdout
    return int(kib) / 1024


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontend", description=__doc__.split("  ")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--clips", type=Path, default=Path("train/recordings"), help="folder of recordings to agree on")
    parser.add_argument("--costs", action="store_true", help="print what each front end costs, and no peers")
    parser.add_argument(
        "--cqt", action="store_true", help="print where the CQT differs from librosa's, and who is right"
    )
    args = parser.parse_args(argv)
    if args.costs:
        return costs(args.repeats)
    if args.cqt:
        return compare_cqt(sounds(args.clips))
    ms = measure_speed(args.repeats)
    found = errors(sounds(args.clips))
    results = {
        "speedup": speedups(ms),
        "max_db_error": {kind: worst for kind, (worst, *_) in found.items()},
        "cpu_ms": ms,
        "table_bytes": {kind: table_bytes(frontend) for kind, frontend in THREE.items()},
        "gammatone_table_bytes": {
            str(tolerance): table_bytes(Frontend("gammatone", fmin=50.0, tolerance=tolerance))
            for tolerance in (0.0, 1e-6, 1e-3, 1e-2)
        },
        "lookahead_s": {kind: FrontendStream(frontend).lookahead_s for kind, frontend in THREE.items()},
        "rss_mb": {"import and plans": rss_mb(), "this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024},
    }  # fmt: skip
    if args.json:
        print(json.dumps(results))
        return
    print("CPU ms, medians\n" + "\n".join(f"  {name:24} {value:8.1f}" for name, value in ms.items()))
    print("speedup\n" + "\n".join(f"  {name:24} {value:8.1f} x" for name, value in results["speedup"].items()))
    print("largest difference, dB (mfcc: relative)")
    for kind, (worst, name, n_over, n) in found.items():
        print(f"  {kind:12} {worst:.6f} in {name}; above 0.01 in {n_over} of {n} cells")
    for key in ("table_bytes", "gammatone_table_bytes", "lookahead_s", "rss_mb"):
        print(f"{key}: " + ", ".join(f"{name} {value:.4g}" for name, value in results[key].items()))


if __name__ == "__main__":
    command.run(main)
