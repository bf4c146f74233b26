"""Labels of a stream: a table with DCASE's columns onset, offset (seconds) and event_label, by commas or tabs."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable
from pathlib import Path

COLUMNS = ("onset", "offset", "event_label")
MAX_CSV_BYTES, MAX_LABELS, MAX_LABEL_CHARS = 16 << 20, 100_000, 200


@dataclasses.dataclass(frozen=True)
class Label:
    """A sound in a stream, in seconds."""

    onset: float
    offset: float
    event_label: str


def read_labels(path: Path, duration_s: float = math.inf) -> list[Label]:
    """A table of COLUMNS, or without a header of three columns in that order -> Labels by onset.

    Other columns are ignored. Raises ValueError that names file and line: no number, a time outside 0 to duration_s.
    """
    rows = _rows(path)
    named = [cell.strip() for cell in rows[0][1]] if rows else []
    if set(COLUMNS) <= set(named):
        rows, at = rows[1:], [named.index(column) for column in COLUMNS]
    elif len(named) == 3 and _is_number(named[0]):
        at = [0, 1, 2]
    else:
        raise ValueError(f"{path} line 1: {str(named)[:100]}: wanted the columns {', '.join(COLUMNS)}")
    if not rows:
        raise ValueError(f"{path} lists no sounds: it has a header and no rows")
    labels = []
    for line, row in rows:
        if len(row) <= max(at):
            raise ValueError(f"{path} line {line}: {len(row)} values, wanted {', '.join(COLUMNS)}")
        onset, offset, name = (row[i].strip() for i in at)
        labels.append(_label(f"{path} line {line}", onset, offset, name, duration_s))
    return sorted(labels, key=lambda label: label.onset)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """-> (line number, cells) of each line that is not empty. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} is {'no file' if path.exists() else 'missing'}: give a table of labels")
    with path.open("rb") as file:
        raw = file.read(MAX_CSV_BYTES + 1)
    if len(raw) > MAX_CSV_BYTES:
        raise ValueError(f"{path} is larger than {MAX_CSV_BYTES >> 20} MB: that is no list of labels")
    try:
        text = raw.decode("utf-8-sig")
        delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text") from error
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: no table ({error}): save it as CSV") from error
    if len(rows) > MAX_LABELS:
        raise ValueError(f"{path} lists {len(rows)} sounds, this takes {MAX_LABELS}: split the stream")
    return rows


def _label(where: str, onset: str, offset: str, name: str, duration_s: float) -> Label:
    for text in (onset, offset):
        if not _is_number(text):
            raise ValueError(f"{where}: {text[:50]!r} is no number of seconds")
    start, end = float(onset), float(offset)
    if not 0 <= start < end:
        raise ValueError(f"{where}: onset {start} s, offset {end} s: wanted 0 <= onset < offset")
    if end > duration_s + 1:
        raise ValueError(f"{where}: offset {end} s, but the stream ends at {duration_s:.2f} s: labels of another one?")
    if not 0 < len(name) <= MAX_LABEL_CHARS:
        raise ValueError(f"{where}: a label of {len(name)} characters, wanted 1 to {MAX_LABEL_CHARS}")
    return Label(start, end, name)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def write_labels(path: Path, labels: Iterable[Label]) -> None:
    """Inverse of `read_labels`, to the millisecond."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([f"{label.onset:.3f}", f"{label.offset:.3f}", label.event_label] for label in labels)
