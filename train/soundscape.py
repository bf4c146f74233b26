"""A labelled stream to try a bundle on.  python -m train.soundscape --out stream.wav [--data PATH] [--fold N] [--minutes 10]

Recordings in random order with gaps of random length, on made room noise that is much quieter at times; the same seed
gives the same stream. Their labels lie beside it, stream.csv: onset,offset,event_label in seconds.
"""

import argparse
import sys
import time
import wave as wavfile
from pathlib import Path

import numpy as np
from scipy import signal

from runtime import command
from runtime.files import write_atomic
from runtime.labels import Label, write_labels
from train.data import RECORDINGS, DataError, load_dataset, load_wave, split

SR = 44100  # Hz
NOISES = ("pink", "brown", "white", "hum")
GAP_S = (4.0, 16.0)  # between two sounds
LOUD_S, QUIET_S = (30.0, 90.0), (10.0, 40.0)  # lengths of the room's loud and quiet stretches
QUIET_DB = -30.0  # a quiet stretch beside a loud one
FADE_S = 0.01  # a recording's first and last samples: a click would be a sound of its own
RANGE_DB = 60.0  # what lies so far below a recording's loudest frame is its silence, and not labelled
PIECE_S = 10.0
MAX_MINUTES = 720.0  # a WAV ends at 4 GB


class RoomNoise:
    """Noise without end, of RMS `level_db` against full scale 1. kind: one of NOISES.

    pink and brown fall by 3 and 6 dB per octave from 20 Hz on; hum is 50 Hz and its first harmonics. Raises DataError.
    """

    def __init__(self, kind, level_db, rng, sr=SR):
        if kind not in NOISES:
            raise DataError(f"noise {kind!r} is not one of {', '.join(NOISES)}")
        self.kind, self.sr, self.rng, self.n_samples = kind, sr, rng, 0
        self._sos = _slope(kind, sr) if kind in ("pink", "brown") else np.array([[1.0, 0, 0, 1, 0, 0]])
        self._state = np.zeros((len(self._sos), 2))
        self._gain = 10 ** (level_db / 20) / np.sqrt(_power(self._sos, sr))

    def feed(self, n):
        """-> the next (n,) samples, float32."""
        if self.kind == "hum":
            t = (self.n_samples + np.arange(n)) / self.sr
            wave = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 9)) / np.sqrt(
                sum(0.5 / k**2 for k in range(1, 9))
            )
        else:
            wave, self._state = signal.sosfilt(self._sos, self.rng.standard_normal(n), zi=self._state)
        self.n_samples += n
        return (self._gain * wave).astype(np.float32)


def _slope(kind, sr):
    """Second-order sections whose power falls with frequency from 20 Hz on: one pole, or pairs of a pole and a zero.

    A pole at f and a zero at 2 f fall by 6 dB in one octave and by none in the next: a pair every two octaves is -3 dB
    per octave on average.
    """
    poles_hz = [20.0] if kind == "brown" else [20.0 * 4**i for i in range(5)]
    zeros_hz = [] if kind == "brown" else [2 * f for f in poles_hz]
    zpk = [-2 * np.pi * np.array(zeros_hz), -2 * np.pi * np.array(poles_hz), 1.0]
    return signal.zpk2sos(*signal.bilinear_zpk(*zpk, fs=sr))


def _power(sos, sr):
    """The power gain of white noise through `sos`."""
    _, response = signal.sosfreqz(sos, worN=1 << 16, fs=sr)
    return float(np.mean(np.abs(response) ** 2))


def sounding(wave, sr=SR):
    """A recording -> the (samples,) from its first to its last sound: half of ESC's clips are silence filled up to 5 s."""
    n = sr // 100
    frames = np.pad(wave, (0, -len(wave) % n)).reshape(-1, n)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    heard = np.flatnonzero(power > power.max() * 10 ** (-RANGE_DB / 10))
    if not len(heard):
        return wave[:0]
    return wave[heard[0] * n : (heard[-1] + 1) * n]


