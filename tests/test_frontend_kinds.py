"""STFT, MFCC and raw frames against librosa; what all six kinds of runtime.frontend promise on streams and bad input."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import filterbanks
from runtime.audio import Resampler
from runtime.frontend import (
    CQT,
    GAMMATONE,
    MEL,
    PRESETS,
    Frontend,
    FrontendStream,
    SharedStream,
    delta,
    deltas,
    spectrogram,
    spectrograms,
    with_delta,
)
from runtime.papers import P3_HOPS, PAPERS
from runtime.tape import BATCH, Tape
from tests.conftest import SR, noise

librosa = pytest.importorskip("librosa")

STFT = Frontend("stft", n_bands=4097)
MFCC = Frontend("mfcc", n_bands=20)
FRAMES = Frontend("frames", n_bands=2048, win_length=2048, hop_length=1024)
SIX = {**PRESETS, "stft": STFT, "mfcc": MFCC, "frames": FRAMES}


def librosa_power(wave, frontend):
    return (
        np.abs(
            librosa.stft(
                wave.astype(float),
                n_fft=frontend.n_fft,
                win_length=frontend.win_length,
                hop_length=frontend.hop_length,
                pad_mode="constant",
            )
        )
        ** 2
    )


def db(power):
    return 10 * np.log10(np.maximum(power, 1e-10))


@pytest.mark.parametrize("hop_length", [620, 1850])
def test_stft_equals_librosa(hop_length):
    wave, frontend = noise(2), dataclasses.replace(STFT, hop_length=hop_length)
    reference, ours = db(librosa_power(wave, frontend)), spectrogram(wave, frontend)
    assert ours.shape == reference.shape
    counts = (reference > reference.max(axis=0) - 80) & (reference > -99)
    assert np.abs(ours - reference)[counts].max() < 1e-3


def test_stft_of_p1_is_rescaled():
    """2048 bins to 128: each band the mean power of 16 bins, Nyquist left out."""
    wave, frontend = noise(1), PAPERS["p1_stft"]
    power = librosa_power(wave, frontend)[:2048].reshape(128, 16, -1).mean(axis=1)
    assert np.abs(spectrogram(wave, frontend) - db(power)).max() < 1e-3
    assert frontend.centers_hz[0] == pytest.approx(7.5 * SR / 4096)


def test_mfcc_equals_librosa():
    wave = noise(2)
    mel = librosa.feature.melspectrogram(
        S=librosa_power(wave, MFCC), sr=SR, n_fft=MFCC.n_fft, n_mels=128, fmin=0, fmax=SR / 2
    )
    reference = librosa.feature.mfcc(S=db(mel), n_mfcc=20)
    assert np.abs(spectrogram(wave, MFCC) - reference).max() < 1e-4 * np.abs(reference).max()


def test_htk_mel_equals_librosa():
    """The scale that P1 prints, with librosa's norm."""
    reference = librosa.filters.mel(sr=SR, n_fft=4096, n_mels=128, fmin=10, htk=True, dtype=np.float64)
    assert np.abs(filterbanks.mel_weights(SR, 4096, 128, 10, SR / 2, "htk") - reference).max() < 1e-12


