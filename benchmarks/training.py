"""How fast nets train, and what holds them up.  python -m benchmarks.training [--json]

Sounds of 10 s that it makes itself, mel at P3's hop 1120, `train.loop.fit` as `python -m train` calls it:

    training    epochs of the deployed and the full CNN-7, and of other families as small as the deployed one, on this
                processor and on a GPU where torch sees one
    variations  epochs of the deployed one with --vary-every 8, as compress.cnn7 trains it but for its noises, a quarter
                more, with 0, 1 and 2 workers; waiting: the part of the epoch in which the net waits for variations
    features    spectrograms computed for the first time, with 0, 1 and 2 workers
    reading     spectrograms read from the cache, as each epoch does
    front end   runtime.frontend beside train.waveforms, the same in torch for batches, on each device

An epoch takes one random patch of each clip, so that clips per second are patches per second. Seconds on the wall, since
several processes work: a machine with other work is slower, and ratios within a table tell more than its numbers. Every
round runs each once; medians over rounds. tau_min: minutes that TAU 2020's 13,962 training clips would take.
"""

import runtime  # noqa: F401, I001  before numpy: it sets how many threads numpy takes
import argparse
import contextlib
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from compress.recipe import VARY_EVERY
from runtime import command
from runtime.frontend import PRESETS, spectrogram
from train import waves
from train.features import PatchShape, features
from train.layouts import Clip
from train.loop import fabric_of, fastest_precision, fit
from train.recipe import CHOICES, Recipe
from train.systems import SYSTEMS
from train.trainer import new_run
from train.waveforms import BatchFrontend
from train.workers import workers

SR, SECONDS, HOP, N_CLASSES = 44100, 10, 1120, 10
TAU_CLIPS = 13_962
FRONTENDS = {name: dataclasses.replace(frontend, hop_length=HOP) for name, frontend in PRESETS.items()}
MEL = FRONTENDS["mel"]
NETS = (("cnn7", "deployed"), ("cnn7", "full"), ("cpmobile", "small"), ("bcresnet", "small"))
N_WORKERS = (0, 1, 2)
BATCH = {"cpu": 8, "cuda": 64}  # patches: compress.cnn7's, and enough to keep a GPU busy


def made_clips(folder, n):
    """-> n Clips of 10 s on disk, in ten classes: noise that rises and falls."""
    t, clips = np.arange(SECONDS * SR) / SR, []
    for i in range(n):
        noise = 0.05 * np.random.default_rng(i).standard_normal(len(t))
        path = folder / f"{i}.wav"
        soundfile.write(path, noise * (1.2 + np.sin((1 + i % N_CLASSES) * t)), SR, "PCM_16")
        clips.append(Clip(path, str(i % N_CLASSES), None, path.stem))
    return clips


def epochs_s(name, shape, statics, recipe, device, folder, n_counted, varied=None):
    """Train; -> seconds of an epoch, the median of the last n_counted."""
    labels = tuple(map(str, range(N_CLASSES)))
    run = new_run(name, SYSTEMS[name].shapes[shape], MEL, PatchShape(), labels, statics, recipe)
    ends, targets = [], [i % N_CLASSES for i in range(len(statics))]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        fit(
            run, statics, targets, recipe, out, fabric=fabric_of(recipe, device), varied=varied,
            say=lambda line: ends.append(time.monotonic()),
        )  # fmt: skip
    return float(np.median(np.diff(ends)[-n_counted:]))


def training_s(name, shape, statics, precision, device, folder):
    recipe = Recipe(epochs=2, batch_size=BATCH[device], precision=precision)
    return epochs_s(name, shape, statics, recipe, device, folder, 1)


def varying_s(clips, statics, starmap, device, folder):
    """-> seconds of an epoch, seconds of it in which the net waits."""
    waits = []

    def varied(due):
        return timed(starmap(waves.spectrogram_of, [(clips[i].path, MEL, (0, i, k)) for i, k in due]), waits)

    recipe = Recipe(epochs=5, batch_size=BATCH[device], precision=fastest_precision(), vary_every=VARY_EVERY)
    took = epochs_s(*NETS[0], statics, recipe, device, folder, 3, varied)
    return took, float(np.median(waits[-3:]))


def timed(results, waits):
    """Yields the results, and appends to `waits` for how many seconds they let one wait."""
    waited = 0.0
    while True:
        began = time.monotonic()
        result = next(results, None)
        waited += time.monotonic() - began
        if result is None:
            break
        yield result
    waits.append(waited)


