"""Lists of recordings that somebody sent us: comma or tab separated text, read with suspicion."""

import csv
import io
from pathlib import Path

MAX_CSV_BYTES = 64 << 20  # TAU 2022 lists 230,000 clips in 20 MB


class DataError(ValueError):
    """A data set that cannot be used as it lies there: which file, what was found, what to do."""


def read_table(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file with a header, as {column: value}; those in `columns` are filled in every row.

    Line ends may be CRLF, the last one may lack. Raises DataError.
    """
    cells = _cells(path, delimiter)
    found = cells[0] if cells else []
    for column in columns:
        if column not in found:
            raise DataError(f"{path} has no column {column!r} ({_by(delimiter)}: {', '.join(map(repr, found))[:200]})")
    if len(cells) == 1:
        raise DataError(f"{path} lists nothing: it has a header and no rows")
    rows = []
    for line, values in enumerate(cells[1:], start=2):
        row = dict(zip(found, values))
        empty = [column for column in columns if not row.get(column)]
        if empty or len(values) > len(found):
            raise DataError(f"{path} line {line}: {f'no {empty[0]}' if empty else 'more values than columns'}")
        rows.append(row)
    return rows


def read_rows(path: Path, columns: tuple[str, ...], delimiter: str = ",", optional: int = 0) -> list[dict[str, str]]:
    """The rows of a file without a header -> {column: value}; the last `optional` of `columns` may lack. As read_table."""
    cells = _cells(path, delimiter)
    if not cells:
        raise DataError(f"{path} lists nothing: it is empty")
    fewest = len(columns) - optional
    for line, values in enumerate(cells, start=1):
        while not values[-1] and len(values) > 1:
            values.pop()  # a delimiter at the end of the line
        if not fewest <= len(values) <= len(columns) or not all(values):
            wanted = " to ".join(map(str, sorted({fewest, len(columns)})))
            raise DataError(f"{path} line {line}: want {wanted} values ({', '.join(columns)}) {_by(delimiter)}")
    return [dict(zip(columns, values)) for values in cells]


def has_header(path: Path, column: str, delimiter: str) -> bool:
    """Whether the first row names `column`."""
    cells = _cells(path, delimiter)
    return bool(cells) and column in cells[0]


def inside(folder: Path, name: str, table: Path) -> Path:
    """folder / name, unless a table that somebody sent us points elsewhere."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in name or "\0" in name:
        raise DataError(f"{table}: {name!r} points outside {folder}: list the files within it")
    return folder.joinpath(*parts)


def read_text(path: Path) -> str:
    """A text file that somebody sent us. Raises DataError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CSV_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_CSV_BYTES:
        raise DataError(f"{path} is larger than {MAX_CSV_BYTES >> 20} MB: that is no list of clips")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text") from error


def _cells(path: Path, delimiter: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise DataError(f"{path} is no table ({error}): save it as CSV") from error


def _by(delimiter: str) -> str:
    return "by tabs" if delimiter == "\t" else "by commas"
