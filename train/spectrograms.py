"""Draw what the nets hear.  python -m train.spectrograms FILE [FILE ...] --plot out.png [--bundle BUNDLE]

One spectrogram above the other, on one time axis; with a bundle, its decisions over time below them.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from runtime import audio, command
from runtime.bundle import Bundle
from runtime.files import write_atomic
from runtime.frontend import PRESETS, spectrogram
from runtime.papers import PAPERS
from runtime.stream import Stream
from train.data import load_wave

MAX_SECONDS = 120.0
RANGE_DB = 80.0  # below the loudest cell everything is black, but for MFCC
MIN_TICK_BANDS = 6  # closer ones would write over each other
DRAWN = {**PRESETS, **{name: f for name, f in PAPERS.items() if f.kind != "frames"}}
TICKS_HZ = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


def plot(path, files, frontends, bundle=None, hop_s=0.1):
    """Write a PNG of `files`, played one after the other. frontends: title -> Frontend, all at one sample rate.

    Raises ValueError for recordings of more than MAX_SECONDS together.
    """
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    sr = next(iter(frontends.values())).sr
    waves = [load_wave(file, sr) for file in files]
    wave = np.concatenate(waves)
    if len(wave) > MAX_SECONDS * sr:
        raise ValueError(f"{len(wave) / sr:.0f} s of sound: a picture holds {MAX_SECONDS:.0f} s, name fewer files")
    heights = [3] * len(frontends) + ([0.32 * len(bundle.labels)] if bundle else [])
    figure = Figure(figsize=(11, 1 + 0.75 * sum(heights)), layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    starts = np.cumsum([0, *(len(w) / sr for w in waves)])
    for axes, (title, frontend) in zip(rows, frontends.items()):
        _draw_spectrogram(axes, title, wave, frontend)
        for start in starts[1:-1]:
            axes.axvline(start, color="white", linewidth=1)
    for file, start, stop in zip(files, starts, starts[1:]):
        middle, top = (start + stop) / 2, rows[0].get_ylim()[1]
        rows[0].text(middle, top, Path(file).name, ha="center", va="bottom", fontsize=8)
    if bundle:
        _draw_decisions(rows[-1], bundle, wave, hop_s)
        for start in starts[1:-1]:
            rows[-1].axvline(start, color="gray", linewidth=1)
    rows[-1].set_xlabel("seconds")
    rows[-1].set_xlim(0, len(wave) / sr)
    write_atomic(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))


def above_source(file, frontends):
    """-> a line for each front end with bands that a recording of this rate cannot hold."""
    source_sr = audio.header(file).sr
    lines = []
    for name, frontend in frontends.items():
        n = 0 if frontend.kind == "mfcc" else frontend.n_above(source_sr)
        if n:
            lines.append(
                f"{file}: at {source_sr} Hz it holds nothing above {source_sr / 2:.0f} Hz, "
                f"where {n} of {name}'s {frontend.n_bands} bands lie"
            )
    return lines


def _draw_spectrogram(axes, title, wave, frontend):
    static = spectrogram(wave, dataclasses.replace(frontend, log=True))  # without a log only the loudest would show
    low, high = float(static.max()) - RANGE_DB, float(static.max())
    if frontend.kind == "mfcc":  # what stays would hide what changes
        static = static - static.mean(axis=1, keepdims=True)
        low, high = np.percentile(static[1:], [1, 99])  # coefficient 0 is the loudness
    seconds = (np.arange(static.shape[1] + 1) - 0.5) * frontend.hop_length / frontend.sr
    bands = np.arange(frontend.n_bands + 1) - 0.5
    axes.pcolormesh(seconds, bands, static, vmin=low, vmax=high, cmap="magma", shading="flat", rasterized=True)
    if frontend.kind == "mfcc":
        axes.set_ylabel(f"{title}\ncoefficient,\nless its mean")
        return
    at, shown = [], []
    for hz in TICKS_HZ:
        band = float(np.interp(hz, frontend.centers_hz, np.arange(frontend.n_bands)))
        inside = frontend.centers_hz[0] <= hz <= frontend.centers_hz[-1]
        if inside and (not at or band - at[-1] >= MIN_TICK_BANDS):
            at, shown = [*at, band], [*shown, hz]
    axes.set_yticks(at, shown)
    axes.set_ylabel(f"{title}\nHz")


def _draw_decisions(axes, bundle, wave, hop_s):
    """Probability of each class over time, as the stream gives it; what comes before the first decision stays white."""
    stream = Stream(bundle, hop_s=hop_s)
    decisions = stream.feed(wave)
    if not decisions:
        raise ValueError(f"{len(wave) / bundle.sr:.1f} s of sound: too short for a decision of {bundle.folder}")
    p = np.array([[d.scores[label] for label in bundle.labels] for d in decisions]).T
    ends = np.array([d.end_s for d in decisions])
    edges = np.append(ends, ends[-1] + hop_s)
    axes.pcolormesh(edges, np.arange(len(bundle.labels) + 1) - 0.5, p, vmin=0, vmax=1, cmap="Blues", rasterized=True)
    axes.set_yticks(range(len(bundle.labels)), bundle.labels)
    axes.invert_yaxis()
    axes.set_ylabel("fused decision,\nthe darker the surer")


def _heard_by(bundle):
    """Title -> front end of each spectrogram that a bundle hears. Raises ValueError where it hears raw frames alone."""
    heard = {}
    for member in bundle.members:
        several = len(member.frontend.frontends) > 1
        for frontend in (f for f in member.frontend.frontends if f.kind != "frames"):
            heard[f"{member.name}: {frontend.kind} {frontend.n_bands}" if several else member.name] = frontend
    if not heard:
        raise ValueError(f"{bundle.folder} hears raw frames: there is no spectrogram to draw")
    return heard


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m train.spectrograms", description=__doc__.split("  ")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings, drawn one after the other")
    parser.add_argument("--plot", type=Path, required=True, metavar="PNG", help="picture to write")
    parser.add_argument(
        "--frontend", choices=DRAWN, metavar="NAME", action="append",
        help=f"repeat for several: {', '.join(DRAWN)} (default: {', '.join(PRESETS)})",
    )  # fmt: skip
    parser.add_argument("--hop-length", type=int, help="samples between frames (default: the front end's own)")
    parser.add_argument("--bundle", type=Path, help="draw this bundle's spectrograms and its decisions")
    args = parser.parse_args(argv)
    if args.bundle:
        if args.frontend or args.hop_length is not None:
            raise ValueError("--bundle takes no --frontend and no --hop-length: it draws what the bundle hears")
        bundle = Bundle.load(args.bundle)
        frontends = _heard_by(bundle)
    else:
        bundle = None
        names = args.frontend or list(PRESETS)
        hop = {} if args.hop_length is None else {"hop_length": args.hop_length}
        frontends = {name: dataclasses.replace(DRAWN[name], **hop) for name in names}
    plot(args.plot, args.files, frontends, bundle)
    for file in args.files:
        for line in above_source(file, frontends):
            print(line)
    print(f"made {args.plot}")


if __name__ == "__main__":
    command.run(main)
