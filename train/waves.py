"""Augmentation of recordings before their spectrogram: as another speed, microphone, room and background would have it.

Each function takes samples, their rate in Hz and a numpy Generator, and gives samples; `varied` draws from all of them.
Speed is EnvNet-v2's scale augmentation (Tokozume 2018) and P4's; microphones, rooms and noise are P4's spectrum correction
and noise in a form that needs no second recording.
"""

import numpy as np
import soxr
from scipy import fft

from runtime.frontend import spectrogram
from train.data import load_wave

SPEED = 0.2  # of the natural logarithm: 0.82 to 1.22 times as fast
TONE_DB, N_TONES = 4.0, 9  # standard deviation of a microphone's response at so many points, evenly on log frequency
TONE_HZ = (40.0, 20_000.0)
LOW_CUT_HZ, HIGH_CUT_HZ = (50.0, 400.0), (5_000.0, 16_000.0)  # where a small microphone may begin and end to hear
ROOM_S, ROOM_DB = (
    (0.05, 0.4),
    (-15.0, -3.0),
)  # time to decay by 60 dB, energy of the room's sound against the direct one
NOISE_DB = (-45.0, -12.0)  # against the recording's own level
NOISE_S, HUM_SHARE = 5.0, 0.25  # length of a noise that stands alone, how many have mains hum
NOISE_LEVEL_DB = (-100.0, -30.0)  # RMS of one that stands alone: silence to a fan beside the microphone


def spectrogram_of(path, frontend, seed):
    """A recording -> (n_bands, frames) of a variation of it; every front end of a Stack hears the same. For processes."""
    wave = varied(load_wave(path, frontend.sr), frontend.sr, np.random.default_rng(seed))
    return np.concatenate([spectrogram(wave, f) for f in frontend.frontends])


def varied(wave, sr, rng):
    """(samples,) float32 -> (other samples,) float32 within -1..1, of the same sound."""
    wave = speed(wave.astype(np.float64), sr, rng)
    wave = through_microphone(wave, sr, rng)
    if rng.random() < 0.25:
        wave = in_room(wave, sr, rng)
    if rng.random() < 0.5:
        wave = noisy(wave, sr, rng)
    return (wave / max(1.0, np.abs(wave).max())).astype(np.float32)


def speed(wave, sr, rng):
    """Faster and higher, or slower and lower, by up to SPEED."""
    return soxr.resample(wave, sr, sr * np.exp(rng.uniform(-SPEED, SPEED)))


def through_microphone(wave, sr, rng):
    """Through a random smooth response: TONE_DB at N_TONES points, and sometimes no lows, sometimes no highs."""
    n_fft = fft.next_fast_len(len(wave) + sr // 10, real=True)  # what rings on does not come round to the beginning
    hz = np.maximum(fft.rfftfreq(n_fft, 1 / sr), 1.0)
    response_db = np.interp(np.log(hz), np.linspace(*np.log(TONE_HZ), N_TONES), rng.normal(0, TONE_DB, N_TONES))
    if rng.random() < 0.3:
        response_db -= 10 * np.log10(1 + (_log_uniform(rng, LOW_CUT_HZ) / hz) ** 4)
    if rng.random() < 0.3:
        response_db -= 10 * np.log10(1 + (hz / _log_uniform(rng, HIGH_CUT_HZ)) ** 8)
    return fft.irfft(fft.rfft(wave, n_fft) * 10 ** (response_db / 20), n_fft)[: len(wave)]


def in_room(wave, sr, rng):
    """With the late sound of a room: noise that decays by 60 dB in ROOM_S, ROOM_DB below the direct sound."""
    n_room = int(rng.uniform(*ROOM_S) * sr)
    room = rng.normal(size=n_room) * 10 ** (-3 * np.arange(n_room) / n_room)
    room *= 10 ** (rng.uniform(*ROOM_DB) / 20) / np.sqrt(np.sum(room**2))
    n_fft = fft.next_fast_len(len(wave) + n_room, real=True)
    return wave + fft.irfft(fft.rfft(wave, n_fft) * fft.rfft(room, n_fft), n_fft)[: len(wave)]


def noisy(wave, sr, rng):
    """With noise between white and brown, NOISE_DB below the recording."""
    noise = _coloured_noise(len(wave), sr, rng)
    return wave + noise * _rms(wave) * 10 ** (rng.uniform(*NOISE_DB) / 20)


def noise_spectrogram(frontend, seed):
    """-> (n_bands, frames) of noise of its own: what a room sounds like when nothing happens. For processes."""
    wave = room_noise(frontend.sr, np.random.default_rng(seed))
    return np.concatenate([spectrogram(wave, f) for f in frontend.frontends])


def room_noise(sr, rng):
    """-> (samples,) float32, NOISE_S of noise between white and brown through a microphone, at times with mains hum."""
    n_samples = round(NOISE_S * sr)
    wave = _coloured_noise(n_samples, sr, rng)
    if rng.random() < HUM_SHARE:
        t, mains_hz = np.arange(n_samples) / sr, rng.choice([50.0, 60.0])
        hum = sum(np.sin(2 * np.pi * mains_hz * k * t + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 9))
        wave += hum / _rms(hum) * 10 ** (rng.uniform(-20, 20) / 20)
    wave = through_microphone(wave, sr, rng)
    wave *= 10 ** (rng.uniform(*NOISE_LEVEL_DB) / 20) / _rms(wave)
    return np.clip(wave, -1, 1).astype(np.float32)


def _coloured_noise(n_samples, sr, rng):
    """-> (n_samples,) noise of RMS 1 whose amplitude falls with frequency to a power between 0 (white) and 1 (brown)."""
    n_fft = fft.next_fast_len(n_samples, real=True)
    hz = np.maximum(fft.rfftfreq(n_fft, 1 / sr), 20.0)
    spectrum = (rng.normal(size=len(hz)) + 1j * rng.normal(size=len(hz))) * hz ** -rng.uniform(0, 1)
    noise = fft.irfft(spectrum, n_fft)[:n_samples]
    return noise / _rms(noise)


def _rms(wave):
    return np.sqrt(np.mean(wave**2))


def _log_uniform(rng, limits):
    return np.exp(rng.uniform(*np.log(limits)))
