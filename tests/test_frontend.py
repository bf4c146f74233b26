"""runtime.frontend against librosa and Ellis' formula, against physics, and stream against offline."""

import dataclasses

import numpy as np
import pytest

from runtime import filterbanks
from runtime.frontend import CQT, CQT_SEED, GAMMATONE, MEL, PRESETS, Frontend, FrontendStream, spectrogram, table_bytes
from runtime.patches import deltas, patches
from tests.conftest import SR, noise

librosa = pytest.importorskip("librosa")


def judged(ours, reference, skip=0):
    """Largest difference in dB over the cells within 80 dB of their frame's maximum (and above the floor)."""
    inner = slice(skip, reference.shape[1] - skip or None)
    ours, reference = ours[:, inner], reference[:, inner]
    counts = (reference > reference.max(0) - 80) & (reference > -99)
    return np.abs(ours - reference)[counts].max()


def db(power, floor=1e-10):
    return 10 * np.log10(np.maximum(power, floor))


SOUNDS = {
    "noise": noise(3),
    "tone": (0.5 * np.sin(2 * np.pi * 1000 * np.arange(3 * SR) / SR)).astype(np.float32),
    "chirp": librosa.chirp(fmin=60, fmax=16000, sr=SR, duration=3).astype(np.float32),
}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("hop_length", [620, 1120, 1850])
def test_mel_equals_librosa(sound, hop_length):
    wave = SOUNDS[sound]
    reference = librosa.feature.melspectrogram(
        y=wave.astype(float), sr=SR, n_fft=8192, win_length=4096, hop_length=hop_length, n_mels=128, pad_mode="constant"
    )
    ours = spectrogram(wave, dataclasses.replace(MEL, hop_length=hop_length))
    assert ours.shape == reference.shape == (128, 1 + len(wave) // hop_length)
    assert judged(ours, db(reference)) < 1e-3


@pytest.mark.parametrize("sound", SOUNDS)
def test_gammatone_equals_ellis(sound):
    fftweight = pytest.importorskip("gammatone.fftweight")
    weights, _ = fftweight.fft_weights(8192, SR, 128, 1, 50, SR / 2, 4097)
    assert np.abs(filterbanks.gammatone_weights(SR, 8192, 128, 50, SR / 2) - weights).max() < 1e-9
    wave = SOUNDS[sound].astype(float)
    magnitude = np.abs(librosa.stft(wave, n_fft=8192, win_length=4096, hop_length=620, pad_mode="constant"))
    reference = db((weights @ magnitude / 8192) ** 2, 1e-12)
    assert judged(spectrogram(SOUNDS[sound], GAMMATONE), reference) < 1e-3


@pytest.mark.parametrize("hop_length", [620, 1120])
def test_cqt_equals_librosa(hop_length):
    """On noise. The first and last frames differ: librosa cuts each octave's recording off at its ends, we do not."""
    wave = noise(4)
    reference = librosa.cqt(
        wave.astype(float), sr=SR, hop_length=hop_length, fmin=32.703, n_bins=128, bins_per_octave=14, tuning=0,
        sparsity=0, dtype=np.complex128,
    )  # fmt: skip
    frontend = dataclasses.replace(CQT, hop_length=hop_length)
    edge = 1 + FrontendStream(frontend).lookahead // hop_length
    assert judged(spectrogram(wave, frontend), db(np.abs(reference) ** 2), skip=edge) < 0.02


@pytest.mark.parametrize("name", PRESETS)
def test_a_tone_peaks_in_the_nearest_band(name):
    frontend = PRESETS[name]
    centers = frontend.centers_hz
    for hz in (150.0, 440.0, 1000.0, 3000.0, 9000.0):
        tone = np.sin(2 * np.pi * hz * np.arange(2 * SR) / SR).astype(np.float32)
        peak = spectrogram(tone, frontend)[:, 60:80].mean(axis=1).argmax()
        # below 150 Hz the FFT's bins are wider than mel and ERB bands; the nearest band may lose to its neighbour
        assert abs(peak - np.abs(centers - hz).argmin()) <= 1, (hz, centers[peak])


@pytest.mark.parametrize("name", PRESETS)
def test_twice_as_loud_is_6_db(name):
    wave = noise(2)
    once, twice = (spectrogram(gain * wave, PRESETS[name]) for gain in (1, 2))
    heard = once > once.min() + 1  # not on the floor
    assert heard.mean() > 0.95
    assert np.abs((twice - once)[heard] - 20 * np.log10(2)).max() < 1e-3


@pytest.mark.parametrize("name", PRESETS)
def test_a_shift_by_a_hop_shifts_frames_by_one(name):
    frontend, wave = PRESETS[name], noise(3)
    later = np.concatenate([np.zeros(frontend.hop_length, np.float32), wave])
    assert (
        np.abs(spectrogram(later, frontend)[:, 1:] - spectrogram(wave, frontend)).max() < 0.02
    )  # float32 in deep nulls


@pytest.mark.parametrize("name", PRESETS)
def test_silence_is_finite_and_flat(name):
    silent = spectrogram(np.zeros(SR, np.float32), PRESETS[name])
    assert np.unique(silent).tolist() == [pytest.approx(-120 if name == "gam" else -100, abs=1e-4)]


@pytest.mark.parametrize("frontend", [*PRESETS.values(), CQT_SEED])
def test_stream_at_full_size(frontend):
    wave, rng = noise(5), np.random.default_rng(1)
    stream, pieces, start = FrontendStream(frontend), [], 0
    while start < len(wave):
        n = int(rng.integers(1, 20000))
        pieces.append(stream.feed(wave[start : start + n]))
        start += n
    due = sum(p.shape[1] for p in pieces)
    assert due == (len(wave) - stream.lookahead - 1) // frontend.hop_length + 1, "a frame came later than promised"
    assert np.array_equal(np.concatenate([*pieces, stream.flush()], axis=1), spectrogram(wave, frontend))


@pytest.mark.parametrize("name", PRESETS)
def test_a_stream_keeps_no_more_than_it_needs(name):
    stream = FrontendStream(PRESETS[name])
    for _ in range(30):
        stream.feed(np.zeros(SR // 2, np.float32))
    held = sum(len(tape._buffer) for track in stream._stream._tracks for tape in track.tapes)
    assert held <= 2 * (stream.lookback + stream.lookahead) + 2 * SR


def test_deltas_are_the_papers():
    """712 frames become 704, and a ramp of slope 3 has delta 3 and delta-delta 0."""
    assert deltas(np.zeros((128, 712), np.float32)).shape == (3, 128, 704)
    static, first, second = deltas(np.tile(3.0 * np.arange(30, dtype=np.float32), (2, 1)))
    assert np.array_equal(static[0], 3 * np.arange(4, 26))
    assert np.allclose(first, 3, atol=1e-6) and np.allclose(second, 0, atol=1e-6)


def test_patches_lie_on_the_grid():
    planes = np.arange(3 * 5 * 704, dtype=np.float32).reshape(3, 5, 704)
    cut = patches(planes)
    assert cut.shape == (10, 3, 128, 5)
    assert np.array_equal(cut[2], planes[:, :, 128:256].transpose(0, 2, 1))
    assert patches(planes[:, :, :127]).shape == (0, 3, 128, 5)


def test_table_bytes():
    """The window (float64) and, for mel, the bins that 16 neighbouring bands cover; dense ones would be 2 MB each."""
    weights = filterbanks.mel_weights(SR, 8192, 128, 0, SR / 2)
    covered = [np.flatnonzero(weights[i : i + 16].any(axis=0)) for i in range(0, 128, 16)]
    windows = 4096 * (8 + 4)
    assert table_bytes(MEL) == sum((c[-1] - c[0] + 1) * 16 * 4 for c in covered) + windows
    assert table_bytes(GAMMATONE) < 0.26 * 4097 * 128 * 4
    assert table_bytes(dataclasses.replace(GAMMATONE, tolerance=1e-3)) < 0.8 * table_bytes(GAMMATONE)


@pytest.mark.parametrize(
    "change",
    [{"kind": "wavelet"}, {"hop_length": 0}, {"hop_length": 1.5}, {"sr": True}, {"win_length": 9000}, {"fmax": 30000.0},
     {"fmin": -1}, {"fmin": float("nan")}, {"n_bands": 10**9}],
)  # fmt: skip
def test_a_wrong_parameter_is_named(change):
    with pytest.raises(ValueError, match=str(next(iter(change.values()))).replace(".", r"\.") + "|30000|9000"):
        dataclasses.replace(MEL, **change)


def test_a_cqt_above_nyquist_is_refused():
    with pytest.raises(ValueError, match="do not fit sr 16000"):
        dataclasses.replace(CQT, sr=16000)


def test_json_round_trip_and_unknown_keys():
    assert Frontend.from_json(CQT.to_json()) == CQT
    with pytest.raises(ValueError, match="front end"):
        Frontend.from_json({"kind": "mel", "n_ftt": 1})


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="one channel"):
        spectrogram(np.zeros((10, 2), np.float32), MEL)


def test_an_empty_recording_has_no_frames():
    assert spectrogram(np.zeros(0, np.float32), MEL).shape == (128, 0)
    assert spectrogram(np.ones(1, np.float32), CQT).shape == (128, 1)
