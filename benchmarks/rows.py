"""Published measurements as rows, and the models they were made with as skeletons: all shapes, no weights.

    python -m benchmarks.rows --rows CSV --models DIR     # writes both into benchmarks/data

The skeletons let the benchmark count MACs, memory and flash again without the files, most of which others publish.
"""

import argparse
import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from devices.graph import Graph, Node, Tensor, read_tflite
from devices.size import ModelError, ModelSize, measure_graph, read_model
from runtime import command
from runtime.files import write_text

DATA = Path(__file__).parent / "data"
_KEPT = "system model file board_name core kind clock_mhz ms ram_kib flash_kib source".split()
_RUNTIMES = (  # what a row's system says -> the runtime's name; the first that fits
    ("without esp-nn", "TFLM reference kernels"),
    ("esp-nn", "TFLM + ESP-NN"),
    ("x-linux", "LiteRT + XNNPACK"),
    ("cube", "X-CUBE-AI"),
    ("stedge", "X-CUBE-AI"),
    ("plumerai", "Plumerai"),
    ("hale", "HALE"),
    ("bosch", "HALE"),
    ("microtvm", "microTVM"),
    ("onnc", "ONNC"),
    ("andes", "TFLM + Andes"),
    ("tflm", "TFLM + CMSIS-NN"),
    ("xnnpack", "LiteRT + XNNPACK"),
)
_FAMILIES = (  # part of a file's name -> architecture
    ("_ad_", "dense autoencoder"),
    ("_ic_", "resnet"),
    ("resnet", "resnet"),
    ("kws", "ds-cnn"),
    ("vww", "mobilenet_v1"),
    ("person", "mobilenet_v1"),
    ("mobilenet_v1", "mobilenet_v1"),
    ("mobilenet_v2", "mobilenet_v2"),
)


@dataclass(frozen=True)
class Row:
    """One published figure: ms and clock_mhz are None where it states none."""

    file: str
    board: str
    core: str
    runtime: str
    version: str
    system: str
    kind: str
    clock_mhz: float | None
    ms: float | None
    flash_kib: float | None
    ram_kib: float | None
    source: str

    @property
    def family(self) -> str:
        found = (family for part, family in _FAMILIES if part in self.file)
        return next(found, re.split(r"[_\d.]", self.file)[0])

    @property
    def platform(self) -> tuple[str, str, str, str]:
        """What a profile stands for: board, core, the runtime with its version as published, clock."""
        return self.board, self.core, self.system, str(self.clock_mhz)

    @property
    def cycles(self) -> float:
        assert self.ms is not None and self.clock_mhz is not None
        return self.ms * self.clock_mhz * 1e3


_NEEDED = ("system", "file", "board_name", "core", "kind", "clock_mhz", "ms")


def read(path: Path) -> list[Row]:
    """A CSV with (at least) the columns system, file, board_name, core, kind, clock_mhz, ms -> rows.

    Raises ValueError that names the file, and the line that is too short.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
                raise ValueError(f"{path}: no column {', '.join(missing)}")
            for values in reader:
                if absent := [name for name in _NEEDED if values[name] is None]:
                    raise ValueError(f"{path}, line {reader.line_num}: no {', '.join(absent)}")
                rows.append(_row(values))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV ({error})") from None
    return rows


def _row(values: Mapping[str, str]) -> Row:
    system = values["system"]
    said = system.split(",", 1)[-1] if system.startswith("MLPerf") else system  # MLPerf's own version stands first
    version = re.search(r"\d+\.\d+", said)
    runtime = next((name for part, name in _RUNTIMES if part in system.lower()), said.strip() or system)
    core = re.sub(r"^\d+x", "", values["core"]).split(",")[0].split(" (")[0]
    numbers = {key: _number(values.get(key)) for key in ("clock_mhz", "ms", "flash_kib", "ram_kib")}
    texts = {"file": values["file"], "board": values["board_name"], "core": core, "runtime": runtime, "system": system}
    return Row(**texts, **numbers, kind=values["kind"], version=version.group() if version else "",
               source=values.get("source") or "")  # fmt: skip


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def models() -> dict[str, ModelSize]:
    """File name -> size, of the skeletons that ship."""
    stored = json.loads((DATA / "models.json").read_text(encoding="utf-8"))
    return {name: measure_graph(Path(name), entry["file_bytes"], _graph(entry)) for name, entry in stored.items()}


def models_in(folder: Path) -> tuple[dict[str, ModelSize], dict[str, str]]:
    """-> file name -> size, of every model in a folder, and file name -> why it cannot be counted."""
    sizes, refused = {}, {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".tflite", ".onnx")):
        try:
            sizes[path.name] = read_model(path)
        except ModelError as error:
            refused[path.name] = str(error)
    return sizes, refused


def graphs() -> dict[str, Graph]:
    """File name -> graph, of the skeletons that ship."""
    stored = json.loads((DATA / "models.json").read_text(encoding="utf-8"))
    return {name: _graph(entry) for name, entry in stored.items()}


def _graph(entry: Mapping[str, Any]) -> Graph:
    tensors = {}
    for i, (shape, kind, bits, stored) in enumerate(entry["tensors"]):
        data = np.broadcast_to(np.int8(1), shape) if stored else None  # one byte, however large
        tensors[str(i)] = Tensor(tuple(shape), kind, bits, data)
    nodes = [Node(op, tuple(inputs), tuple(outputs)) for op, inputs, outputs in entry["nodes"]]
    return Graph(tuple(nodes), tensors, tuple(entry["inputs"]), tuple(entry["outputs"]))


def _skeleton(path: Path) -> dict[str, Any]:
    read_model(path)  # raises for what is no model
    graph = read_tflite(path.read_bytes())
    assert list(graph.tensors) == [str(i) for i in range(len(graph.tensors))]
    tensors = [[list(t.shape), t.type, t.bits, int(t.data is not None)] for t in graph.tensors.values()]
    nodes = [[node.op, list(node.inputs), list(node.outputs)] for node in graph.nodes]
    return {"file_bytes": path.stat().st_size, "inputs": list(graph.inputs), "outputs": list(graph.outputs),
            "nodes": nodes, "tensors": tensors}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description="Take over published rows.")
    parser.add_argument("--rows", type=Path, required=True, help="CSV of published measurements")
    parser.add_argument("--models", type=Path, required=True, help="folder of the .tflite files they name")
    args = parser.parse_args()
    read(args.rows)  # raises for what is no table of rows
    with args.rows.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"] and row["kind"] == "cpu"]
    stored = {path.name: _skeleton(path) for path in sorted(args.models.glob("*.tflite"))}
    if not stored:
        raise ValueError(f"{args.models} holds no .tflite file")
    kept = io.StringIO()
    writer = csv.DictWriter(kept, _KEPT, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    DATA.mkdir(exist_ok=True)
    write_text(DATA / "rows.csv", kept.getvalue())
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in stored.items())
    write_text(DATA / "models.json", "{\n" + lines + "\n}\n")


if __name__ == "__main__":
    command.run(main)
