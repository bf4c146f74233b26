"""How level, distance and device change the accuracy.  python -m compress.levels BUNDLE [BUNDLE ...] --data PATH

Each clip that a bundle's nets have not heard, played to the deployed files
    quieter and louder, and cut off at full scale and rounded to 16 bits as a microphone's samples are,
    through responses of phones and microphones: made ones, or those in --responses FOLDER (train.responses),
    from further away in a living room (train.responses.room).
Several bundles of one training, each with the fold that it held out, are pooled; --fold says it for bundles that do not.
"""

import argparse
from pathlib import Path

import numpy as np

from compress import deployed
from compress.written import write_table
from runtime import command, engine
from runtime.bundle import Bundle
from runtime.frontend import spectrograms
from train import responses
from train.data import RECORDINGS, load_dataset, load_wave
from train.features import CACHE
from train.scores import accuracy_and_loss, difference, intervals, plain

GAINS_DB = (-30, -25, -20, -15, -10, -5, 0, 5, 10)
DISTANCES_M = (1.0, 2.0, 4.0, 8.0)
ORDER = ("level", "device", "distance")  # kinds of conditions, as the table shows them
STEPS = 1 << 15  # of a 16-bit microphone, per full scale


def microphone(wave):
    """(samples,) of any level -> what a 16-bit microphone gives: cut off at full scale, rounded."""
    return (np.rint(np.clip(wave, -1, 1 - 1 / STEPS) * STEPS) / STEPS).astype(np.float32)


def conditions(sr, folder=None, gains_db=GAINS_DB, distances_m=DISTANCES_M):
    """-> [(kind, name, JSON-able description, function of a wave)], the recording as it is first.

    folder: of real responses, in place of made ones.
    """
    devices = responses.read_responses(folder, sr) if folder else responses.made(sr=sr)
    out = [("level", "0 dB", ["gain", 0], microphone)]
    for gain_db in gains_db:
        if gain_db:
            out.append(
                (
                    "level",
                    f"{gain_db:+g} dB",
                    ["gain", gain_db],
                    lambda wave, factor=10 ** (gain_db / 20): microphone(wave * factor),
                )
            )
    for name, response in devices.items():
        out.append(("device", name, ["response", response.tolist()], _through(response)))
    for distance_m in distances_m:
        response = responses.room(distance_m, sr=sr)
        out.append(("distance", f"{distance_m:g} m", ["room", distance_m, sr], _through(response)))
    return out


def _through(response):
    return lambda wave: microphone(responses.through(wave, response))


def measure(bundles, dataset, folds, some, keep):
    """Bundles, the fold of each, conditions -> the table: a row per condition, all bundles' clips together."""
    tests = [deployed.test_clips(bundle, dataset, fold) for bundle, fold in zip(bundles, folds)]
    clips = [clip for test in tests for clip in test]
    truth = np.array([dataset.labels.index(clip.label) for clip in clips])
    groups, rows, reference = np.array([clip.group for clip in clips]), [], None
    for i, (kind, name, description, change) in enumerate(some, 1):
        log_p = np.concatenate(
            [
                _fused(bundle, test, description, change, keep, f"{name} ({i} of {len(some)}), {bundle.folder.name}")
                for bundle, test in zip(bundles, tests)
            ]
        )
        reference = log_p if reference is None else reference
        rows.append({
            "kind": kind,
            "name": name,
            **accuracy_and_loss(truth, log_p),
            "interval": intervals(truth, log_p, groups)["accuracy"],
            "to_recorded": difference(truth, log_p, reference, groups),
        })  # fmt: skip
    rows.sort(key=lambda row: (ORDER.index(row["kind"]), _gain(row["name"]) if row["kind"] == "level" else 0))
    return {
        "data": dataset.name,
        "folds": folds,
        "held_out": all(deployed.is_held_out(bundle, dataset, fold) for bundle, fold in zip(bundles, folds)),
        "bundles": [str(bundle.folder) for bundle in bundles],
        "format": bundles[0].format,
        "recordings": len(set(groups)),
        "n": len(clips),
        "rows": rows,
    }


def _gain(name):
    return float(name.split()[0])


def _fused(bundle, clips, description, change, keep, title):
    frontends = [member.frontend for member in bundle.members]

    def hear(clip):
        return spectrograms(change(load_wave(clip.path, bundle.sr)), frontends)

    return deployed.fused(bundle, deployed.log_probabilities(bundle, clips, hear, description, keep, title))


