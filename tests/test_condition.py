"""From a source's blocks to a stream's samples: counting, gain, offset, gaps; and sources that pause."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import audio, stream
from runtime.audio import Gap, Source, duty_cycle
from runtime.bundle import Bundle
from runtime.condition import Conditioner, DcBlocker
from runtime.faults import Faults
from tests.conftest import SR, noise


def test_faults_are_counted_once_each():
    faults = Faults()
    conditioner = Conditioner(SR, SR, faults)
    burst = np.zeros(4410, np.float32)
    burst[:9] = np.nan
    for block in (noise(0.1), burst, burst, noise(0.1), np.zeros(4410, np.float32), burst):
        conditioner.feed(block)
    loud = noise(0.1)
    loud[10], loud[20:22], loud[30:35], loud[40:43] = 1, -1, 1, -1
    conditioner.feed(loud)
    assert faults.counts() == {"bad_bursts": 2, "bad_samples": 27, "silent_samples": 4 * 4410, "clipped_samples": 8}
    assert "27 NaN, infinite or absurd samples" in faults.sentences()


@pytest.mark.parametrize("gain_db, factor", [(0, 1), (20, 10), (-6.0206, 0.5)])
def test_gain_is_decibels(gain_db, factor):
    wave = noise(0.1)
    np.testing.assert_allclose(Conditioner(SR, SR, Faults(), gain_db).feed(wave), wave * factor, rtol=1e-5)


@pytest.mark.parametrize("gain_db", [61, -1000, float("nan")])
def test_senseless_gains(gain_db):
    with pytest.raises(ValueError, match="gain"):
        Conditioner(SR, SR, Faults(), gain_db)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=8), sr=st.sampled_from([8000, 44100]))
def test_dc_blocker_does_not_depend_on_the_cuts(sizes, sr):
    wave = np.random.default_rng(1).normal(0.3, 0.1, sum(sizes)).astype(np.float32)
    whole, cut = DcBlocker(sr), DcBlocker(sr)
    expected = np.concatenate([whole.feed(wave), whole.flush()])
    parts = [cut.feed(part) for part in np.split(wave, np.cumsum(sizes)[:-1])]
    np.testing.assert_array_equal(np.concatenate([*parts, cut.flush()]), expected)
    assert len(expected) == len(wave)


@pytest.mark.parametrize("hz, low_db, high_db", [(2, -0.1, 0.1), (20, -0.01, 0.01), (1000, -0.001, 0.001)])
def test_dc_blocker_takes_the_offset_and_leaves_the_sound(hz, low_db, high_db):
    tone = 0.1 * np.sin(2 * np.pi * hz * np.arange(20 * 8000) / 8000)
    heard = DcBlocker(8000).feed((tone + 0.5).astype(np.float32))[5 * 8000 :]
    assert abs(heard.mean()) < 1e-4
    assert low_db < 20 * np.log10(heard.std() / tone.std()) < high_db


@settings(max_examples=25, deadline=None)
@given(
    sr=st.sampled_from([8000, 16000, 44100, 48000]),
    pieces=st.lists(st.tuples(st.integers(0, 20000), st.integers(1, 50000)), min_size=1, max_size=5),
)
def test_time_does_not_drift_over_gaps(sr, pieces):
    """Samples and gaps at the source's rate become as many seconds at ours, to a sample however many gaps."""
    conditioner, n_out = Conditioner(sr, 44100, Faults()), 0
    for n_heard, n_lost in pieces:
        n_out += len(conditioner.feed(np.ones(n_heard, np.float32)))
        rest, n_skipped = conditioner.gap(Gap(n_lost))
        n_out += len(rest) + n_skipped
    n_in = sum(n_heard + n_lost for n_heard, n_lost in pieces)
    assert abs(n_out - n_in * 44100 / sr) <= 1


def test_sound_after_a_gap_is_the_sound_of_a_new_stream():
    wave = noise(1)
    conditioner = Conditioner(48000, SR, Faults())
    conditioner.feed(noise(0.5, seed=5))
    conditioner.gap(Gap(1234, sr=16000))
    again = np.concatenate([conditioner.feed(wave), conditioner.flush()])
    np.testing.assert_array_equal(again, soxr.resample(wave, 16000, SR, quality="HQ"))


def test_a_gap_moves_time_and_starts_patches_anew(small_bundle):
    bundle = Bundle.load(small_bundle, "onnx")
    before, after = noise(6, seed=1), noise(7, seed=2)
    source = Source(SR, iter([before, Gap(10 * SR + 77), after]))
    heard = list(stream.decisions(source, stream.Stream(bundle, 2, 0.5)))
    ends = [d.end_s for d in heard]
    assert not [t for t in ends if 6.01 < t < 16 + 2] and ends == sorted(set(ends))
    alone = stream.Stream(bundle, 2, 0.5)
    alone.skip(16 * SR + 77)
    late = alone.feed(after) + alone.flush()
    assert late and heard[-len(late) :] == late  # nothing of what was before the gap is left
    assert heard[: len(heard) - len(late)] == stream.offline(bundle, before, 2, 0.5)


def test_digital_silence_is_no_class(small_bundle):
    bundle = Bundle.load(small_bundle, "onnx")
    wave = np.concatenate([np.zeros(6 * SR), noise(2), np.zeros(5 * SR)]).astype(np.float32)
    live = stream.Stream(bundle, 2, 1)
    heard = live.feed(wave) + live.flush()
    assert heard == stream.offline(bundle, wave, 2, 1)
    assert [d.end_s for d in heard if d.silent] == [4, 5, 6, 10, 11, 12, 13]


def test_duty_cycle_listens_when_it_says():
    blocks = [np.full(4410, i, np.float32) for i in range(100)]  # 10 s
    heard = list(duty_cycle(Source(SR, iter(blocks)), on_s=1, period_s=4))
    kept = [int(block[0]) for block in heard if not isinstance(block, Gap)]
    assert kept == [*range(10), *range(40, 50), *range(80, 90)]
    assert [block.n_samples for block in heard if isinstance(block, Gap)] == [3 * SR, 3 * SR]


def test_duty_cycle_keeps_the_gaps_of_the_source():
    second = np.ones(SR, np.float32)
    blocks = [second, second, Gap(SR), second, Gap(SR, sr=8000), np.ones(8000, np.float32)]
    heard = list(duty_cycle(Source(SR, iter(blocks)), on_s=1, period_s=5))
    assert [block if isinstance(block, Gap) else len(block) for block in heard] == [
        SR,
        Gap(3 * SR),
        Gap(SR, sr=8000),
        8000,
    ]


def test_paced_is_as_fast_as_sound(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(audio.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(audio.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    at = [now[0] for _ in audio.paced(Source(SR, iter([np.zeros(SR // 2), Gap(SR), np.zeros(SR)])))]
    assert at == pytest.approx([100.5, 101.5, 102.5])
