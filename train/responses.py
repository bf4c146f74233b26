"""Impulse responses of microphones, phones and rooms.  python -m train.responses --out FOLDER [--seed N] [--n 4]

Made ones, as wav files with a picture of their magnitudes: nothing measured, but of the kinds that phones and cheap
microphones have. Real ones are read from a folder of recordings. `through(wave, response)` plays a clip through either,
for tests of robustness and as augmentation: length and delay stay.

    mic     high-pass of a capsule (20 to 90 Hz), low-pass (14 to 20 kHz), the Helmholtz resonance of its port (9 to 16 kHz)
    phone   high-pass (120 to 400 Hz), low-pass (6 to 14 kHz), two resonances (0.8 to 6 kHz), echoes inside the housing
    room    the direct sound over distance, then a decaying, diffuse tail: see `room`
"""

import argparse
import errno
from pathlib import Path

import numpy as np

from runtime import audio, command
from runtime.files import write_atomic
from train.data import load_wave

KINDS = ("mic", "phone")
LENGTH_S = 0.046  # of a device's response: what follows is below -60 dB
REFERENCE_HZ = (300.0, 3000.0)  # a device passes white noise of this band as loud as it came
MAX_RESPONSES = 1000
MAX_SECONDS = 10.0  # of a real response: the longest halls
SPEED_OF_SOUND = 343.0  # m/s at 20 degrees Celsius
ROOM_RT60_S, ROOM_VOLUME_M3 = 0.5, 60.0  # a furnished living room
REFERENCE_M = 1.0  # a recording is taken for what is heard at this distance


def device(kind, seed, sr=44100):
    """A microphone's or a phone's response -> (LENGTH_S * sr,) float32, the same for the same kind, seed and rate.

    Cascaded second-order sections (Butterworth edges, peaking resonances) and, in a phone, three to six reflections
    0.1 to 1.2 ms late, the time that sound takes to cross a small housing to and fro. Raises ValueError.
    """
    from scipy.signal import butter, sosfilt

    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose {', '.join(KINDS)}")
    audio.check_sr(sr, "a response")
    rng = np.random.default_rng([KINDS.index(kind), seed])
    phone = kind == "phone"
    low_hz = rng.uniform(120, 400) if phone else rng.uniform(20, 90)
    high_hz = rng.uniform(6_000, 14_000) if phone else rng.uniform(14_000, 20_000)
    sections = [butter(2, low_hz, "highpass", fs=sr, output="sos")]
    if high_hz < 0.49 * sr:
        sections.append(butter(2, high_hz, "lowpass", fs=sr, output="sos"))
    ranges = [(800, 2_000), (2_000, 6_000)] if phone else [(9_000, 16_000)]
    for between in ranges:
        hz, gain_db, q = rng.uniform(*between), rng.uniform(-6 if phone else 3, 9), rng.uniform(1.5, 5)
        if hz < 0.45 * sr:
            sections.append(_peak(hz, gain_db, q, sr))
    impulse = np.zeros(round(LENGTH_S * sr))
    impulse[0] = 1.0
    if phone:
        for _ in range(rng.integers(3, 7)):
            late = max(1, round(rng.uniform(0.1e-3, 1.2e-3) * sr))
            impulse[late] += rng.choice([-1, 1]) * 10 ** (rng.uniform(-24, -10) / 20)
    response = sosfilt(np.concatenate(sections), impulse)
    response *= np.hanning(2 * len(response) + 1)[len(response) + 1 :]  # ends in silence
    return normalised(response, sr)


def _peak(hz, gain_db, q, sr):
    """One section that lifts by gain_db around hz: the peaking filter of R. Bristow-Johnson's Audio EQ Cookbook."""
    amplitude, w = 10 ** (gain_db / 40), 2 * np.pi * hz / sr
    alpha = np.sin(w) / (2 * q)
    b = [1 + alpha * amplitude, -2 * np.cos(w), 1 - alpha * amplitude]
    a = [1 + alpha / amplitude, -2 * np.cos(w), 1 - alpha / amplitude]
    return np.array([[*b, *a]]) / a[0]


def normalised(response, sr):
    """(samples,) -> float32, scaled so that white noise between REFERENCE_HZ keeps its power: no volume knob."""
    power = np.abs(np.fft.rfft(response, max(8192, len(response)))) ** 2
    hz = np.fft.rfftfreq(max(8192, len(response)), 1 / sr)
    inside = power[(hz >= REFERENCE_HZ[0]) & (hz <= REFERENCE_HZ[1])].mean()
    if not inside > 1e-8 * power.max():  # NaN and silence too: scaled up, it would be noise
        raise ValueError(f"a response without power from {REFERENCE_HZ[0]:.0f} to {REFERENCE_HZ[1]:.0f} Hz")
    return (response / np.sqrt(inside)).astype(np.float32)


def critical_distance_m(rt60_s=ROOM_RT60_S, volume_m3=ROOM_VOLUME_M3):
    """Where the direct sound is as loud as the room's: 0.057 sqrt(V / RT60), Sabine, source without direction."""
    return 0.057 * np.sqrt(volume_m3 / rt60_s)


