"""STFT, MFCC and raw frames against librosa; what all six kinds of runtime.frontend promise on streams and bad input."""

import dataclasses
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import cqt, filterbanks, spectrum
from runtime.audio import Resampler
from runtime.frontend import (
    CQT,
    GAMMATONE,
    MEL,
    PRESETS,
    Frontend,
    FrontendStream,
    SharedStream,
    _plan,
    spectrogram,
    spectrograms,
)
from runtime.papers import P3_HOPS, PAPERS
from runtime.patches import delta, deltas, with_delta
from runtime.tape import BATCH, Tape, batch_grid
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


@pytest.mark.parametrize("n_fft", [16, 126, 128, 254, 256, 1000])
def test_short_ffts_have_gammatone_bands_too(n_fft):
    """Fewer bins than two runs of smooth weights."""
    wave = noise(1)[:4000]
    frontend = Frontend("gammatone", n_bands=6, fmin=500.0, n_fft=n_fft, win_length=n_fft, hop_length=100)
    weights = filterbanks.gammatone_weights(SR, n_fft, 6, 500.0, SR / 2) / n_fft
    reference = 20 * np.log10(np.maximum(weights @ np.sqrt(librosa_power(wave, frontend)), 1e-6))
    assert judged_db(spectrogram(wave, frontend), reference, floor=-119) < 1e-3


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


@pytest.fixture
def fresh_plans():
    """Plans built before and after are not those of the test."""
    _plan.cache_clear()
    cqt._decimator.cache_clear()
    yield
    _plan.cache_clear()
    cqt._decimator.cache_clear()


def streamed(wave, frontends, sizes):
    stream = SharedStream(frontends)
    pieces = [*(stream.feed(chunk) for chunk in cut(wave, sizes)), stream.flush()]
    return [np.concatenate(parts, axis=1) for parts in zip(*pieces)]


def judged_db(ours, reference, floor=-99):
    counts = (reference > reference.max(axis=0) - 80) & (reference > floor)
    return np.abs(ours - reference)[counts].max()


def test_numpy_alone_gives_the_same(monkeypatch, fresh_plans):
    """Without scipy every FFT is in float64: bit for bit on a stream, too, and within 0.001 dB of what scipy gives."""
    pytest.importorskip("scipy.fft")
    wave = noise(2)
    fast = spectrograms(wave, [MEL, GAMMATONE])
    _plan.cache_clear()
    for name in ("scipy", "scipy.fft"):
        monkeypatch.setitem(sys.modules, name, None)
    exact = spectrograms(wave, [MEL, GAMMATONE])
    assert all(judged_db(ours, reference) < 1e-3 for ours, reference in zip(fast, exact))
    assert not np.array_equal(fast[0], exact[0]), "the float32 FFT was not used"
    for ours, expected in zip(streamed(wave, [MEL, GAMMATONE, STFT], [4410] * 20), [*exact, spectrogram(wave, STFT)]):
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("hz", [60.0, 200.0])
def test_where_a_float32_fft_is_too_coarse_it_is_not_used(hz, monkeypatch):
    """Far from a tone bands hear what rounding leaves there: 0.01 dB too much, were it not noticed."""
    pytest.importorskip("scipy.fft")
    tone = (0.9 * np.sin(2 * np.pi * hz * np.arange(SR) / SR)).astype(np.float32)
    power = librosa_power(tone, GAMMATONE)
    weights = filterbanks.gammatone_weights(SR, 8192, 128, 50, SR / 2) / 8192
    reference = 20 * np.log10(np.maximum(weights @ np.sqrt(power), 1e-6))
    assert judged_db(spectrogram(tone, GAMMATONE), reference, floor=-119) < 1e-3
    monkeypatch.setattr(spectrum, "MARGIN_NORM", 0.0)
    assert judged_db(spectrogram(tone, GAMMATONE), reference, floor=-119) > 5e-3


def test_where_rows_must_stay_streams_are_exact_too(monkeypatch, fresh_plans):
    """As on a machine whose BLAS gives the last rows of a batch other bits."""
    for module in (spectrum, cqt):
        monkeypatch.setattr(module, "batch_grid", lambda matrices: BATCH)
    wave, chosen = noise(1), [MEL, GAMMATONE, MFCC, CQT]
    for ours, frontend in zip(streamed(wave, chosen, [1000, 777, 4410, 9000]), chosen):
        assert np.array_equal(ours, spectrogram(wave, frontend))


def test_rows_that_may_lie_anywhere_are_found():
    class Uneven(np.ndarray):  # a product whose last row differs in the last bit
        def __rmatmul__(self, rows):
            product = rows @ np.asarray(self)
            product[-1] = np.nextafter(product[-1], np.inf)
            return product

    matrix = np.ones((5, 3), np.float32)
    assert batch_grid([matrix[:1]]) == 1
    assert batch_grid([matrix[:1], matrix.view(Uneven)]) == BATCH


