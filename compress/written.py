"""A table on disk: as text, as JSON, as a picture."""

import json

from runtime.files import write_atomic, write_text


def write_table(path, text, table, plot):
    """path without suffix -> .txt, .json and .png, by `plot(where, table)`; each whole or not at all. A dot is no suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(f"{path}.txt", text + "\n")
    write_text(f"{path}.json", json.dumps(table, indent=1) + "\n")
    write_atomic(f"{path}.png", lambda partial: plot(partial, table))
