"""Plain RIFF WAV with numpy alone, so that a device needs no libsndfile to play back what it recorded."""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}  # sample formats, by ffmpeg's names
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
FORMATS = {
    (PCM, 1): "u8",
    (PCM, 2): "s16le",
    (PCM, 3): "s24le",
    (PCM, 4): "s32le",
    (FLOAT, 4): "f32le",
    (FLOAT, 8): "f64le",
}
GUID = bytes.fromhex("000000001000800000aa00389b71")  # after the two bytes of the tag proper
OPEN_ENDED = 0xFFFFFFFF  # what ffmpeg writes for a size it cannot know
MAX_CHUNKS = 1000  # a file of nothing but empty chunks would keep us reading headers for ever


class AudioError(ValueError):
    """Sound that cannot be had: which source, what was found there, what to do about it."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself. Plain WAV: `fmt` is a key of BYTES, `offset` where the samples start; else fmt "".

    n_missing: frames that a plain WAV announces and does not hold, because it was cut off.
    """

    sr: int
    n_channels: int
    n_frames: int
    fmt: str = ""
    offset: int = 0
    n_missing: int = 0


def header(file: BinaryIO, path: Path) -> Header | None:
    """Walk a RIFF file's chunks up to its samples; None where their codec is not ours."""
    end = path.stat().st_size
    file.seek(4)
    riff_bytes = int.from_bytes(file.read(4), "little")
    position, fmt_chunk = 12, None
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        name, n_bytes = file.read(4), int.from_bytes(file.read(4), "little")
        position += 8
        if position > end:
            break
        if name == b"fmt ":
            fmt_chunk = file.read(min(n_bytes, 40))
        elif name == b"data" and fmt_chunk is not None:
            # a recorder that writes to a pipe cannot come back to fill in the size
            is_open_ended = n_bytes in (OPEN_ENDED, 0) and riff_bytes + 8 != end
            held = end - position if is_open_ended else min(n_bytes, end - position)
            return _format(fmt_chunk, position, held, 0 if is_open_ended else n_bytes - held, path)
        position += n_bytes + n_bytes % 2  # chunks start at even bytes
    what = "no samples (data chunk)" if fmt_chunk else "no format (fmt chunk)"
    raise AudioError(f"{path}: a WAV of {end} bytes with {what}: it was cut off, record or copy it again")


def _format(chunk: bytes, offset: int, n_bytes: int, missing_bytes: int, path: Path) -> Header | None:
    if len(chunk) < 16:
        raise AudioError(f"{path}: its WAV header says nothing of the format ({len(chunk)} bytes): copy it again")
    tag, n_channels, sr, _, frame_bytes, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == EXTENSIBLE and chunk[26:40] == GUID:
        tag = int.from_bytes(chunk[24:26], "little")
    fmt = FORMATS.get((tag, (bits + 7) // 8), "")
    if not fmt or frame_bytes != n_channels * BYTES[fmt]:
        return None  # compressed, or packed in a way of its own: libsndfile may know it
    frame_bytes = max(1, frame_bytes)
    return Header(sr, n_channels, n_bytes // frame_bytes, fmt, offset, -(-missing_bytes // frame_bytes))


def chunks(path: Path, head: Header, n_frames: int) -> Iterator[np.ndarray]:
    """The samples that `head` announces -> (up to n_frames, channels) float32 each, full scale 1."""
    frame_bytes = head.n_channels * BYTES[head.fmt]
    with path.open("rb") as file:
        file.seek(head.offset)
        for start in range(0, head.n_frames, n_frames):
            raw = file.read(min(n_frames, head.n_frames - start) * frame_bytes)
            yield decode(raw[: len(raw) // frame_bytes * frame_bytes], head.fmt).reshape(-1, head.n_channels)


def decode(raw: bytes, fmt: str) -> np.ndarray:
    """Whole samples of a format in BYTES -> (samples,) float32, full scale 1."""
    if fmt == "u8":
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if fmt == "s24le":
        wide = np.zeros((len(raw) // 3, 4), np.uint8)  # 24 bits become the upper ones of 32
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return decode(wide.tobytes(), "s32le")
    samples = np.frombuffer(raw, f"<{fmt[0].replace('s', 'i')}{BYTES[fmt]}")
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 becomes inf: sanitize() counts it
        wave = samples.astype(np.float32)
    return wave if fmt[0] == "f" else wave / 2.0 ** (8 * BYTES[fmt] - 1)