def test_frames_are_the_samples():
    wave = noise(1)
    frames, padded = spectrogram(wave, FRAMES), np.pad(wave, 1024)
    assert frames.shape == (2048, 1 + len(wave) // 1024)
    for t in range(frames.shape[1]):
        assert np.array_equal(frames[:, t], padded[t * 1024 : t * 1024 + 2048])


def test_dct_is_orthonormal():
    square = filterbanks.dct_matrix(40, 40)
    assert np.abs(square @ square.T - np.eye(40)).max() < 1e-12


def test_deltas_of_the_papers():
    """P3's and P4's frame counts; P1's eq. (9) and its 128 rows."""
    x = np.random.default_rng(0).standard_normal((64, 431)).astype(np.float32)
    assert deltas(x).shape == (3, 64, 423)
    assert np.allclose(delta(x, 1), (x[:, 2:] - x[:, :-2]) / 2, atol=1e-6)
    stacked = with_delta(x)
    assert stacked.shape == (128, 429) and np.array_equal(stacked[:64], x[:, 1:-1])


@pytest.mark.parametrize("tolerance", [1e-6, 1e-3, 1e-2])
def test_a_smaller_gammatone_states_its_error(tolerance):
    wave = noise(2)
    exact = spectrogram(wave, dataclasses.replace(GAMMATONE, tolerance=0))
    small = spectrogram(wave, dataclasses.replace(GAMMATONE, tolerance=tolerance))
    rounding = 1e-3  # dB: one of the two may find its float32 FFT too coarse, and the other not
    assert np.abs(small - exact).max() <= 20 * np.log10(1 + tolerance) + rounding


def test_papers_are_the_papers():
    assert {name[:2] for name in PAPERS} == {"p0", "p1", "p2", "p3", "p4"}
    assert [PAPERS[f"p3_mel_{hop}"].n_frames(10 * SR) for hop in P3_HOPS] == [712, 394, 239, 216]
    assert PAPERS["p4_frames"].n_frames(10 * SR) == 431
    assert PAPERS["p3_cqt_620"] == CQT
    for frontend in PAPERS.values():
        assert Frontend.from_json(frontend.to_json()) == frontend


def test_the_json_of_trained_runs_is_unchanged():
    common = {"sr": 44100, "n_bands": 128, "fmax": None, "n_fft": 8192, "win_length": 4096, "bins_per_octave": 14}
    for hop in (620, 1120):
        for frontend, kind, fmin in ((MEL, "mel", 0.0), (GAMMATONE, "gammatone", 50.0), (CQT, "cqt", 32.703)):
            values = dataclasses.replace(frontend, hop_length=hop).to_json()
            assert values == {**common, "kind": kind, "fmin": fmin, "hop_length": hop}
            order = ["kind", "sr", "hop_length", "n_bands", "fmin", "fmax", "n_fft", "win_length", "bins_per_octave"]
            assert list(values) == order
    assert "mel_scale" in PAPERS["p1_mfcc"].to_json()


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"kind": "stft", "n_bands": 100}, "neither 4097 nor a divisor of 4096"),
        ({"kind": "frames"}, "not their win_length 4096"),
        ({"kind": "mfcc", "n_bands": 41, "n_mels": 40}, "more than n_mels 40"),
        ({"kind": "mel", "n_bands": 1025}, "from 2 to 1024"),
        ({"kind": "mel", "mel_scale": "bark"}, "not slaney or htk"),
        ({"kind": "mel", "log": 1}, "not true or false"),
        ({"kind": "mfcc", "n_bands": 20, "log": False}, "no logarithm"),
        ({"kind": "gammatone", "fmin": 50.0, "tolerance": 1.0}, "tolerance 1.0"),
    ],
)
def test_wrong_parameters_are_named(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Frontend(**values)


def any_frontend(kind, hop, n_bands, per_octave, n_fft, win_length, log):
    common = {"sr": 16000, "hop_length": hop, "n_fft": n_fft, "win_length": win_length}
    if kind == "frames":
        return Frontend(kind, n_bands=win_length, **common)
    if kind == "stft":
        return Frontend(kind, n_bands=[n_fft // 2 + 1, n_fft // 2, n_fft // 8][n_bands % 3], log=log, **common)
    if kind == "mfcc":
        return Frontend(kind, n_bands=n_bands, n_mels=40, **common)
    return Frontend(kind, n_bands=n_bands, fmin=60.0, bins_per_octave=per_octave, log=log, **common)


frontends = st.builds(
    any_frontend,
    st.sampled_from(["mel", "gammatone", "cqt", "stft", "mfcc", "frames"]),
    st.sampled_from([100, 128, 155, 160]),
    st.integers(4, 40),
    st.sampled_from([6, 12]),
    st.sampled_from([1024, 1000]),
    st.sampled_from([800, 401]),
    st.booleans(),
)
chunk_sizes = st.lists(st.integers(0, 5000), min_size=1, max_size=10)


def cut(wave, sizes):
    """`wave` in chunks of the given sizes, the rest in one."""
    ends = np.cumsum(sizes)
    return np.split(wave, ends[ends < len(wave)])


@settings(max_examples=60, deadline=None)
@given(st.lists(frontends, min_size=1, max_size=3), chunk_sizes, st.integers(0, 2**31))
def test_stream_equals_offline_bit_for_bit(chosen, sizes, seed):
    """Each kind, alone and sharing an FFT with others, over settings and ragged chunks."""
    wave = np.random.default_rng(seed).standard_normal(sum(sizes)).astype(np.float32)
    stream = SharedStream(chosen)
    pieces = [*(stream.feed(chunk) for chunk in cut(wave, sizes)), stream.flush()]
    for frontend, parts in zip(chosen, zip(*pieces)):
        assert np.array_equal(np.concatenate(parts, axis=1), spectrogram(wave, frontend))


@pytest.mark.parametrize("sr", [44100, 48000, 16000])
def test_stream_equals_offline_resampled(sr):
    rng = np.random.default_rng(sr)
    wave = (0.1 * rng.standard_normal(3 * sr)).astype(np.float32)
    whole = Resampler(sr, SR)
    offline = np.concatenate([whole.feed(wave), whole.flush()])
    resampler, stream = Resampler(sr, SR), SharedStream(SIX.values())
    pieces = [stream.feed(resampler.feed(chunk)) for chunk in cut(wave, rng.integers(0, 9000, 40))]
    pieces += [stream.feed(resampler.flush()), stream.flush()]
    for expected, parts in zip(spectrograms(offline, SIX.values()), zip(*pieces)):
        assert np.array_equal(np.concatenate(parts, axis=1), expected)


@pytest.mark.parametrize("name", SIX)
def test_after_days_frames_are_the_same(name):
    """A stream at sample 2 ** 53, 6,500 years on, gives the frames that it gives at sample 0."""
    frontend, wave = SIX[name], noise(1)
    stream, late = FrontendStream(frontend), FrontendStream(frontend)
    track = late._stream._tracks[0]
    period = frontend.hop_length * BATCH * 4096  # whole frames, batches, and rows of every decimation
    n_periods = 2**53 // period + 1
    track._n_samples, track._n_frames = n_periods * period, n_periods * period // frontend.hop_length
    strides = getattr(track.plan, "strides", [1])
    firsts = track.plan.first_samples
    track.tapes = [Tape(first + n_periods * period // stride) for first, stride in zip(firsts, strides)]
    now = np.concatenate([stream.feed(wave), stream.flush()], axis=1)
    then = np.concatenate([late.feed(wave), late.flush()], axis=1)
    assert np.array_equal(now, then)


@pytest.mark.parametrize("name", ["mel", "gam", "cqt"])
def test_a_tone_in_each_band_peaks_there(name):
    """Its own band or a neighbour: below 300 Hz the FFT's window is wider than mel and ERB bands."""
    frontend = dataclasses.replace(SIX[name], hop_length=20480)
    for band, hz in enumerate(frontend.centers_hz):
        tone = np.sin(2 * np.pi * hz * np.arange(2 * SR) / SR + 1).astype(np.float32)
        peak = int(spectrogram(tone, frontend)[:, 2].argmax())
        assert abs(peak - band) <= (name != "cqt" and hz < 300), (hz, band, peak)


@pytest.mark.parametrize("name", ["mel", "gam", "cqt", "stft"])
def test_linear_before_the_logarithm(name):
    frontend = dataclasses.replace(SIX[name], log=False)
    wave = noise(1)
    gain = 2.0 if name == "gam" else 4.0  # magnitude; power of the others
    assert np.allclose(spectrogram(2 * wave, frontend), gain * spectrogram(wave, frontend), rtol=1e-5)
    level = spectrogram(wave, SIX[name])
    bands = spectrogram(wave, frontend)
    power = np.maximum(bands**2, 1e-12) if name == "gam" else np.maximum(bands, 1e-10)
    assert np.abs(10 * np.log10(power) - level).max() < 1e-4


@pytest.mark.parametrize("name", SIX)
def test_bad_samples_are_silence_and_counted(name):
    wave = noise(1)
    bad, clean = wave.copy(), wave.copy()
    bad[[100, 5000, 20000]] = [np.nan, np.inf, -np.inf]
    clean[[100, 5000, 20000]] = 0
    stream = FrontendStream(SIX[name])
    heard = np.concatenate([stream.feed(bad), stream.flush()], axis=1)
    assert stream.n_bad == 3
    assert np.array_equal(heard, spectrogram(clean, SIX[name]))


@pytest.mark.parametrize("name", SIX)
@pytest.mark.parametrize(
    "wave",
    [np.zeros(SR), np.full(SR, 0.5), np.sign(noise(1)), np.full(SR, 1e-40), np.ones(1), np.full(5, 1e30)],
    ids=["silence", "dc", "clipped", "denormal", "one sample", "absurd"],
)
def test_odd_recordings_are_finite(name, wave):
    frames = spectrogram(wave.astype(np.float32), SIX[name])
    assert frames.shape == (SIX[name].n_bands, SIX[name].n_frames(len(wave)))
    assert np.isfinite(frames).all()
    if name in ("mel", "cqt", "stft") and np.abs(wave).max() < 1e-30:
        assert np.all(np.abs(frames + 100) < 1e-4)  # the floor


@pytest.mark.parametrize("name", SIX)
def test_nothing_in_nothing_out(name):
    assert spectrogram(np.zeros(0, np.float32), SIX[name]).shape == (SIX[name].n_bands, 0)
    stream = FrontendStream(SIX[name])
    assert stream.feed(np.zeros(0, np.float32)).shape == (SIX[name].n_bands, 0)
    assert stream.lookahead_s == stream.lookahead / SR
