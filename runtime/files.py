"""Files on disk, careful both ways: written whole or not at all, and JSON from strangers ends in one line."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 32 << 20


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> None:
    """write(partial path), then rename: the file is there whole or not at all. A link stays one; a device is written to.

    Raises OSError that names `path`, not the partial file beside it.
    """
    path = Path(path).resolve()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, wanted a file", str(path))
    if path.exists() and not path.is_file():  # renaming would put a file in the place of /dev/full
        write(path)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or f"cannot be written ({error})", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Atomic, UTF-8. Raises OSError as write_atomic does."""
    write_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises ValueError that names the file: too large, no JSON, nested too deeply, no object."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MB")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (no JSON object)")
    return values
