"""Our WAV reader against libsndfile, and what it says of files that are cut off, broken or hostile."""

import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import audio
from runtime.audio import AudioError, blocks, read

SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]


def noise(n_frames: int, n_channels: int = 1, seed: int = 0) -> np.ndarray:
    wave = np.random.default_rng(seed).uniform(-0.99, 0.99, (n_frames, n_channels)).astype(np.float32)
    return wave[:, 0] if n_channels == 1 else wave


def riff(*chunks: tuple[bytes, bytes], data_bytes: int | None = None, riff_bytes: int | None = None) -> bytes:
    """A WAV file's bytes from its chunks; the last one's size, and RIFF's own, can be made to lie."""
    body = b"WAVE"
    for number, (name, content) in enumerate(chunks, start=1):
        lies = number == len(chunks) and data_bytes is not None
        body += name + struct.pack("<I", data_bytes if lies else len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) if riff_bytes is None else riff_bytes) + body


def fmt(tag: int = 1, n_channels: int = 1, sr: int = 16000, bits: int = 16) -> tuple[bytes, bytes]:
    frame_bytes = n_channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", tag, n_channels, sr, 0, frame_bytes, bits)


PCM = (b"data", np.arange(100, dtype="<i2").tobytes())


@settings(max_examples=60, deadline=None)
@given(
    subtype=st.sampled_from(SUBTYPES),
    container=st.sampled_from(["WAV", "WAVEX"]),
    n_channels=st.integers(1, 8),
    n_frames=st.integers(1, 3000),
    sr=st.sampled_from([4000, 8000, 44100, 48000, 384000]),
)
def test_wav_reads_as_libsndfile_does(tmp_path_factory, subtype, container, n_channels, n_frames, sr):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    soundfile.write(path, noise(n_frames, n_channels), sr, subtype=subtype, format=container)
    assert audio.header(path).fmt  # ours, not libsndfile's
    wave, our_sr = read(path)
    reference, _ = soundfile.read(path, dtype="float32")
    assert our_sr == sr and wave.dtype == np.float32
    np.testing.assert_array_equal(wave, reference)


@pytest.mark.parametrize(
    "data_bytes, riff_bytes", [(0, 0), (0, 36), (0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (2**31, 9)]
)
def test_wav_written_to_a_pipe_has_no_size(tmp_path, data_bytes, riff_bytes):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(fmt(), PCM, data_bytes=data_bytes, riff_bytes=riff_bytes))
    np.testing.assert_array_equal(read(path)[0] * 32768, np.arange(100))


def test_wav_odd_chunks_are_stepped_over(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff((b"JUNK", b"odd"), fmt(), (b"LIST", b"x" * 27), PCM, (b"id3 ", b"tail!")))
    np.testing.assert_array_equal(read(path)[0] * 32768, np.arange(100))


def test_wav_cut_off_among_its_samples_gives_whole_frames(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(fmt(n_channels=2), PCM)[:-3])
    assert read(path)[0].shape == (49, 2)


BROKEN = {
    "empty": (b"", "empty"),
    "four bytes": (b"RIFF", "convert it"),
    "cut in the first header": (riff(fmt(), PCM)[:15], "cut off"),
    "cut in fmt": (riff(fmt(), PCM)[:30], "no samples"),
    "cut before data": (riff(fmt()), "no samples"),
    "data first": (riff(PCM), "no format"),
    "short fmt": (riff((b"fmt ", b"\1\0\1\0"), PCM), "says nothing of the format"),
    "no samples": (riff(fmt(), (b"data", b"")), "holds no samples"),
    "half a frame": (riff(fmt(), (b"data", b"\1")), "holds no samples"),
    "no channels": (riff(fmt(n_channels=0), PCM), "0 channels"),
    "too many channels": (riff(fmt(n_channels=33), PCM), "33 channels"),
    "rate 0": (riff(fmt(sr=0), PCM), "sample rate 0 Hz"),
    "rate 3999": (riff(fmt(sr=3999), PCM), "3999"),
    "rate 4 GHz": (riff(fmt(sr=2**32 - 1), PCM), "4294967295"),
    "unknown codec": (riff(fmt(tag=0x1234), PCM), "convert it"),
    "text": (b"#!/bin/sh\necho hello\n" * 9, "convert it"),
    "only empty chunks": (riff(*[(b"JUNK", b"")] * 5000), "no format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_say_so(tmp_path, name):
    content, sentence = BROKEN[name]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for reader in (read, blocks):  # blocks fails at the door, not at the first block
        with pytest.raises(AudioError, match=sentence) as caught:
            reader(path)
        assert str(path) in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 100))
def test_random_bytes_never_crash(tmp_path_factory, junk, position):
    good = riff(fmt(), PCM)
    path = tmp_path_factory.mktemp("junk") / "a.wav"
    path.write_bytes(good[:position] + junk + good[position + len(junk) :])
    try:
        wave, _ = read(path)
    except AudioError:
        return
    assert wave.dtype == np.float32 and wave.size