def faded(wave, sr=SR):
    """The same with FADE_S at either end."""
    n = min(len(wave) // 2, round(FADE_S * sr))
    ramp = np.linspace(0, 1, n, endpoint=False, dtype=np.float32)
    return np.concatenate([wave[:n] * ramp, wave[n : len(wave) - n], wave[len(wave) - n :] * ramp[::-1]])


def soundscape(clips, minutes, seed=0, noise="pink", noise_db=-60.0, snr_db=None):
    """Yields (samples,) float32 pieces at SR and, with each, the Label of the sound in it, or None.

    snr_db: every recording is scaled to so many dB above the room's loud stretches, both as RMS; None leaves the levels,
    which the nets know. Raises DataError.
    """
    rng = np.random.default_rng(seed)
    room, envelope = RoomNoise(noise, noise_db, rng), _envelope(minutes * 60, rng)
    position, end, order = 0, round(minutes * 60 * SR), []

    def next_noise(n):
        t = (position + np.arange(n)) / SR
        return room.feed(n) * 10 ** (np.interp(t, *envelope) / 20).astype(np.float32)

    while position < end:
        for n in _pieces(round(rng.uniform(*GAP_S) * SR), end - position):
            yield next_noise(n), None
            position += n
        order = order or list(rng.permutation(len(clips)))
        clip = clips[order.pop()]
        sound = faded(sounding(load_wave(clip.path, SR)))
        if not len(sound):
            raise DataError(f"{clip.path} is nothing but silence: take it out of {clip.label}")
        if position + len(sound) > end:
            continue  # no sound that the stream would cut off
        if snr_db is not None:
            sound = sound * _gain(sound, noise_db + snr_db)
        label = Label(position / SR, (position + len(sound)) / SR, clip.label)
        yield sound + next_noise(len(sound)), label
        position += len(sound)


def _pieces(n, most):
    """n samples, at most `most`, in pieces of PIECE_S."""
    n, piece = min(n, most), round(PIECE_S * SR)
    return [piece] * (n // piece) + ([n % piece] if n % piece else [])


def _envelope(seconds, rng):
    """-> (times in s, dB): the room's level over time, 1 s from one to the next."""
    times, levels, t, quiet = [0.0], [0.0], 0.0, False
    while t < seconds:
        t += rng.uniform(*(QUIET_S if quiet else LOUD_S))
        times += [t, t + 1]
        levels += [QUIET_DB if quiet else 0.0, 0.0 if quiet else QUIET_DB]
        t, quiet = t + 1, not quiet
    return times, levels


def _gain(sound, level_db):
    """What makes the RMS level_db; less where the peak would leave full scale."""
    rms = np.sqrt(np.mean(np.square(sound, dtype=np.float64)))
    return np.float32(min(10 ** (level_db / 20) / rms, 0.99 / np.abs(sound).max()))


def write(out, pieces, seconds=None):
    """Pieces of soundscape() -> `out`, a 16-bit WAV, and its labels beside it. -> the labels. Progress on stderr.

    The sound is never whole in memory, and the files are there whole or not at all. Raises DataError where no sound fits.
    """
    labels, started = [], time.monotonic()

    def write_wav(path):
        n_written, shown = 0, started
        with wavfile.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SR)
            for samples, label in pieces:
                file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
                n_written += len(samples)
                labels.extend([label] if label else [])
                if seconds and time.monotonic() - shown > 2:
                    shown = time.monotonic()
                    print(f"\r{n_written / SR / seconds:.0%}", end="", file=sys.stderr, flush=True)

        if shown > started:
            print(file=sys.stderr)

    def write_both(path):
        write_wav(path)
        if not labels:
            raise DataError("no sound fits between the pauses: choose --minutes 1 or more")
        write_atomic(labels_path(out), lambda partial: write_labels(partial, labels))

    write_atomic(out, write_both)
    return labels


def labels_path(out):
    """stream.wav -> stream.csv"""
    return Path(out).with_suffix(".csv")


def main(argv=None):
    args = _arguments(argv)
    if args.out.suffix != ".wav":
        raise DataError(f"{args.out} does not end in .wav: a WAV is what this writes")
    if not args.out.parent.is_dir():
        raise DataError(f"{args.out.parent} is no folder: make it first")
    if not 0.1 <= args.minutes <= MAX_MINUTES:
        raise DataError(f"--minutes {args.minutes}: choose 0.1 to {MAX_MINUTES:.0f}")
    if not -120 <= args.noise_db <= 0 or not -60 <= (args.snr or 0) <= 120:
        raise DataError(f"--noise-db {args.noise_db}, --snr {args.snr}: choose -120 to 0 dB and -60 to 120 dB")
    dataset = load_dataset(args.data)
    clips = split(dataset, args.fold)[1 if args.fold else 0]
    pieces = soundscape(clips, args.minutes, args.seed, args.noise, args.noise_db, args.snr)
    labels = write(args.out, pieces, args.minutes * 60)
    n_classes = len({label.event_label for label in labels})
    print(f"{args.out}: {args.minutes:g} min, {len(labels)} sounds of {n_classes} classes; {labels_path(args.out)}")
    print(f"next: python -m runtime.score {args.out} {labels_path(args.out)}")
    print("a bundle that was trained on these recordings hears them too well: name the fold it held out, --fold")


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m train.soundscape", description=__doc__.split("  ")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="STREAM.wav", help="what to write; labels: .csv")
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument("--fold", type=int, help="take the recordings of this fold alone (default: all)")
    parser.add_argument("--minutes", type=float, default=10, help="length (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", choices=NOISES, default="pink", help="of the room (default pink)")
    parser.add_argument("--noise-db", type=float, default=-60, help="its RMS, dB of full scale (default -60)")
    parser.add_argument("--snr", type=float, metavar="DB", help="scale each recording above the noise (default: don't)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise DataError(f"--seed {args.seed}: choose 0 or more")
    return args


if __name__ == "__main__":
    command.run(main, stopped="stopped; nothing was written")