def text(table):
    """The table as lines for a terminal."""
    heard = "none of them heard in training" if table["held_out"] else "the nets may have heard them in training"
    folds = ", ".join(map(str, table["folds"]))
    lines = [f"{table['data']}, folds {folds}, {table['n']} clips, {heard}; {table['format']} files, fused"]
    titles = {
        "level": "level: as recorded is 0 dB, cut off at full scale, 16 bits",
        "device": "through a device's response",
        "distance": f"in a room of {responses.ROOM_VOLUME_M3:g} m3, RT60 {responses.ROOM_RT60_S:g} s; as recorded, at 1 m "
        f"without the room; direct and diffuse sound are equal at {responses.critical_distance_m():.2f} m",
    }
    for kind, title in titles.items():
        rows = [row for row in table["rows"] if row["kind"] == kind]
        lines += [title] if rows else []
        for row in rows:
            low, high = row["interval"]
            change, (least, most) = row["to_recorded"]["accuracy"], row["to_recorded"]["accuracy_interval"]
            lines.append(
                f"  {row['name'][:20]:<20} {row['accuracy']:>6.1%} [{low:.1%}, {high:.1%}]  log loss {row['log_loss']:.3f}"
                f"  against 0 dB {100 * change:+.1f} points [{100 * least:+.1f}, {100 * most:+.1f}]"
            )
    return "\n".join([*lines, f"95 % intervals: bootstrap over {table['recordings']} recordings"])


def plot(path, table):
    """PNG: accuracy over level and distance, a bar per device."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    kinds = [kind for kind in ORDER if any(row["kind"] == kind for row in table["rows"])]
    figure = Figure(figsize=(4.5 * len(kinds), 4), layout="constrained")
    recorded = next(row for row in table["rows"] if row["name"] == "0 dB")["accuracy"]
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds), sharey=True)), kinds):
        rows = [row for row in table["rows"] if row["kind"] == kind]
        at = [i if kind == "device" else _gain(row["name"]) for i, row in enumerate(rows)]
        shares = np.array([[row["accuracy"], *row["interval"]] for row in rows]) * 100
        around = np.abs(shares[:, 1:].T - shares[:, 0])
        axes.errorbar(at, shares[:, 0], yerr=around, fmt="o" if kind == "device" else "o-", capsize=3)
        axes.axhline(100 * recorded, color="gray", linestyle=":", label="as recorded")
        if kind == "device":
            axes.set_xticks(at, [plain(row["name"][:20]) for row in rows], rotation=60, ha="right")
        axes.set_xlabel({"level": "dB", "device": "", "distance": "m, in a room"}[kind])
        axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.get_axes()[0].set_ylabel(f"accuracy of {table['n']} clips, %")
    figure.savefig(path, dpi=110, format="png")


def main(argv=None):
    args = _arguments(argv)
    dataset = load_dataset(args.data)
    fmt = engine.choose(args.engine)
    bundles = [Bundle.load(folder, fmt) for folder in args.bundles]
    folds = [deployed.held_out_fold(bundle, dataset, args.fold) for bundle in bundles]
    if len(set(folds)) < len(folds):
        raise ValueError(f"bundles of folds {folds}: a clip would count twice, name one bundle for each fold")
    if len({bundle.sr for bundle in bundles}) > 1:
        raise ValueError("the bundles hear different sample rates: measure them one by one")
    for gain_db in args.gain:
        if not -120 <= gain_db <= 60:
            raise ValueError(f"--gain {gain_db}: choose -120 to 60 dB")
    some = conditions(bundles[0].sr, args.responses, args.gain, args.distance)
    some = some[:1] + [one for one in some[1:] if one[0] in (args.only or ORDER)]
    table = measure(bundles, dataset, folds, some, args.cache)
    print(text(table))
    write_table(args.out / "levels", text(table), table, plot)
    print(f"made {args.out / 'levels'}.txt, .json and .png")


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m compress.levels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="folder; one for each fold to pool")
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument("--fold", type=int, help="score on this fold (default: the one that each bundle held out)")
    parser.add_argument(
        "--responses", type=Path, metavar="FOLDER", help="recorded impulse responses, in place of made ones"
    )
    parser.add_argument("--gain", type=float, nargs="*", default=GAINS_DB, metavar="DB", help="default: -30 ... +10")
    parser.add_argument("--distance", type=float, nargs="*", default=DISTANCES_M, metavar="M", help="default: 1 2 4 8")
    parser.add_argument("--only", choices=ORDER, action="append", help="a part of it; repeat (default: all three)")
    parser.add_argument("--engine", choices=("tflite", "onnx"), help="default: what is installed")
    parser.add_argument("--out", type=Path, default=Path("runs/levels"), help="folder to write (default runs/levels)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where what was already scored is kept")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main, "stopped; the same command goes on where it was")
