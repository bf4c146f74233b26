"""Blocks of samples from a file or a pipe, and their resampling; runtime.microphone has the third kind of source.

Every source is iterated the same way, see runtime.stream.decisions:

    source = blocks("street.wav")  # or stdin_blocks(44100), or microphone()
    for block in source:  # (n,) float32, or a Gap where sound was lost

Plain WAV at the wanted rate needs numpy alone; other formats, other rates and microphones need the extra `audio`.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from runtime import wav
from runtime.faults import Faults
from runtime.wav import BYTES, AudioError, Header, decode

MIN_SR, MAX_SR = 4_000, 384_000  # Hz: what lies outside is a broken header, not a recording
MAX_CHANNELS = 32
LIMIT = 1e4  # full scale is 1: what is 80 dB above it is a broken driver, and would drown all that follows
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus")
INSTALL = "pip install 'tinyear[audio]'"


@dataclasses.dataclass(frozen=True)
class Gap:
    """So many samples of a source were lost, at the rate it had; sr: its rate from here on, where that changed."""

    n_samples: int
    sr: int | None = None


@dataclasses.dataclass
class Source:
    """An iterator of (samples,) mono float32 blocks at `sr` Hz, and of Gaps. `faults`: what the source lost, and why.

    backlog_s: seconds of sound that wait to be taken, where sound comes by itself.
    """

    sr: int
    blocks: Iterator[np.ndarray | Gap]
    faults: Faults = dataclasses.field(default_factory=Faults)
    backlog_s: Callable[[], float] = lambda: 0.0

    def __iter__(self) -> Iterator[np.ndarray | Gap]:
        return self.blocks


def read(path: str | Path) -> tuple[np.ndarray, int]:
    """A whole file -> (samples,) or (samples, channels) float32, full scale 1, and its sr in Hz.

    A file cut off among its samples gives those it has. Raises AudioError for one that is missing, empty, cut off
    before its samples, or of a kind nobody here can read.
    """
    path = Path(path)
    head = header(path)
    chunks = list(_chunks(path, head, n_frames=1 << 18))  # never trust n_frames with an allocation
    if not chunks:
        raise AudioError(f"{path} holds no samples: it was cut off, record it again")
    wave = np.concatenate(chunks)  # (samples, channels)
    return (wave[:, 0] if head.n_channels == 1 else wave), head.sr


def blocks(path: str | Path, block_s: float = 0.1) -> Source:
    """A file -> its Source, mixed down, `block_s` seconds a block, never whole in memory. Raises as read() does."""
    path = Path(path)
    head = header(path)
    chunks = _chunks(path, head, n_frames=n_block(block_s, head.sr))
    return Source(head.sr, map(to_mono, chunks), Faults(missing_samples=head.n_missing))


def recordings(path: Path) -> list[Path]:
    """A file, or a folder -> the recordings in it by name. Raises AudioError for a folder without any."""
    if not path.is_dir():
        return [path]
    found = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
    if not found:
        raise AudioError(f"{path} holds no recordings ({', '.join(SUFFIXES)}): name a folder that does, or a file")
    return found


def paced(source: Source) -> Source:
    """The same, but no block sooner than a microphone would have it."""

    def wait() -> Iterator[np.ndarray | Gap]:
        began, heard_s = time.monotonic(), 0.0
        for block in source:
            heard_s += (block.n_samples if isinstance(block, Gap) else len(block)) / source.sr
            time.sleep(max(0.0, began + heard_s - time.monotonic()))
            yield block

    return dataclasses.replace(source, blocks=wait())


def duty_cycle(source: Source, on_s: float, period_s: float) -> Source:
    """The same, with the sound of all but the first `on_s` seconds of every `period_s` left out: nothing computes then."""

    def listen() -> Iterator[np.ndarray | Gap]:
        heard_s, sr, pause = 0.0, source.sr, 0
        for block in source:
            n = block.n_samples if isinstance(block, Gap) else len(block)
            is_on = (heard_s + 1e-6) % period_s < on_s  # a microsecond for the sums of tenths
            heard_s += n / sr
            if isinstance(block, Gap):
                sr = block.sr or sr
                if block.sr is None and not is_on:
                    pause += n
                    continue
            if is_on or isinstance(block, Gap):
                if pause:
                    yield Gap(pause)
                    pause = 0
                yield block
            else:
                pause += n

    return dataclasses.replace(source, blocks=listen())


def header(path: Path) -> Header:
    """What read() and blocks() will give, without the samples. Raises AudioError."""
    if not path.is_file():
        raise AudioError(f"{path} is {'not a file' if path.exists() else 'missing'}: give a recording's path")
    try:
        with path.open("rb") as file:
            start = file.read(12)
            is_wav = start[:4] == b"RIFF" and start[8:] == b"WAVE"
            head = wav.header(file, path) if is_wav else None
    except OSError as error:
        raise AudioError(f"{path} cannot be opened: {error.strerror}") from error
    if not start:
        raise AudioError(f"{path} is empty (0 bytes): record it again")
    head = head or _sndfile_header(path)
    check_sr(head.sr, str(path))
    if not 1 <= head.n_channels <= MAX_CHANNELS:
        raise AudioError(f"{path}: {head.n_channels} channels, this reads 1 to {MAX_CHANNELS}: mix it down first")
    if head.n_frames <= 0:
        raise AudioError(f"{path} holds no samples: record it again")
    return head


def check_sr(sr: float, source: str) -> None:
    """Raises AudioError for a sample rate, in Hz, that no recording has."""
    if not MIN_SR <= sr <= MAX_SR:
        raise AudioError(f"{source}: sample rate {sr} Hz is not within {MIN_SR} to {MAX_SR}: check how it was written")


def n_block(block_s: float, sr: int) -> int:
    """-> samples of a block. Raises AudioError for a length that makes no sense."""
    if not 0 < block_s <= 60:
        raise AudioError(f"blocks of {block_s} s: choose more than 0 and at most 60")
    return max(1, round(block_s * sr))


def _chunks(path: Path, head: Header, n_frames: int) -> Iterator[np.ndarray]:
    """-> (up to n_frames, channels) float32 each."""
    return wav.chunks(path, head, n_frames) if head.fmt else _sndfile_chunks(path, n_frames)


def _sndfile(path: Path) -> Any:
    """The open file, for formats that are not plain WAV."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise AudioError(f"{path} is not a plain WAV (PCM or float): reading it needs `{INSTALL}`") from error
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a .raw file says nothing of itself
        raise AudioError(f"{path} is no recording that can be read ({error}): convert it to WAV") from error