def room(distance_m, seed=0, rt60_s=ROOM_RT60_S, volume_m3=ROOM_VOLUME_M3, sr=44100):
    """The response of a room between a source and a microphone distance_m apart -> (1.2 * rt60_s * sr,) float32.

    The direct sound falls as 1 / distance, 1 at REFERENCE_M; the diffuse one, Polack's decaying noise (60 dB in rt60_s),
    is as loud everywhere, and equal to the direct one at the critical distance. It begins with the first reflection,
    once sound has crossed a mean free path 4V/S of a cube. The time of flight is left out: `through` keeps delays.
    """
    for name, value, low, high in (
        ("distance_m", distance_m, 0.05, 1000), ("rt60_s", rt60_s, 0.05, 10), ("volume_m3", volume_m3, 1, 1e6)
    ):  # fmt: skip
        if not low <= value <= high:
            raise ValueError(f"{name} {value}: choose {low} to {high:g}")
    audio.check_sr(sr, "a response")
    t = np.arange(round(1.2 * rt60_s * sr)) / sr
    tail = np.random.default_rng(seed).standard_normal(len(t)) * 10 ** (-3 * t / rt60_s)
    free_path_m = 4 * volume_m3 / (6 * volume_m3 ** (2 / 3))
    tail[t < free_path_m / SPEED_OF_SOUND] = 0
    tail *= REFERENCE_M / critical_distance_m(rt60_s, volume_m3) / np.sqrt(np.sum(tail**2))
    tail[0] = REFERENCE_M / distance_m
    return tail.astype(np.float32)


def through(wave, response):
    """(samples,), (taps,) of one rate -> (samples,) float32: the wave as the device hears it, of its length and delay.

    The response's largest tap is taken for the direct sound: what precedes it is acausal, nothing is moved.
    """
    from scipy.signal import oaconvolve

    if wave.ndim != 1 or response.ndim != 1 or not len(wave) or not len(response):
        raise ValueError(f"a wave of shape {wave.shape} through a response of {response.shape}: give one channel each")
    direct = int(np.abs(response).argmax())
    return oaconvolve(wave, response)[direct : direct + len(wave)].astype(np.float32)


def made(n=4, seed=0, sr=44100):
    """-> {"mic-1": (taps,), ...}: n made responses of each kind."""
    return {f"{kind}-{i + 1}": device(kind, 1000 * seed + i, sr) for kind in KINDS for i in range(n)}


def read_responses(folder, sr):
    """A folder of recorded impulse responses -> {name: (taps,) float32 at sr Hz}, normalised; by name.

    Several channels are mixed down. Raises ValueError that names the file: silent, longer than MAX_SECONDS, no recording.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder of impulse responses: python -m train.responses --out {folder} makes one"
        )
    paths = audio.recordings(folder)
    if len(paths) > MAX_RESPONSES:
        raise ValueError(
            f"{folder} holds {len(paths)} recordings, this reads {MAX_RESPONSES}: name a folder of responses"
        )
    found = {}
    for path in paths:
        head = audio.header(path)
        if head.n_frames > MAX_SECONDS * head.sr:
            raise ValueError(
                f"{path} lasts {head.n_frames / head.sr:.1f} s: an impulse response has {MAX_SECONDS:.0f} at most"
            )
        try:
            found[path.stem] = normalised(load_wave(path, sr), sr)
        except audio.AudioError:
            raise
        except ValueError as error:
            raise ValueError(f"{path} is no impulse response ({error}): record it again or take it away") from error
    return found


def _write_wav(path, taps, sr):
    import soundfile

    try:
        soundfile.write(path, taps, sr, subtype="FLOAT", format="WAV")
    except soundfile.LibsndfileError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def write(folder, responses, sr):
    """Each response as a 32-bit float wav."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, response in responses.items():
        write_atomic(folder / f"{name}.wav", lambda path, taps=response: _write_wav(path, taps, sr))


def plot(path, responses, sr):
    """PNG: magnitudes in dB over frequency, a panel per kind."""
    from matplotlib.figure import Figure  # no pyplot: no display is asked for

    kinds = {}
    for name, response in responses.items():
        kinds.setdefault(name.split("-")[0] if name.split("-")[0] in KINDS else "read", {})[name] = response
    figure = Figure(figsize=(9, 3.2 * len(kinds)), layout="constrained")
    for axes, (kind, some) in zip(np.atleast_1d(figure.subplots(len(kinds), 1, sharex=True)), kinds.items()):
        for name, response in some.items():
            n_fft = 1 << max(13, (len(response) - 1).bit_length())
            hz, magnitude = np.fft.rfftfreq(n_fft, 1 / sr)[1:], np.abs(np.fft.rfft(response, n_fft))[1:]
            axes.semilogx(hz, 20 * np.log10(np.maximum(magnitude, 1e-6)), label=name)
        axes.set_ylim(-40, 20)
        axes.set_xlim(20, sr / 2)
        axes.set_ylabel(f"{kind}, dB")
        axes.grid(alpha=0.3)
        if len(some) <= 12:
            axes.legend(fontsize=8, ncols=4)
    axes.set_xlabel("Hz")
    write_atomic(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m train.responses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the wav files go")
    parser.add_argument("--n", type=int, default=4, help="responses of each kind (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sr", type=int, default=44100, help="Hz (default 44100)")
    args = parser.parse_args(argv)
    if not 1 <= args.n <= MAX_RESPONSES // len(KINDS):
        raise ValueError(f"--n {args.n}: choose 1 to {MAX_RESPONSES // len(KINDS)}")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: choose 0 or more")
    responses = made(args.n, args.seed, args.sr)
    there = args.out.iterdir() if args.out.is_dir() else ()
    others = sorted(path.name for path in there if path.suffix.lower() in audio.SUFFIXES and path.stem not in responses)
    if others:
        raise ValueError(f"{args.out} holds {others[0]}, which would be read as one of these: choose a new folder")
    write(args.out, responses, args.sr)
    plot(args.out / "magnitudes.png", responses, args.sr)
    print(f"made {len(responses)} responses at {args.sr} Hz and magnitudes.png in {args.out}")


if __name__ == "__main__":
    command.run(main)