def test_streams_in_two_threads_do_not_disturb_each_other():
    waves, results = [noise(2, seed=seed) for seed in (0, 1)], {}

    def hear(i):
        results[i] = streamed(waves[i], SIX.values(), [4410] * 20)

    threads = [threading.Thread(target=hear, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, wave in enumerate(waves):
        for ours, expected in zip(results[i], spectrograms(wave, SIX.values())):
            assert np.array_equal(ours, expected)


def test_halving_is_soxr_s():
    """Impulses on even and odd samples through soxr's HQ give all of its taps."""
    soxr = pytest.importorskip("soxr")
    taps, n = np.zeros(2048), 1024
    for odd in (0, 1):
        impulse = np.zeros(2 * n)
        impulse[n + odd] = 1
        halved = soxr.resample(impulse, 2, 1, quality="HQ")
        taps[np.arange(n) * 2 + (n - odd) - n] = halved  # tap 2 m - n - odd of sample m, the middle one at n
    ours = filterbanks.halving_filter()
    assert np.abs(taps[n - 191 : n + 192] - ours).max() < 3e-7  # soxr computes in float32
    assert np.abs(np.delete(taps, np.arange(n - 191, n + 192))).max() < 1e-6


@pytest.mark.parametrize("hop_length", [620, 1850, 441])
def test_low_octaves_at_a_lower_rate_are_the_same(hop_length, monkeypatch, fresh_plans):
    wave, frontend = noise(2), dataclasses.replace(CQT, hop_length=hop_length)
    assert len(_plan((frontend,)).strides) > len(cqt.CqtPlan([dataclasses.replace(frontend, hop_length=1)]).strides)
    lower = spectrogram(wave, frontend)
    _plan.cache_clear()
    monkeypatch.setattr(cqt, "SIDE_LOBES", 1e9)  # none is far enough
    assert max(_plan((frontend,)).strides) <= hop_length & -hop_length
    assert judged_db(lower, spectrogram(wave, frontend)) < 5e-3


def test_twice_as_loud_of_the_other_kinds():
    wave = noise(1)
    db_more = 20 * np.log10(2)
    assert np.array_equal(spectrogram(2 * wave, FRAMES), 2 * spectrogram(wave, FRAMES))
    more = spectrogram(2 * wave, STFT) - spectrogram(wave, STFT)
    assert np.abs(more[spectrogram(wave, STFT) > -99] - db_more).max() < 1e-3
    more = spectrogram(2 * wave, MFCC) - spectrogram(wave, MFCC)
    assert np.abs(more[0] - db_more * np.sqrt(MFCC.n_mels)).max() < 0.01 and np.abs(more[1:]).max() < 0.01


@pytest.mark.parametrize("name", ["stft", "mfcc", "frames"])
def test_a_shift_by_a_hop_of_the_other_kinds(name):
    frontend, wave = SIX[name], noise(1)
    later = np.concatenate([np.zeros(frontend.hop_length, np.float32), wave])
    differs = np.abs(spectrogram(later, frontend)[:, 1:] - spectrogram(wave, frontend))
    assert differs.max() < 0.02  # float32 in deep nulls
    assert name != "frames" or differs.max() == 0


def test_a_constant_is_heard_at_0_hz_alone():
    level = spectrogram(np.full(SR, 0.5, np.float32), MEL)[:, 20:50]
    assert level[0].min() > 20 and level[MEL.centers_hz > 1000].max() < level[0].min() - 100


def test_bands_above_a_source_s_nyquist_are_counted():
    assert MEL.n_above(44100) == 0 and MEL.n_above(48000) == 0
    wave = noise(1)[:16000]
    level = spectrogram(Resampler(16000, SR).feed(wave), MEL)[:, 20:60].mean(axis=1)
    n = MEL.n_above(16000)
    assert n == (MEL.centers_hz > 8000).sum() and level[-n + 1 :].max() < level[: -n - 1].min() - 20
    with pytest.raises(ValueError, match="not frequencies"):
        MFCC.n_above(16000)


def test_the_picture_of_every_kind(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    sf = pytest.importorskip("soundfile")
    from train.spectrograms import main

    sf.write(tmp_path / "a.wav", noise(1)[:16000], 16000)
    names = ["gam", "p0_mel", "p0_cqt", "p1_stft", "p1_mfcc"]
    chosen = [word for name in names for word in ("--frontend", name)]
    main([str(tmp_path / "a.wav"), "--plot", str(tmp_path / "a.png"), *chosen])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "holds nothing above 8000 Hz, where 29 of gam's 128 bands lie" in capsys.readouterr().out
