"""Size of a .tflite or .onnx file, read without an engine: parameters, bytes, MACs, live activations; who counts how.

MACs are the multiply-accumulates of convolutions, matrix products and recurrent cells; everything else counts 0.
Activations are counted layer by layer: at each op, all tensors that are still needed. Batch is 1. "KB" is 1024 bytes.
"""

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from devices.arena import head_bytes
from devices.fused import peak_bytes
from devices.graph import Graph, ModelError, Node, Tensor, read_onnx, read_tflite
from devices.ops import BATCHNORM, PARAMETERS, WEIGHTS, known, macs

__all__ = ["ModelError", "ModelSize", "OpSize", "conventions", "measure_graph", "read_model"]

MAX_BYTES = 512 * 2**20
# What reading broken bytes can raise, beyond ModelError. Listed, so that a bug of another kind still shows itself.
_BROKEN = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError,
           RuntimeError)  # fmt: skip


@dataclass(frozen=True)
class OpSize:
    """One op: shapes of its first input, output and weights (() without any), MACs, parameters, bytes live meanwhile."""

    op: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    macs: int
    parameters: int
    live_bytes: int


@dataclass(frozen=True)
class ModelSize:
    """One model file. parameter_bytes is at the precision of the file; peak_activation_bytes without any scratch.

    flash_bytes: parameters and every other stored array that a device keeps, shapes and axes apart, and the biases that
    a compiled runtime adds where the file has none. arena_bytes: the activations as TFLM lays them out; ONNX: the peak.
    fused_bytes: the peak if convolutions were fused with what stands behind them (`devices.fused`).
    """

    name: str
    format: str  # "tflite" or "onnx"
    precision: str  # type of the weights that the MACs use: "int8", "float32", or "int8+float32" for a mixture
    ops: tuple[OpSize, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    file_bytes: int
    parameters: int
    nonzero_parameters: int
    batchnorm_nonzero: int
    parameter_bytes: int
    flash_bytes: int
    nonzero_bytes: int
    batchnorm_nonzero_bytes: int
    macs: int
    peak_activation_bytes: int
    fused_bytes: int
    arena_bytes: int


def read_model(path: str | Path) -> ModelSize:
    """-> the size of a .tflite or .onnx file, int8 or float. Raises ModelError, one line, for whatever is not one."""
    path = Path(path)
    readers = {".tflite": read_tflite, ".onnx": read_onnx}
    if path.suffix not in readers:
        raise ModelError(f"{path}: a model file ends in .tflite or .onnx")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: {path.stat().st_size} bytes, more than the {MAX_BYTES} read here")
    try:
        data = path.read_bytes()
        return measure_graph(path, len(data), readers[path.suffix](data))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except ImportError as error:
        raise ModelError(f"{path}: reading it needs {error.name}: pip install 'tinyear[export]'") from None
    except ModelError as error:
        said = "".join(
            c for c in " ".join(str(error).split()) if c.isprintable()
        )  # names in a broken file hold anything
        raise ModelError(f"{path}: {said[:300]}") from None
    except _BROKEN as error:
        name = "bytes that point nowhere" if isinstance(error, struct.error) else type(error).__name__
        raise ModelError(f"{path}: damaged or not a model ({name}): copy or export it again") from None


def measure_graph(path: Path, file_bytes: int, graph: Graph) -> ModelSize:
    nodes, stored = _folded(graph)
    if not nodes:
        raise ModelError("the graph has no ops")
    live = _live_bytes(nodes, graph, stored)
    ops = tuple(_op_size(node, graph.tensors, stored, n) for node, n in zip(nodes, live))
    weights = _parameters(nodes, stored, PARAMETERS)
    batchnorm = _parameters(nodes, stored, BATCHNORM)
    heavy = _parameters(nodes, stored, WEIGHTS)
    return ModelSize(
        name=path.name,
        format=path.suffix[1:],
        precision="+".join(sorted({tensor.type for tensor in heavy})) or "none",
        ops=ops,
        input_shapes=tuple(graph.tensors[name].shape for name in graph.inputs),
        file_bytes=file_bytes,
        parameters=sum(tensor.elements for tensor in weights),
        nonzero_parameters=sum(tensor.nonzero for tensor in weights),
        batchnorm_nonzero=sum(tensor.nonzero for tensor in batchnorm),
        parameter_bytes=sum(tensor.bytes for tensor in weights),
        flash_bytes=_flash_bytes(nodes, stored, weights),
        nonzero_bytes=sum(tensor.nonzero * tensor.bits // 8 for tensor in weights),
        batchnorm_nonzero_bytes=sum(tensor.nonzero * tensor.bits // 8 for tensor in batchnorm),
        macs=sum(op.macs for op in ops),
        peak_activation_bytes=max(live),
        fused_bytes=min(max(live), peak_bytes(nodes, graph, stored.keys(), _homes(nodes, graph))),
        arena_bytes=head_bytes(graph) if path.suffix == ".tflite" else max(live),
    )


def _folded(graph: Graph) -> tuple[list[Node], dict[str, Tensor]]:
    """-> the ops that run, and what the file stores, under its own names and those of its mere transforms.

    An op over stored tensors alone (a weight's Dequantize or Transpose) is no work for the device; it is not listed.
    """
    stored = {name: tensor for name, tensor in graph.tensors.items() if tensor.data is not None}
    nodes = []
    for node in graph.nodes:
        given = [name for name in node.inputs if name]
        if given and all(name in stored for name in given):
            stored.update(dict.fromkeys(node.outputs, stored[given[0]]))
        else:
            nodes.append(node)
    return nodes, stored


def _parameters(
    nodes: list[Node], stored: Mapping[str, Tensor], positions: Mapping[str, tuple[int, ...]]
) -> list[Tensor]:
    """Stored tensors at these input positions of these ops; one that several ops share counts once."""
    found = {}
    for node in nodes:
        for i in positions.get(node.op, ()):
            if i < len(node.inputs) and node.inputs[i] in stored:
                tensor = stored[node.inputs[i]]
                found[id(tensor)] = tensor
    return list(found.values())


def _op_size(node: Node, tensors: Mapping[str, Tensor], stored: Mapping[str, Tensor], live_bytes: int) -> OpSize:
    n_macs = macs(node, tensors)
    x = known(node.inputs[0], tensors, node.op).shape if node.inputs else ()
    y = known(node.outputs[0], tensors, node.op).shape
    parameters = sum(tensor.elements for tensor in _parameters([node], stored, PARAMETERS))
    heavy = WEIGHTS.get(node.op, ())
    w = known(node.inputs[heavy[0]], tensors, node.op).shape if heavy else ()
    return OpSize(node.op, x, y, w, n_macs, parameters, live_bytes)


def _flash_bytes(nodes: list[Node], stored: Mapping[str, Tensor], weights: list[Tensor]) -> int:
    """Parameters, and stored operands of other ops (anchors, tables). Wide integers there are shapes and axes.

    An int8 matrix product without a bias gets one of zeros, int32, as X-CUBE-AI stores it.
    """
    found = {id(tensor): tensor for tensor in weights}
    for name in (name for node in nodes for name in node.inputs if name in stored):
        if stored[name].type not in ("int32", "int64"):
            found[id(stored[name])] = stored[name]
    bare = [n for n in nodes if n.op == "FULLY_CONNECTED" and (len(n.inputs) < 3 or n.inputs[2] not in stored)]
    biases = [4 * stored[n.inputs[1]].shape[0] for n in bare if n.inputs[1] in stored and stored[n.inputs[1]].bits == 8]
    return sum(tensor.bytes for tensor in found.values()) + sum(biases)


def _homes(nodes: list[Node], graph: Graph) -> dict[str, str]:
    """Tensors without memory of their own -> where they live: engines run ONNX's Dequantize-op-Quantize as one op."""
    uses = Counter(name for node in nodes for name in node.inputs) + Counter(graph.outputs)
    homes: dict[str, str] = {}
    for node in nodes:
        if node.op == "DequantizeLinear" and node.outputs[0] not in graph.outputs:
            homes[node.outputs[0]] = homes.get(node.inputs[0], node.inputs[0])
        elif node.op == "QuantizeLinear":
            source = node.inputs[0]
            if uses[source] == 1 and source not in homes and source not in graph.inputs:
                homes[source] = node.outputs[0]
    return homes


def _live_bytes(nodes: list[Node], graph: Graph, stored: Mapping[str, Tensor]) -> list[int]:
    """Bytes of activations while each op runs: its inputs, its outputs and whatever a later op still reads."""
    homes = _homes(nodes, graph)
    spans: dict[str, tuple[int, int]] = {}  # tensor -> first and last op that need it
    last = len(nodes) - 1
    everything = [(i, name) for i, node in enumerate(nodes) for name in (*node.inputs, *node.outputs)]
    for i, name in [(0, name) for name in graph.inputs] + everything + [(last, name) for name in graph.outputs]:
        home = homes.get(name, name)
        if name and home not in stored:
            first, end = spans.get(home, (i, i))
            spans[home] = (min(first, i), max(end, i))
    made = {homes.get(name, name) for node in nodes for name in node.outputs} | set(graph.inputs)
    changes = [0] * (len(nodes) + 1)
    for name, (first, end) in spans.items():
        if name not in made:  # the state of a recurrent cell: kept between calls
            first, end = 0, last
        n = known(name, graph.tensors, nodes[first].op).bytes
        changes[first] += n
        changes[end + 1] -= n
    return list(accumulate(changes))[:-1]


# (year, parameters counted, bytes counted, limit, what is limited, limit of MACs or 0, note); Task 1B in 2020
_WITHOUT_BN = ("nonzero_parameters", "batchnorm_nonzero"), ("nonzero_bytes", "batchnorm_nonzero_bytes")
_NONZERO = ("nonzero_parameters",), ("nonzero_bytes",)
_ALL = ("parameters",), ("parameter_bytes",)
_INT8 = ("parameters",), ("parameters",)
_RULES = (
    (2020, *_WITHOUT_BN, 512_000, "bytes", 0, "non-zero parameters without batch normalization, 500 KB"),
    (2021, *_NONZERO, 131_072, "bytes", 0, "non-zero parameters of all layers, batch normalization too, 128 KB"),
    (2022, *_INT8, 128_000, "parameters", 30_000_000, "all parameters, zeros too, as int8: 128 K of them"),
    (2023, *_ALL, 128_000, "bytes", 30_000_000, "all parameters, 128 kB (taken as 128,000 bytes)"),
    (2024, *_ALL, 128_000, "bytes", 30_000_000, "all parameters at any precision, 128 kB; 2025 counts the same"),
)


def conventions(*models: ModelSize) -> list[dict[str, int | str]]:
    """How each DCASE low-complexity task counts these models together: one row a year, with its limit.

    Bytes are at the files' precision (2022: one byte each). The limit of MACs is for one inference over 1 s of
    audio: here it meets one inference of each model, whatever that spans.
    """

    def total(keys: tuple[str, ...]) -> int:
        first, *less = (sum(getattr(model, key) for model in models) for key in keys)
        return first - sum(less)

    n_macs = total(("macs",))
    rows: list[dict[str, int | str]] = []
    for year, count, size, limit, limited, macs_limit, note in _RULES:
        counts = {"parameters": total(count), "bytes": total(size)}
        fits = counts[limited] <= limit and (not macs_limit or n_macs <= macs_limit)
        rows.append({"year": year, **counts, "macs": n_macs, "limit": limit, "of": limited, "macs_limit": macs_limit,
                     "verdict": "fits" if fits else "too big", "note": note})  # fmt: skip
    return rows
