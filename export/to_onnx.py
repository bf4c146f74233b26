"""A Graph or an Int8Net -> the bytes of an ONNX file: standard operators only, float32 in and out.

The int8 form is the operator-oriented one (QLinearConv), between a QuantizeLinear and a DequantizeLinear. Everything
in it is uint8, weights included, with 128 added to number and zero point: x86 processors without VNNI saturate the
sum of two uint8 x int8 products in 16 bits, uint8 x uint8 is exact everywhere.
"""

import string
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph import Concat, Pool, Shift, Slice, groups_of, shapes

OPSET, IR_VERSION = 11, 6  # both of 2019: the oldest with Slice and AveragePool as used here


class _Model:
    """Collects nodes and initializers; equal initializers are stored once, names are as short as they can be."""

    def __init__(self, net):
        self.net, self.shapes, self.is_int8 = net, shapes(net), hasattr(net, "scales")
        self.nodes, self.initializers = [], {}
        self.names = ["patch"]  # by tensor number

    def name(self) -> str:
        """The next unused name, at most two characters long for any net of ours."""
        letters = string.ascii_letters + string.digits
        number = len(self.nodes) + len(self.initializers)
        return letters[number // len(letters)] * (number >= len(letters)) + letters[number % len(letters)]

    def constant(self, array) -> str:
        """-> the name of an initializer."""
        array = np.asarray(array, order="C")  # (ascontiguousarray would make a vector of a scalar)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.initializers:
            data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            name = self.name()
            self.initializers[key] = helper.make_tensor(name, data_type, array.shape, array.tobytes(), raw=True)
        return self.initializers[key].name

    def node(self, op_type, inputs, **attributes) -> str:
        """Appends a node -> the name of its output."""
        output = self.name()
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def grid(self, tensor) -> list[str]:
        """Scale and uint8 zero point of one of the net's tensors."""
        return [self.constant(self.net.scales[tensor]), self.constant(_uint8(self.net.zero_points[tensor]))]

    def conv(self, op, number) -> str:
        """A grouped convolution stays one: onnxruntime runs it as fast as two, and it saves two Slices."""
        kh, kw = op.weight.shape[2:]
        attributes: dict[str, Any] = {} if kh == kw == 1 else {"pads": [kh // 2, kw // 2, kh // 2, kw // 2]}
        if (groups := groups_of(self.shapes[op.src][0], op.weight)) > 1:
            attributes["group"] = groups
        if not self.is_int8:
            inputs = [self.names[op.src], self.constant(op.weight), self.constant(op.bias)]
            y = self.node("Conv", inputs, **attributes)
            return self.node("Relu", [y]) if op.relu else y
        weight = [self.constant(_uint8(op.weight)), self.constant(op.scale), self.constant(np.uint8(128))]
        inputs = [self.names[op.src], *self.grid(op.src), *weight, *self.grid(number), self.constant(op.bias)]
        return self.node("QLinearConv", inputs, **attributes)

    def pool(self, op, number) -> str:
        """The int8 form averages raw numbers; an output scale just under 1 sends halves away from zero, like TFLite."""
        shape = {"kernel_shape": op.kernel, "strides": op.kernel}
        if not self.is_int8:
            return self.node("AveragePool", [self.names[op.src]], **shape)
        raw = [self.constant(np.float32(1)), self.constant(np.uint8(128))]
        # Sums differ by 1, so averages within 1 / (2 count) of a half are halves; 127.5 moves by half of that.
        nudged = self.constant(np.float32(1 - 1 / (512 * op.kernel[0] * op.kernel[1])))
        y = self.node("DequantizeLinear", [self.names[op.src], *raw])
        return self.node("QuantizeLinear", [self.node("AveragePool", [y], **shape), nudged, raw[1]])

    def slice(self, op, number) -> str:
        starts, ends = self.constant(np.array([0, op.start])), self.constant(np.array([1, op.stop]))  # batch, channels
        return self.node("Slice", [self.names[op.src], starts, ends])

    def concat(self, op, number) -> str:
        return self.node("Concat", [self.names[src] for src in op.srcs], axis=1)

    def shift(self, op, number) -> str:
        return self.node("Add", [self.names[op.src], self.constant(op.shift.reshape(1, -1, 1, 1))])

    def write(self) -> None:
        if self.is_int8:
            self.names[0] = self.node("QuantizeLinear", ["patch", *self.grid(0)])
        writers = {Pool: self.pool, Slice: self.slice, Concat: self.concat, Shift: self.shift}
        for number, op in enumerate(self.net.ops, 1):
            self.names.append(writers.get(type(op), self.conv)(op, number))
        if self.is_int8:
            self.node("DequantizeLinear", [self.names[-1], *self.grid(len(self.net.ops))])
        self.nodes[-1].output[0] = "logits"

    def bytes(self) -> bytes:
        patch = helper.make_tensor_value_info("patch", TensorProto.FLOAT, [1, *self.net.in_shape])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, *self.shapes[-1]])
        graph = helper.make_graph(self.nodes, "g", [patch], [logits], list(self.initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def _uint8(int8):
    return (np.asarray(int8, np.int16) + 128).astype(np.uint8)


def onnx_bytes(net) -> bytes:
    """A Graph (float32) or an Int8Net -> a .onnx file: (1, planes, frames, bands) -> (1, n_classes, 1, 1).

    Of a net that decides on every frame: (1, n_classes, frames', 1).
    """
    model = _Model(net)
    model.write()
    return model.bytes()