def features_s(clips, starmap, folder):
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        return seconds(features, clips, MEL, cache, starmap)


def seconds(work, *args):
    began = time.monotonic()
    work(*args)
    return time.monotonic() - began


def in_torch(frontend, waves_of_all, device):
    """-> seconds of a batch, there and back."""
    module = BatchFrontend(frontend).to(device)
    with torch.no_grad():
        module(waves_of_all.to(device))  # the first takes longer
        return seconds(lambda: module(waves_of_all.to(device)).cpu())


def measure(n_clips, repeats, folder):
    """-> {(table, row...): median seconds, or (seconds of an epoch, seconds waited)}, for n_clips."""
    clips = made_clips(folder, n_clips)
    statics = features(clips, MEL, folder / "cache")
    sounds = torch.stack([torch.from_numpy(soundfile.read(clip.path, dtype="float32")[0]) for clip in clips[:8]])
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = {}
    with contextlib.ExitStack() as stack:
        starmaps = {n: stack.enter_context(workers(n)) for n in N_WORKERS}
        for starmap in starmaps.values():  # who has started, and imported what it takes
            list(starmap(waves.spectrogram_of, [(clip.path, MEL, 0) for clip in clips[:4]]))
        for at in range(repeats):
            now = {("reading",): seconds(list, statics)}
            for n, starmap in starmaps.items():
                now["features", n] = features_s(clips, starmap, folder)
            for device in devices:
                for net, precision in itertools.product(NETS, CHOICES["precision"]):
                    taken = training_s(*net, statics, precision, device, folder)
                    now["training", device, " ".join(net), precision] = taken
                for n, starmap in starmaps.items():
                    now["variations", device, n] = varying_s(clips, statics, starmap, device, folder)
            for name, frontend in FRONTENDS.items():
                here = seconds(lambda f=frontend: [spectrogram(wave, f) for wave in sounds.numpy()])
                now[f"front end {name}", "runtime"] = here / len(sounds) * n_clips
                for device in devices:
                    now[f"front end {name}", device] = in_torch(frontend, sounds, device) / len(sounds) * n_clips
            for key, value in now.items():
                found.setdefault(key, []).append(value)
            print(f"round {at + 1} of {repeats} done", file=sys.stderr, flush=True)
    return {key: np.median(values, axis=0) for key, values in found.items()}


def tables(taken, n_clips):
    """-> {"training": rows, ...}: clips_per_s, tau_min, and what tells the rows apart."""
    fields = {
        "training": ("device", "net", "precision"),
        "variations": ("device", "workers"),
        "features": ("workers",),
        "reading": (),
        **{f"front end {name}": ("by",) for name in FRONTENDS},
    }
    made = {name: [] for name in fields}
    for (name, *values), took in taken.items():
        epoch_s = float(np.ravel(took)[0])
        row = dict(zip(fields[name], values)) | {"clips_per_s": n_clips / epoch_s}
        row["tau_min"] = TAU_CLIPS / row["clips_per_s"] / 60
        if name == "variations":
            row["waiting"] = float(took[1]) / epoch_s
        made[name].append(row)
    return made


def text(made):
    """The tables, each row beside the first of its table."""
    lines = []
    for name, rows in made.items():
        lines.append(f"{name:<32}{'clips/s':>9}{'ratio':>8}{'TAU 2020, min':>15}")
        for row in rows:
            what = ", ".join(
                f"{value} {key}" if key == "workers" else str(value)
                for key, value in row.items()
                if key not in ("clips_per_s", "tau_min", "waiting")
            )
            ratio = row["clips_per_s"] / rows[0]["clips_per_s"]
            waiting = f"   waiting {row['waiting']:.0%}" if "waiting" in row else ""
            lines.append(f"  {what:<30}{row['clips_per_s']:9.1f}{ratio:8.2f}{row['tau_min']:15.2f}{waiting}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__.split("  python")[0],
        epilog=__doc__.split("[--json]")[1], formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--clips", type=int, default=32, help="of 10 s, which an epoch takes (default 32)")
    parser.add_argument("--threads", type=int, default=1, help="of the net's steps; workers have their own (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    for name, least in (("clips", 16), ("threads", 1), ("repeats", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)}: choose {least} or more")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        made = tables(measure(args.clips, args.repeats, Path(folder)), args.clips)
    if args.json:
        print(json.dumps({"n_clips": args.clips, "threads": args.threads, **made}))
    else:
        print(text(made))


if __name__ == "__main__":
    command.run(main)
