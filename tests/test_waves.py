"""train.waves: variations of a recording, held to physics."""

import numpy as np
import pytest

from tests.conftest import SR, noise
from train import waves


def rng(seed=0):
    return np.random.default_rng(seed)


def spectrum_peak_hz(wave):
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * SR / len(wave)


@pytest.mark.parametrize("seed", range(3))
def test_speed_moves_a_tone_and_the_length_together(seed):
    tone = np.sin(2 * np.pi * 1000 * np.arange(SR) / SR)
    faster = waves.speed(tone, SR, rng(seed))
    factor = SR / len(faster)
    assert abs(np.log(factor)) <= waves.SPEED + 1e-4
    assert spectrum_peak_hz(faster) == pytest.approx(1000 * factor, abs=2)


def test_a_microphone_is_linear_and_keeps_length_and_place():
    a, b = noise(1, 1).astype(float), noise(1, 2).astype(float)
    heard = [waves.through_microphone(x, SR, rng(3)) for x in (a, b, a + b)]
    np.testing.assert_allclose(heard[0] + heard[1], heard[2], atol=1e-9)
    click = np.zeros(SR)
    click[SR // 2] = 1
    assert np.abs(waves.through_microphone(click, SR, rng(3))).argmax() == SR // 2


@pytest.mark.parametrize("seed", range(5))
def test_rooms_come_behind_the_sound_and_noise_beneath_it(seed):
    click = np.zeros(SR)
    click[1000] = 1
    room = waves.in_room(click, SR, rng(seed)) - click
    assert np.abs(room[:1000]).max() < 1e-9
    level_db = 10 * np.log10(np.sum(room**2))
    assert waves.ROOM_DB[0] - 0.1 <= level_db <= waves.ROOM_DB[1] + 0.1
    wave = noise(1).astype(float)
    added = waves.noisy(wave, SR, rng(seed)) - wave
    ratio_db = 10 * np.log10(np.mean(added**2) / np.mean(wave**2))
    assert waves.NOISE_DB[0] - 1e-6 <= ratio_db <= waves.NOISE_DB[1] + 1e-6


@pytest.mark.parametrize("wave", [np.zeros(SR, "f4"), np.ones(7, "f4"), noise(1)], ids=["silence", "short", "loud"])
def test_variations_are_sound_and_repeat(wave):
    first, second = (waves.varied(wave, SR, rng(9)) for _ in range(2))
    assert first.dtype == np.float32 and np.isfinite(first).all() and np.abs(first).max() <= 1
    assert np.array_equal(first, second)
    assert abs(np.log(len(first) / len(wave))) < waves.SPEED + 0.2


def test_made_noise_is_of_its_length_level_and_slope():
    """Its power falls by 0 to 6 dB an octave and the microphone's own; none of its level is an offset."""
    slopes, levels = [], []
    for seed in range(60):
        wave = waves.room_noise(SR, rng(seed)).astype(float)
        assert wave.shape == (waves.NOISE_S * SR,) and np.abs(wave).max() <= 1
        levels.append(10 * np.log10(np.mean(wave**2)))
        assert np.mean(wave) ** 2 < 0.02 * np.var(wave)
        power = np.abs(np.fft.rfft(wave)) ** 2 * waves.NOISE_S
        hz = np.fft.rfftfreq(len(wave), 1 / SR)
        low, high = (10 * np.log10(power[(hz > f) & (hz < 2 * f)].mean()) for f in (550, 4400))
        slopes.append((high - low) / 3)
    assert waves.NOISE_LEVEL_DB[0] - 1e-3 <= min(levels) < -90 and -40 < max(levels) <= waves.NOISE_LEVEL_DB[1] + 1e-3
    assert np.median(slopes) == pytest.approx(-3, abs=1) and -12 < min(slopes) < -4 and -2 < max(slopes) < 6
    assert np.array_equal(waves.room_noise(SR, rng(3)), waves.room_noise(SR, rng(3)))


def test_noise_spectrograms_are_those_of_the_front_end():
    from dataclasses import replace

    from runtime.frontend import PRESETS, spectrogram
    from runtime.stack import Stack

    mel, cqt = (replace(PRESETS[name], hop_length=1120) for name in ("mel", "cqt"))
    static = waves.noise_spectrogram(mel, (0, 7))
    assert np.array_equal(static, spectrogram(waves.room_noise(SR, rng((0, 7))), mel))
    both = waves.noise_spectrogram(Stack((mel, cqt)), (0, 7))
    assert np.array_equal(both[:128], static) and both.shape == (mel.n_bands + cqt.n_bands, static.shape[1])
