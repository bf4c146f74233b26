"""A Graph or an Int8Net -> the bytes of a TFLite file, written from nothing on the official schema.

Slot numbers and enum values below are those of schema.fbs (version 3). What keeps the file small: no names but the
input's and the output's, no metadata, and equal vectors and tables stored once.
"""

import flatbuffers
import numpy as np

from export.graph import Concat, Pool, Shift, Slice, groups_of, shapes

ADD, AVERAGE_POOL_2D, CONCATENATION, CONV_2D, SPLIT = 0, 1, 2, 3, 49  # BuiltinOperator
CONV_OPTIONS, POOL_OPTIONS, CONCAT_OPTIONS, ADD_OPTIONS, SPLIT_OPTIONS = 1, 5, 10, 11, 35  # BuiltinOptions
TENSOR_TYPE = {"float32": 0, "int32": 2, "int8": 9}
SAME, VALID = 0, 1  # Padding
RELU = 1  # ActivationFunctionType
ALIGNMENT = 16  # of every buffer, as the schema wants


class _Writer:
    """A flatbuffers builder that stores equal vectors and equal tables once."""

    def __init__(self):
        self.builder = flatbuffers.Builder(1 << 16)
        self.known = {}

    def once(self, key, write):
        if key not in self.known:
            self.known[key] = write()
        return self.known[key]

    def vector(self, values, dtype) -> int:
        array = np.ascontiguousarray(values, dtype)
        return self.once((dtype, array.tobytes()), lambda: self.builder.CreateNumpyVector(array))

    def data(self, array) -> int:
        """A buffer's bytes; Prep puts their first one on a multiple of 16."""
        raw = np.ascontiguousarray(array).tobytes()

        def write():
            self.builder.Prep(ALIGNMENT, len(raw))
            return self.builder.CreateByteVector(raw)

        return self.once(("data", raw), write)

    def offsets(self, offsets) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def table(self, *fields) -> int:
        """fields: (slot, kind, value), kind one of Int8, Uint8, Int32, Uint32, UOffsetTRelative."""

        def write():
            self.builder.StartObject(max((slot for slot, _, _ in fields), default=-1) + 1)
            for slot, kind, value in fields:
                getattr(self.builder, f"Prepend{kind}Slot")(slot, value, 0)
            return self.builder.EndObject()

        return self.once(fields, write)


