"""Impulse responses: what they pass and stop, how a room behaves over distance, folders that hold no responses."""

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from tests.conftest import SR, run
from train import responses
from train.responses import critical_distance_m, device, read_responses, room, through

HZ = np.fft.rfftfreq(1 << 16, 1 / SR)


def gain_db(response, low_hz, high_hz):
    """Mean power of a band, in dB."""
    power = np.abs(np.fft.rfft(response, 1 << 16)) ** 2
    return 10 * np.log10(power[(low_hz <= HZ) & (high_hz >= HZ)].mean())


@pytest.mark.parametrize("seed", range(12))
def test_phones_stop_bass_and_the_highest_tones_microphones_do_not(seed):
    phone, mic = device("phone", seed), device("mic", seed)
    for response in (phone, mic):
        assert gain_db(response, *responses.REFERENCE_HZ) == pytest.approx(0, abs=0.05)
        assert response.dtype == np.float32 and np.isfinite(response).all()
        loudest = np.abs(response).max()
        assert np.abs(response[-100:]).max() < 1e-3 * loudest
    assert gain_db(phone, 20, 60) < -10 and gain_db(phone, 17_000, 22_000) < -6
    assert abs(gain_db(mic, 150, 5000)) < 1.5  # flat, as microphones are
    loud = np.abs(np.fft.rfft(mic, 1 << 16))[(HZ >= 8_000) & (HZ <= 17_000)]
    assert 2 < 20 * np.log10(loud.max()) < 12  # the port's resonance


def test_the_same_seed_is_the_same_response():
    assert np.array_equal(device("phone", 3), device("phone", 3))
    assert np.abs(device("phone", 3) - device("phone", 4)).max() > 0.01
    low = device("mic", 0, sr=8000)  # what lies above its Nyquist is left out
    assert np.isfinite(low).all() and len(low) == round(responses.LENGTH_S * 8000)


def test_a_phones_echoes_are_inside_its_housing():
    """Deconvolved by a phone without: spikes within 1.2 ms, none as loud as the direct sound."""
    from scipy.signal import correlate

    late = round(1.2e-3 * SR)
    flat = np.zeros(SR // 10, np.float32)
    flat[0] = 1
    heard = through(flat, device("phone", 1))
    energy = np.cumsum(heard.astype(float) ** 2) / np.sum(heard.astype(float) ** 2)
    assert energy[4 * late] > 0.9  # it rings, but not as a room does
    assert correlate(heard, heard, "full").argmax() == len(heard) - 1


@pytest.mark.parametrize("delay", [0, 37])
def test_length_and_delay_stay(delay):
    """By a loop over the taps; the largest one is where the sound is."""
    rng = np.random.default_rng(0)
    wave, response = rng.standard_normal(300).astype("f4"), np.zeros(60, "f4")
    response[delay], response[delay + 5], response[max(0, delay - 3)] = 1.0, -0.5, 1.0 if not delay else 0.25
    heard = through(wave, response)
    wanted = np.zeros(300)
    for n in range(300):
        for k, tap in enumerate(response):
            if 0 <= n - k + delay < 300:
                wanted[n] += tap * wave[n - k + delay]
    assert heard.shape == wave.shape and heard.dtype == np.float32
    assert np.abs(heard - wanted).max() < 1e-5


def test_a_click_stays_where_it_was():
    wave = np.zeros(SR, np.float32)
    wave[20_000] = 1
    for response in (device("mic", 0), device("phone", 0), room(2)):
        assert np.abs(through(wave, response)).argmax() == 20_000


def test_twice_as_far_is_6_db_less_of_direct_sound_and_the_same_room():
    near, far = room(1.0), room(2.0)
    assert 20 * np.log10(near[0] / far[0]) == pytest.approx(6.02, abs=0.01) and near[0] == 1
    assert np.array_equal(near[1:], far[1:])


def test_direct_and_diffuse_sound_are_equal_at_the_critical_distance():
    for rt60_s, volume_m3 in ((0.3, 30), (0.5, 60), (1.5, 2000)):
        response = room(critical_distance_m(rt60_s, volume_m3), 0, rt60_s, volume_m3).astype(float)
        assert 10 * np.log10(np.sum(response[1:] ** 2) / response[0] ** 2) == pytest.approx(0, abs=0.01)


def test_the_tail_falls_60_db_in_rt60():
    """Schroeder's backward integral, between -5 and -35 dB, as ISO 3382 reads a T30."""
    response = room(3.0, rt60_s=0.4).astype(float)[1:]
    left_db = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] / np.sum(response**2))
    t = np.arange(len(response)) / SR
    inside = (left_db < -5) & (left_db > -35)
    slope = np.polyfit(t[inside], left_db[inside], 1)[0]
    assert -60 / slope == pytest.approx(0.4, rel=0.1)


