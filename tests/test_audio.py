"""Sound in: streams against one-shot, and what files, pipes and devices say that cannot be read."""

import io
import sys
import types

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import audio, wav
from runtime.audio import AudioError, Resampler, blocks, read, sanitize, stdin_blocks, to_mono


def noise(n_frames: int, n_channels: int = 1, seed: int = 0) -> np.ndarray:
    wave = np.random.default_rng(seed).uniform(-0.99, 0.99, (n_frames, n_channels)).astype(np.float32)
    return wave[:, 0] if n_channels == 1 else wave


@pytest.mark.parametrize(
    "suffix, subtype", [("flac", "PCM_24"), ("ogg", "VORBIS"), ("wav", "ULAW"), ("wav", "IMA_ADPCM")]
)
def test_other_formats_go_to_libsndfile(tmp_path, suffix, subtype):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(5000, 2), 44100, subtype=subtype)
    reference, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(read(str(path))[0], reference)
    np.testing.assert_array_equal(np.concatenate(list(blocks(str(path), 0.01))), reference.mean(1))


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_blocks_are_the_whole_file_mixed_down(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(10_001, 3), 8000)
    source = blocks(path, block_s=0.125)
    parts = list(source)
    assert source.sr == 8000 and not source.faults.counts()
    assert [len(part) for part in parts] == [1000] * 10 + [1]
    np.testing.assert_array_equal(np.concatenate(parts), to_mono(read(path)[0]))


def test_missing_files_folders_and_raw_say_so(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"\0" * 100)
    for path, sentence in [("gone.wav", "missing"), (".", "not a file"), ("a.raw", "convert it"), ("a\0b", "missing")]:
        with pytest.raises(AudioError, match=sentence):
            read(tmp_path / path)


@pytest.mark.parametrize("block_s", [0, -1, 61, float("nan")])
def test_silly_block_lengths(tmp_path, block_s):
    soundfile.write(tmp_path / "a.wav", noise(100), 8000)
    with pytest.raises(AudioError, match="blocks of"):
        blocks(tmp_path / "a.wav", block_s)


def test_without_the_audio_extra(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(100), 8000)
    soundfile.write(tmp_path / "a.flac", noise(100), 8000)
    for name in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(read(tmp_path / "a.wav")[0]) == 100
    assert len(Resampler(8000, 8000).feed(noise(100))) == 100
    for call in (lambda: read(tmp_path / "a.flac"), lambda: Resampler(8000, 44100)):
        with pytest.raises(AudioError, match=r"pip install 'tinyear\[audio\]'"):
            call()


def test_to_mono_is_the_mean():
    wave = np.float32([[1, 3], [-2, 2]])
    np.testing.assert_array_equal(to_mono(wave), np.float32([2, 0]))
    assert to_mono(wave[:, 0]) is not wave and to_mono(wave).dtype == np.float32


def test_sanitize_zeroes_and_clips_and_counts():
    bad = np.float32([0.5, np.nan, np.inf, -np.inf, 1e30, -2e4, 3.0])
    clean, n_bad = sanitize(bad)
    np.testing.assert_array_equal(clean, np.float32([0.5, 0, 0, 0, 1e4, -1e4, 3.0]))
    assert n_bad == 5 and clean.dtype == np.float32
    assert np.isnan(bad[1])  # the caller's block is left alone


def test_sanitize_leaves_good_blocks_alone():
    wave = noise(100) * 50
    same, n_bad = sanitize(wave)
    assert same is wave and n_bad == 0
    assert sanitize(np.zeros(0))[0].dtype == np.float32
    huge, n_bad = sanitize(np.array([1e300]))  # float64 beyond float32
    assert huge[0] == 1e4 and n_bad == 1


@settings(max_examples=40, deadline=None)
@given(
    sr_in=st.sampled_from([8000, 16000, 22050, 44100, 48000, 96000]),
    sizes=st.lists(st.integers(0, 4000), max_size=12),
)
def test_resampled_stream_is_one_shot(sr_in, sizes):
    wave = noise(sum(sizes))
    resampler = Resampler(sr_in, 44100)
    for _ in range(2):  # flush() starts anew
        parts = [resampler.feed(part) for part in np.split(wave, np.cumsum(sizes))]
        streamed = np.concatenate([*parts, resampler.flush()])
        expected = wave if sr_in == 44100 else soxr.resample(wave, sr_in, 44100, quality="HQ")
        np.testing.assert_array_equal(streamed, expected)
        assert streamed.dtype == np.float32


def test_resampler_reset_forgets():
    resampler = Resampler(48000, 44100)
    resampler.feed(noise(9999, seed=1))
    resampler.reset()
    streamed = np.concatenate([resampler.feed(noise(9999)), resampler.flush()])
    np.testing.assert_array_equal(streamed, soxr.resample(noise(9999), 48000, 44100, quality="HQ"))


def test_resampling_keeps_a_tone():
    t = np.arange(48000) / 48000
    resampler = Resampler(48000, 44100)
    out = np.concatenate([resampler.feed(np.sin(2 * np.pi * 1000 * t)), resampler.flush()])
    expected = np.sin(2 * np.pi * 1000 * np.arange(44100) / 44100)
    assert np.abs(out - expected)[2000:-2000].max() < 1e-4


class Drip(io.RawIOBase):
    """A pipe that hands out its bytes in pieces of odd sizes."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self.pieces = []
        while content:
            size = sizes[len(self.pieces) % len(sizes)]
            self.pieces.append(content[:size])
            content = content[size:]

    def read(self, _size: int = -1) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


@settings(max_examples=30, deadline=None)
@given(fmt_name=st.sampled_from(list(wav.BYTES)), sizes=st.lists(st.integers(1, 7), min_size=1), cut=st.integers(0, 7))
def test_stdin_joins_samples_split_between_reads(fmt_name, sizes, cut):
    raw = noise(64).astype("<f8").tobytes() if fmt_name == "f64le" else bytes(range(248)) * 3
    if fmt_name == "f32le":
        raw = noise(64).tobytes()
    n_whole = len(raw) // wav.BYTES[fmt_name]
    source = stdin_blocks(16000, fmt_name, Drip(raw + b"\0" * (cut % wav.BYTES[fmt_name]), sizes))
    got = np.concatenate(list(source))
    np.testing.assert_array_equal(got, wav.decode(raw[: n_whole * wav.BYTES[fmt_name]], fmt_name))


def test_stdin_is_the_default_stream(monkeypatch):
    raw = np.arange(-8, 8, dtype="<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(raw))))
    source = stdin_blocks(44100, block_s=0.0001)
    np.testing.assert_array_equal(np.concatenate(list(source)) * 32768, np.arange(-8, 8))


def test_stdin_refuses_unknown_formats_and_rates():
    with pytest.raises(AudioError, match="'mp3' is not one of u8, s16le"):
        stdin_blocks(44100, "mp3")
    with pytest.raises(AudioError, match="sample rate 44 Hz"):
        stdin_blocks(44)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "bool", "complex64", "U3"])
def test_samples_that_are_no_floats_are_refused(dtype):
    """Their full scale is another one: taken as they are they would be heard 32768 times too loud."""
    with pytest.raises(audio.AudioError, match="give floats"):
        audio.sanitize(np.ones(100, dtype))


@pytest.mark.parametrize("shape", [(2, 44100), (100, 0), (4, 4, 4), ()])
def test_sound_of_odd_shapes_is_refused(shape):
    with pytest.raises(audio.AudioError, match="give \\(samples,\\) or"):
        audio.to_mono(np.zeros(shape, np.float32))