class _Model:
    """Collects buffers, tensors and operators. A tensor of the net is one tensor of the file, or two side by side."""

    def __init__(self, net):
        self.net, self.shapes, self.out = net, shapes(net), _Writer()
        self.buffers = [self.out.table()]  # buffer 0 stays empty: it is every activation's, and tflite-micro insists
        self.tensors, self.operators, self.codes = [], [], []
        self.is_int8 = hasattr(net, "scales")
        self.halves_of = {}
        self.pieces = [[self.activation(0, self.shapes[0][0], "patch")]]  # by tensor of the net

    def activation(self, number, channels, name=None) -> int:
        """A new tensor of the file: `channels` of the net's tensor `number`."""
        _, frames, bands = self.shapes[number]
        net = self.net
        grid = self.quantization([net.scales[number]], [net.zero_points[number]]) if self.is_int8 else None
        return self.tensor((1, frames, bands, channels), "int8" if self.is_int8 else "float32", 0, grid, name)

    def quantization(self, scales, zero_points) -> int:
        """One grid, or one per output channel (dimension 0 of a weight, the schema's default)."""
        scale, zero_point = self.out.vector(scales, np.float32), self.out.vector(zero_points, np.int64)
        return self.out.table((2, "UOffsetTRelative", scale), (3, "UOffsetTRelative", zero_point))

    def tensor(self, shape, dtype, buffer, quantization=None, name=None) -> int:
        fields = [
            (0, "UOffsetTRelative", self.out.vector(shape, np.int32)),
            (1, "Int8", TENSOR_TYPE[dtype]),
            (2, "Uint32", buffer),
        ]
        if name:
            fields.append((3, "UOffsetTRelative", self.out.builder.CreateString(name)))
        if quantization:
            fields.append((4, "UOffsetTRelative", quantization))
        self.tensors.append(self.out.table(*fields))
        return len(self.tensors) - 1

    def constant(self, array, quantization=None) -> int:
        """-> the number of a tensor with these values; equal ones are one."""
        buffer = self.out.table((0, "UOffsetTRelative", self.out.data(array)))
        if buffer not in self.buffers:
            self.buffers.append(buffer)
        arguments = (array.shape, array.dtype.name, self.buffers.index(buffer), quantization)
        return self.out.once(arguments, lambda: self.tensor(*arguments))

    def operator(self, code, inputs, outputs, options=None) -> None:
        """options: (BuiltinOptions number, table)."""
        if code not in self.codes:
            self.codes.append(code)
        fields = [
            (0, "Uint32", self.codes.index(code)),
            (1, "UOffsetTRelative", self.out.vector(inputs, np.int32)),
            (2, "UOffsetTRelative", self.out.vector(outputs, np.int32)),
        ]
        if options:
            fields += [(3, "Uint8", options[0]), (4, "UOffsetTRelative", options[1])]
        self.operators.append(self.out.table(*fields))

    def whole(self, number) -> int:
        """The one tensor of the file that is the net's tensor `number`."""
        (tensor,) = self.pieces[number]
        return tensor

    def halves(self, number, tensor, channels) -> list[int]:
        """The two halves of `tensor`, which holds `channels` of the net's tensor `number`: one SPLIT, written once."""
        if tensor not in self.halves_of:
            outputs = self.halves_of[tensor] = [self.activation(number, channels // 2) for _ in range(2)]
            options = (SPLIT_OPTIONS, self.out.table((0, "Int32", 2)))
            self.operator(SPLIT, [self.constant(np.array(3, np.int32)), tensor], outputs, options)
        return self.halves_of[tensor]

    def conv(self, op, name) -> list[int]:
        """A grouped convolution is written as two: engines without XNNPACK run grouped ones three times as slow."""
        channels, n_out = self.shapes[op.src][0], len(op.weight)
        groups = groups_of(channels, op.weight)
        if groups == 1:
            return [self.dense(op, self.whole(op.src), slice(n_out), name)]
        if groups > 2:
            raise ValueError(f"a convolution in {groups} groups has no form here: 1 and 2 have")
        halves = self.halves(op.src, self.whole(op.src), channels)
        rows = slice(n_out // 2), slice(n_out // 2, n_out)
        return [self.dense(op, half, row) for half, row in zip(halves, rows)]

    def dense(self, op, src, rows, name=None) -> int:
        """The convolution of some output channels. -> its output."""
        # The bias points at its filter's scales, not at input scale x filter scale: engines want a vector of this
        # length and use none of its values (1.3 KB less).
        n_out, number = len(op.weight[rows]), len(self.pieces)
        grid = self.quantization(op.scale[rows], np.zeros(n_out)) if self.is_int8 else None
        weight = self.constant(np.ascontiguousarray(op.weight[rows].transpose(0, 2, 3, 1)), grid)
        bias = self.constant(op.bias[rows], grid)
        activation = 0 if self.is_int8 or not op.relu else RELU
        options = self.out.table((0, "Int8", SAME), (1, "Int32", 1), (2, "Int32", 1), (3, "Int8", activation))
        output = self.activation(number, n_out, name)
        self.operator(CONV_2D, [src, weight, bias], [output], (CONV_OPTIONS, options))
        return output

    def pool(self, op, name) -> list[int]:
        (h, w), table = op.kernel, self.out.table
        options = table((0, "Int8", VALID), (1, "Int32", w), (2, "Int32", h), (3, "Int32", w), (4, "Int32", h))
        return self.simple(AVERAGE_POOL_2D, [self.whole(op.src)], name, (POOL_OPTIONS, options))

    def slice(self, op, name) -> list[int]:
        """By halving: two numbers and a shared axis describe a SPLIT, a SLICE brings two vectors of its own."""
        tensor, (channels, _, _), start, stop = self.whole(op.src), self.shapes[op.src], op.start, op.stop
        while (start, stop) != (0, channels):
            half = channels // 2
            if channels % 2 or start < half < stop:
                raise ValueError(
                    f"channels {op.start} to {op.stop} of {self.shapes[op.src][0]} are not found by halving"
                )
            tensor = self.halves(op.src, tensor, channels)[start >= half]
            start, stop, channels = start % half, (stop - 1) % half + 1, half
        return [tensor]

    def concat(self, op, name) -> list[int]:
        inputs = [tensor for src in op.srcs for tensor in self.pieces[src]]
        return self.simple(CONCATENATION, inputs, name, (CONCAT_OPTIONS, self.out.table((0, "Int32", 3))))

    def shift(self, op, name) -> list[int]:
        inputs = [self.whole(op.src), self.constant(op.shift.reshape(1, 1, 1, -1))]
        return self.simple(ADD, inputs, name, (ADD_OPTIONS, self.out.table()))

    def simple(self, code, inputs, name, options) -> list[int]:
        """An operator whose one output is the next tensor of the net."""
        number = len(self.pieces)
        output = self.activation(number, self.shapes[number][0], name)
        self.operator(code, inputs, [output], options)
        return [output]

    def write(self) -> None:
        writers = {Pool: self.pool, Slice: self.slice, Concat: self.concat, Shift: self.shift}
        for number, op in enumerate(self.net.ops, 1):
            name = "logits" if number == len(self.net.ops) else None
            self.pieces.append(writers.get(type(op), self.conv)(op, name))

    def bytes(self) -> bytes:
        out, ref = self.out, "UOffsetTRelative"
        # Codes beyond 127 would need care in slot 0, which old readers use; ours are small.
        codes = out.offsets([out.table((0, "Int8", code), (3, "Int32", code)) for code in self.codes])
        tensors, operators = out.offsets(self.tensors), out.offsets(self.operators)
        inputs, outputs = out.vector([0], np.int32), out.vector([self.whole(-1)], np.int32)
        subgraph = out.table((0, ref, tensors), (1, ref, inputs), (2, ref, outputs), (3, ref, operators))
        subgraphs, buffers = out.offsets([subgraph]), out.offsets(self.buffers)
        model = out.table((0, "Uint32", 3), (1, ref, codes), (2, ref, subgraphs), (4, ref, buffers))
        out.builder.Finish(model, b"TFL3")
        return bytes(out.builder.Output())


def tflite_bytes(net) -> bytes:
    """A Graph (float32) or an Int8Net (int8 input and output) -> a .tflite file.

    Input (1, frames, bands, planes), output (1, 1, 1, n_classes), or (1, frames', 1, n_classes) of a net that decides on
    every frame: the fully connected layer is a 1x1 CONV_2D. The grids of the int8 input and output are in the file's
    quantization tables.
    """
    model = _Model(net)
    model.write()
    return model.bytes()
