"""A .tflite or .onnx file as one neutral graph: nodes in execution order over named tensors. `size.py` counts on it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np


class ModelError(ValueError):
    """The file is no model that can be counted; the message is one line and names the file."""


@dataclass(frozen=True)
class Tensor:
    """shape in elements, type as in "int8" or "float32", bits per element; data only where the file stores it."""

    shape: tuple[int, ...]
    type: str
    bits: int
    data: np.ndarray | None = None
    zero: int = 0  # the stored value that means 0 (a quantized tensor's zero point)

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return (self.elements * self.bits + 7) // 8

    @property
    def nonzero(self) -> int:
        """Elements that are not 0; all of them where the values are not stored."""
        return self.elements if self.data is None else int(np.count_nonzero(self.data != self.zero))


@dataclass(frozen=True)
class Node:
    """One op: its name in the file's format, and tensor names ("" for an optional input that is left out)."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_NUMPY = {
    **{name: np.dtype(name.lower()) for name in ("FLOAT32", "FLOAT16", "INT32", "UINT8", "INT64", "INT16", "INT8")},
    **{name: np.dtype(name.lower()) for name in ("FLOAT64", "UINT32", "UINT16", "UINT64")},
    "BOOL": np.dtype(np.uint8),
}


def read_tflite(data: bytes) -> Graph:
    """The first subgraph of a .tflite file. May raise whatever broken bytes provoke: `size.read_model` guards it."""
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-not-found,unused-ignore]

    if data[4:8] != b"TFL3":
        raise ModelError("not a TFLite file: its bytes 4 to 8 are not TFL3")
    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    tensors = {str(i): _tflite_tensor(data, model, graph.Tensors(i), types) for i in range(graph.TensorsLength())}
    ops = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return Graph(
        tuple(_tflite_node(model, graph.Operators(i), ops) for i in range(graph.OperatorsLength())),
        tensors,
        tuple(str(graph.Inputs(i)) for i in range(graph.InputsLength())),
        tuple(str(graph.Outputs(i)) for i in range(graph.OutputsLength())),
    )


def _tflite_tensor(data: bytes, model: Any, tensor: Any, types: Mapping[int, str]) -> Tensor:
    name = types[tensor.Type()]
    bits = {"INT4": 4, "UINT4": 4, "INT2": 2}.get(name) or 8 * _NUMPY[name].itemsize
    shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
    if any(n < 0 for n in shape):
        raise ModelError(f"a tensor has the shape {shape}")
    bare = Tensor(shape, name.lower(), bits)
    buffer = model.Buffers(tensor.Buffer())
    if buffer.Offset() > 1:  # large files keep their buffers behind the flatbuffer
        raw = np.frombuffer(data, np.uint8, buffer.Size(), buffer.Offset())
    elif buffer.DataLength():
        raw = buffer.DataAsNumpy()
    else:
        return bare
    if len(raw) < bare.bytes:
        raise ModelError(f"a buffer holds {len(raw)} bytes, its tensor of shape {shape} needs {bare.bytes}")
    values = _unpacked(raw[: bare.bytes], bits, bare.elements) if bits < 8 else raw[: bare.bytes].view(_NUMPY[name])
    quantization = tensor.Quantization()
    zero = int(quantization.ZeroPoint(0)) if quantization is not None and quantization.ZeroPointLength() else 0
    return replace(bare, data=values.reshape(shape), zero=zero)


def _unpacked(raw: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Packed bytes -> (n,) codes of 2 or 4 bits, unsigned: enough to count zeros of symmetric weights."""
    fields = [(raw >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(fields, axis=1).reshape(-1)[:n]


def _tflite_node(model: Any, operator: Any, ops: Mapping[int, str]) -> Node:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # the old one-byte field holds 127 where the code needs more room
    name = ops[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    if name == "CUSTOM":
        name = f"CUSTOM {(code.CustomCode() or b'').decode()}"
    inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
    outputs = [operator.Outputs(i) for i in range(operator.OutputsLength())]
    return Node(name, tuple("" if i < 0 else str(i) for i in inputs), tuple(str(i) for i in outputs))


def read_onnx(data: bytes) -> Graph:
    """The main graph of an .onnx file, shapes inferred, batch 1. Guarded like `read_tflite`."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
        graph = model.graph
        if not graph.node:
            raise ModelError("the graph has no nodes")
        if any(weights.data_location == onnx.TensorProto.EXTERNAL for weights in graph.initializer):
            raise ModelError("its weights lie in a second file: save the model as one file")
        stored = _with_zero_points(graph, dict(_onnx_constants(graph)))
        inputs = [value for value in graph.input if value.name not in stored]
        _fix_batch(inputs)
        for value in graph.output:  # stated shapes may still name the dynamic batch
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (DecodeError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(str(error)) from None
    values = [*inputs, *inferred.value_info, *inferred.output]
    tensors = {value.name: tensor for value in values if (tensor := _onnx_value(value)) is not None}
    return Graph(
        tuple(Node(n.op_type, tuple(n.input), tuple(n.output)) for n in graph.node if n.op_type != "Constant"),
        {**tensors, **stored},
        tuple(value.name for value in inputs),
        tuple(value.name for value in graph.output),
    )


def _onnx_constants(graph: Any) -> Iterator[tuple[str, Tensor]]:
    from onnx import helper, numpy_helper

    stored = [(weights.name, weights) for weights in graph.initializer]
    for node in (node for node in graph.node if node.op_type == "Constant"):
        value = helper.get_attribute_value(node.attribute[0])
        stored.append((node.output[0], value if hasattr(value, "dims") else numpy_helper.from_array(np.array(value))))
    for name, weights in stored:
        yield name, replace(_onnx_type(weights.data_type, tuple(weights.dims)), data=numpy_helper.to_array(weights))


# op -> positions of a stored quantized tensor and of its zero point
_ZERO_POINTS = {
    "DequantizeLinear": (0, 2),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (3, 5)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), (1, 3)),
}


def _with_zero_points(graph: Any, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """uint8 weights mean 0 by 128, or whatever their op says. Per-channel zero points: the first stands for all."""
    for node in graph.node:
        at, zero_at = _ZERO_POINTS.get(node.op_type, (0, len(node.input)))
        if zero_at < len(node.input) and node.input[at] in stored and node.input[zero_at] in stored:
            zeros = stored[node.input[zero_at]].data
            assert zeros is not None
            stored[node.input[at]] = replace(stored[node.input[at]], zero=int(zeros.reshape(-1)[0]))
    return stored


def _onnx_value(value: Any) -> Tensor | None:
    """A value's shape and type, or None where shape inference has found no fixed ones."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return _onnx_type(kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim))


def _onnx_type(code: int, shape: tuple[int, ...]) -> Tensor:
    from onnx import TensorProto

    name = TensorProto.DataType.Name(code)
    bits = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "BFLOAT16": 16}
    name = {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}.get(name, name)
    if any(n < 0 for n in shape):
        raise ModelError(f"a tensor has the shape {shape}")
    return Tensor(shape, name.lower(), bits[name] if name in bits else 8 * _NUMPY[name].itemsize)


def _fix_batch(inputs: list[Any]) -> None:
    """A dynamic first axis becomes 1, in place; any other axis must be fixed."""
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis:
                raise ModelError(f"axis {axis} of the input {value.name!r} has no fixed size")
            dim.dim_value = 1