def _sndfile_header(path: Path) -> Header:
    with _sndfile(path) as file:
        return Header(file.samplerate, file.channels, file.frames)


def _sndfile_chunks(path: Path, n_frames: int) -> Iterator[np.ndarray]:
    with _sndfile(path) as file:
        while True:
            try:
                chunk = file.read(n_frames, dtype="float32", always_2d=True)
            except RuntimeError as error:  # soundfile.LibsndfileError
                raise AudioError(f"{path} is damaged after {file.tell()} samples ({error}): copy it again") from error
            if not len(chunk):
                return
            yield chunk


def to_mono(wave: np.ndarray) -> np.ndarray:
    """(samples,) or (samples, channels) -> (samples,) float32, the channels' mean. Raises AudioError for other shapes."""
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and not 1 <= wave.shape[1] <= MAX_CHANNELS):
        raise AudioError(f"sound of shape {wave.shape}: give (samples,) or (samples, channels)")
    return wave if wave.ndim == 1 else wave[:, 0] if wave.shape[1] == 1 else wave.mean(1, dtype=np.float32)


def sanitize(block: np.ndarray) -> tuple[np.ndarray, int]:
    """(samples,) -> the same as float32 with NaN and infinities 0 and the rest within +-LIMIT, and how many changed.

    Only broken values are touched: a float recording may well exceed full scale. Do it before resampling: one NaN
    stays in a filter's state for ever. Raises AudioError for anything but floats: whole numbers have another full scale.
    """
    block = np.asarray(block)
    if block.dtype.kind != "f":
        raise AudioError(
            f"samples of type {block.dtype}: give floats of full scale 1 (16-bit samples: divide by 32768)"
        )
    if np.abs(block).max(initial=0) <= LIMIT:  # False for NaN
        return block.astype(np.float32, copy=False), 0
    is_bad = ~(np.abs(block) <= LIMIT)
    clean = np.clip(np.where(np.isfinite(block), block, 0), -LIMIT, LIMIT)
    return clean.astype(np.float32), int(is_bad.sum())


class Resampler:
    """Mono at sr_in Hz -> sr_out Hz, in blocks of any size; together they are what one block would have given.

    Raises AudioError where the rates differ and soxr is not installed.
    """

    def __init__(self, sr_in: int, sr_out: int) -> None:
        check_sr(sr_in, "resampling from")
        check_sr(sr_out, "resampling to")
        self._soxr: Any = None
        if sr_in == sr_out:
            return
        try:
            import soxr
        except ImportError as error:
            raise AudioError(f"from {sr_in} to {sr_out} Hz: resampling needs `{INSTALL}`") from error
        self._soxr = soxr.ResampleStream(sr_in, sr_out, 1, dtype="float32", quality="HQ")

    def feed(self, block: np.ndarray) -> np.ndarray:
        """(any,) -> (samples ready,) float32, possibly none: the filter holds some back."""
        block = np.ascontiguousarray(block, np.float32)
        return self._soxr.resample_chunk(block) if self._soxr else block

    def flush(self) -> np.ndarray:
        """-> (samples still due,); then starts anew."""
        rest = np.zeros(0, np.float32)
        if self._soxr:
            rest = self._soxr.resample_chunk(rest, last=True)
        self.reset()
        return rest

    def reset(self) -> None:
        """Forget everything."""
        if self._soxr:
            self._soxr.clear()


def stdin_blocks(sr: int, fmt: str = "s16le", stream: BinaryIO | None = None, block_s: float = 0.1) -> Source:
    """Raw mono samples of a format in BYTES on a binary stream (default: standard input) -> a Source, as they come."""
    check_sr(sr, "standard input")
    if fmt not in BYTES:
        raise AudioError(f"standard input: format {fmt!r} is not one of {', '.join(BYTES)}")
    if stream is None and sys.stdin is None:
        raise AudioError("standard input is closed: pipe raw samples into it")
    return Source(sr, _pipe(stream or sys.stdin.buffer, fmt, n_block(block_s, sr)))


def _pipe(stream: BinaryIO, fmt: str, n_samples: int) -> Iterator[np.ndarray]:
    rest, n_read, start = b"", 0, b""
    read_some = getattr(stream, "read1", stream.read)  # read1: do not wait for a full block
    while raw := read_some(n_samples * BYTES[fmt]):
        n_read += len(raw)
        if len(start) < 4 and (start := (start + raw)[:4]) == b"RIFF":
            raise AudioError("standard input holds a WAV file, not raw samples: arecord -t raw, or --wav FILE")
        raw = rest + raw
        n_whole = len(raw) // BYTES[fmt] * BYTES[fmt]
        rest = raw[n_whole:]
        if n_whole:
            yield decode(raw[:n_whole], fmt)
    if not n_read:
        raise AudioError(f"standard input is empty: pipe raw {fmt} samples into it")
