"""Make the recordings that ship: an ESC-10 folder as small Ogg Vorbis.  python -m train.pack SOURCE_DIR --max-mb 15

The finest Vorbis quality that fits is taken. Clips whose licence does not let us pass them on are left out. The same
source gives the same bytes on the same machine.
"""

import argparse
import csv
import io
import os
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import soundfile

from runtime import command
from train.data import RECORDINGS, DataError, load_dataset, load_wave, read_table

SR = 44100  # Hz
QUALITIES = [round(1 - 0.05 * n, 2) for n in range(21)]  # Vorbis quality, finest first
WRITE_FRAMES = 4096  # libsndfile's Vorbis encoder keeps what it is given on the stack: whole clips overflow it
COLUMNS = ("filename", "fold", "target", "category", "clip_id", "take")
CREDITS = ("source_author", "source_title", "source_url", "licence")
LICENCES = {
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY": "https://creativecommons.org/licenses/by/3.0/",
}
ATTRIBUTION = """\
These recordings are {n} of the 400 clips of ESC-10, a part of ESC-50:
K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", Proceedings of the 23rd ACM International
Conference on Multimedia, 2015, doi:10.1145/2733373.2806390. https://github.com/karolpiczak/ESC-50
Its author licenses ESC-10 as a whole under Creative Commons Attribution 3.0 Unported.

Changes made: 5 s at 44.1 kHz, mono, encoded anew as Ogg Vorbis (quality {quality}); names end in .ogg.
Left out, because their licence is another one: {left_out}.

Licences: {licences}

Per clip:
"""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.pack", description=__doc__.split("  ")[0] if __doc__ else None
    )
    parser.add_argument("source", type=Path, help="a folder in the layout of ESC-50, with a licence column")
    parser.add_argument("--out", type=Path, default=RECORDINGS, help="the pack's folder, replaced when all is done")
    parser.add_argument("--max-mb", type=float, default=15, help="the most it may take, in MB of 1024 * 1024 bytes")
    args = parser.parse_args()
    if not 0 < args.max_mb < 1e6:
        raise DataError(f"--max-mb {args.max_mb}: choose more than 0, less than 1000000")
    print(pack(args.source, args.out, max_bytes=int(args.max_mb * 2**20)))


def pack(source: Path, out: Path, max_bytes: int) -> str:
    """Write the pack to `out` in one go; -> one line about it. Raises DataError, AudioError, OSError."""
    _check_out(source, out)
    dataset = load_dataset(source)
    table = source / "meta" / f"{dataset.name}.csv"
    rows = read_table(table, COLUMNS + CREDITS)
    kept = sorted((row for row in rows if row["licence"] in LICENCES), key=lambda row: row["filename"])
    left_out = sorted(f"{row['filename']} ({row['licence']})" for row in rows if row["licence"] not in LICENCES)
    if not kept:
        raise DataError(f"{table}: no clip is {' or '.join(LICENCES)}, so none may be passed on")
    waves = {row["filename"]: load_wave(source / "audio" / row["filename"], SR) for row in kept}
    for quality in QUALITIES:
        texts = {f"meta/{table.name}": _csv(kept), "ATTRIBUTION.txt": _attribution(kept, left_out, quality)}
        audio = _encode(waves, quality, max_bytes - sum(map(len, texts.values())))
        if audio:
            _write(out, texts | audio)
            n_bytes = sum(map(len, (texts | audio).values()))
            return f"{out}: {len(kept)} clips, {n_bytes / 2**20:.2f} MB at quality {quality}; {len(left_out)} left out"
    raise DataError(f"{len(kept)} clips do not fit {max_bytes} bytes at any quality: raise --max-mb")


def _check_out(source: Path, out: Path) -> None:
    """Raises DataError for an `out` that is not ours to replace."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder: choose another")
    if out.is_dir() and any(out.iterdir()) and not (out / "ATTRIBUTION.txt").exists():
        raise DataError(f"{out} holds something that is not a pack: choose another folder")
    if out.resolve() == source.resolve():
        raise DataError(f"{out} is the source itself: encoding it once more loses sound for nothing")


def _ogg_name(name: str) -> str:
    return str(Path(name).with_suffix(".ogg"))


def _encode(waves: dict[str, np.ndarray], quality: float, max_bytes: int) -> dict[str, bytes]:
    """-> {path in the pack: Ogg bytes}, or {} where they do not fit."""
    files, left = {}, max_bytes
    for number, (name, wave) in enumerate(waves.items(), start=1):
        ogg = _set_serial(encode(wave, quality), number)
        n_frames = soundfile.info(io.BytesIO(ogg)).frames
        if n_frames != len(wave):
            raise DataError(f"{name}: {len(wave)} samples became {n_frames} in Vorbis: use another libsndfile")
        left -= len(ogg)
        if left < 0:
            print(f"quality {quality:.2f}: full after {number - 1} of {len(waves)} clips", file=sys.stderr, flush=True)
            return {}
        files[f"audio/{_ogg_name(name)}"] = ogg
    return files


def encode(wave: np.ndarray, quality: float) -> bytes:
    """(samples,) at SR -> the bytes of an Ogg Vorbis file; quality 0 to 1, the finest. Its serial number is random."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", SR, 1, format="OGG", subtype="VORBIS", compression_level=round(1 - quality, 2)
    ) as file:
        for start in range(0, len(wave), WRITE_FRAMES):
            file.write(wave[start : start + WRITE_FRAMES])
    return buffer.getvalue()


def _set_serial(ogg: bytes, serial: int) -> bytes:
    """The same Ogg stream under another serial number: libsndfile draws one, which would make every pack differ."""
    pages, start = [], 0
    while start < len(ogg):
        assert ogg[start : start + 4] == b"OggS", start
        n_segments = ogg[start + 26]
        stop = start + 27 + n_segments + sum(ogg[start + 27 : start + 27 + n_segments])
        page = bytearray(ogg[start:stop])
        page[14:18] = serial.to_bytes(4, "little")
        page[22:26] = bytes(4)  # the checksum counts as zero in itself
        page[22:26] = _ogg_crc(page).to_bytes(4, "little")
        pages.append(bytes(page))
        start = stop
    return b"".join(pages)


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32 is zlib's with the bits of each byte in the other order, started at and finished with zero."""
    crc = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS + CREDITS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"filename": _ogg_name(row["filename"])} for row in rows)
    return text.getvalue().encode()


def _attribution(rows: list[dict[str, str]], left_out: list[str], quality: float) -> bytes:
    text = ATTRIBUTION.format(
        n=len(rows),
        quality=quality,
        left_out=", ".join(left_out) or "none",
        licences=", ".join(f"{name} {url}" for name, url in LICENCES.items()),
    )
    for row in rows:
        text += f'- {_ogg_name(row["filename"])} [{row["category"]}]: derived from "{row["source_title"]}" '
        text += f"({row['source_url']}) by {row['source_author']} [{row['licence']}]\n"
    return text.encode()


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Put a folder of `files` at `out`, all of it or none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pack-") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if out.exists():
            os.rename(out, old)
        try:
            os.rename(new, out)
        except BaseException:
            if old.exists():
                os.rename(old, out)
            raise


if __name__ == "__main__":
    command.run(main, "stopped; nothing was written")