def test_noise_of_the_reference_band_is_as_loud_behind_a_device():
    noise = sosfilt(
        butter(6, responses.REFERENCE_HZ, "bandpass", fs=SR, output="sos"),
        np.random.default_rng(0).standard_normal(2 * SR),
    ).astype("f4")
    for kind in responses.KINDS:
        heard = through(noise, device(kind, 5))
        assert 10 * np.log10(np.mean(heard**2) / np.mean(noise**2)) == pytest.approx(0, abs=0.5)


def test_made_by_the_command_and_read_again(tmp_path):
    result = run("train.responses", "--out", tmp_path / "made", "--n", "2", "--seed", "1")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "made" / "magnitudes.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"holds mic-2\.wav, which would be read as one of these"):
        responses.main(["--out", str(tmp_path / "made"), "--n", "1"])
    again, here = read_responses(tmp_path / "made", SR), responses.made(2, 1)
    assert list(again) == sorted(here) == ["mic-1", "mic-2", "phone-1", "phone-2"]
    assert all(np.abs(again[name] - here[name]).max() < 1e-5 for name in here)
    at_22k = read_responses(tmp_path / "made", 22050)["phone-1"]  # the same device at another rate
    assert len(at_22k) == pytest.approx(len(here["phone-1"]) / 2, abs=2)
    power = 10 * np.log10(np.abs(np.fft.rfft(at_22k, 1 << 15)) ** 2)
    hz = np.fft.rfftfreq(1 << 15, 1 / 22050)
    for low, high in ((500, 1000), (2000, 4000)):
        mean = np.mean(10 ** (power[(hz >= low) & (hz <= high)] / 10))
        assert 10 * np.log10(mean) == pytest.approx(gain_db(here["phone-1"], low, high), abs=0.3)


@pytest.mark.parametrize("what", ["missing", "empty", "silent", "long", "text", "nan", "rumble"])
def test_folders_that_hold_no_responses(tmp_path, what):
    folder, words = tmp_path / "irs", "no folder of impulse responses"
    if what != "missing":
        folder.mkdir()
        words = "holds no recordings"
    samples = {"silent": np.zeros(100), "long": np.ones(11 * 8000), "nan": np.full(100, np.nan),
               "rumble": np.sin(2 * np.pi * 20 * np.arange(8000) / 8000) * np.hanning(8000)}  # fmt: skip
    if what in samples:
        soundfile.write(folder / "a.wav", samples[what], 8000, subtype="FLOAT")
        words = {
            "long": "a.wav lasts 11.0 s",
        }.get(what, r"a\.wav is no impulse response .a response without power from 300")
    if what == "text":
        (folder / "a.wav").write_text("no sound at all")
        words = r"a\.wav is no recording"
    with pytest.raises(ValueError, match=words):
        read_responses(folder, SR)


@pytest.mark.parametrize("arguments", [(0,), (1, 0, 0), (1, 0, 0.5, 0), (float("nan"),)])
def test_rooms_that_are_none(arguments):
    with pytest.raises(ValueError, match="choose"):
        room(*arguments)


def test_one_channel_each():
    with pytest.raises(ValueError, match="one channel each"):
        through(np.zeros((100, 2)), np.ones(3))
    with pytest.raises(ValueError, match="kind 'horn'"):
        device("horn", 0)
