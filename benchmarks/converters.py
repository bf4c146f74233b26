"""What off-the-shelf converters write of our nets, BN already folded: the same convolutions, pools and slices.

onnxruntime quantizes our float ONNX file. tensorflow converts a Keras twin, litert-torch a torch one, where they are
installed: pip install tensorflow-cpu litert-torch.
"""

import contextlib
import importlib.util
import logging
import os
import string
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import flatbuffers
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from export.graph import Concat, Graph, Pool, Slice, groups_of, shapes

TFLITE_CONVERTERS = ("tensorflow", "litert_torch")  # as they are imported
FORMS = {"QDQ": QuantFormat.QDQ, "QOperator": QuantFormat.QOperator}
OPSET = 13  # the first whose DequantizeLinear knows scales per channel


class _Patches(CalibrationDataReader):
    def __init__(self, patches):
        self._feeds = iter([{"patch": patch[None]} for patch in patches])

    def get_next(self):
        return next(self._feeds, None)


def quantized(float_onnx: bytes, patches: np.ndarray, form: str) -> bytes:
    """A float .onnx file's bytes, calibration patches (n, planes, frames, bands), a key of FORMS -> int8 file's bytes.

    Weights int8 per channel; activations uint8: with int8 ones onnxruntime is two to five times slower on x86.
    """
    model = version_converter.convert_version(onnx.load_model_from_string(float_onnx), OPSET)
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing that our graph has no use for
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source, target, _Patches(patches), quant_format=FORMS[form], per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return target.read_bytes()


def installed() -> list[str]:
    """Which of TFLITE_CONVERTERS can be imported here."""
    return [name for name in TFLITE_CONVERTERS if importlib.util.find_spec(name)]


def tflite_quantized(graph: Graph, patches: np.ndarray, converter: str) -> bytes:
    """A float Graph, calibration patches, one of `installed()` -> its int8 .tflite file's bytes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What they say of their own progress is no part of a table or of JSON.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        write = {"tensorflow": _by_tensorflow, "litert_torch": _by_litert_torch}[converter]
        return write(graph, np.ascontiguousarray(patches.transpose(0, 2, 3, 1)))


def _by_tensorflow(graph, channels_last):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(_keras_twin(graph, tf.keras))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([patch[None]] for patch in channels_last)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _keras_twin(graph, keras):
    planes, frames, bands = graph.in_shape
    tensors = [keras.Input((frames, bands, planes), batch_size=1)]
    for op in graph.ops:
        if isinstance(op, Concat):
            y = keras.layers.Concatenate()([tensors[src] for src in op.srcs])
        elif isinstance(op, Slice):
            y = tensors[op.src][..., op.start : op.stop]
        elif isinstance(op, Pool):
            y = keras.layers.AveragePooling2D(op.kernel)(tensors[op.src])
        else:
            n_out, _, *kernel = op.weight.shape
            groups, relu = groups_of(tensors[op.src].shape[-1], op.weight), "relu" if op.relu else None
            layer = keras.layers.Conv2D(n_out, kernel, padding="same", groups=groups, activation=relu)
            y = layer(tensors[op.src])
            layer.set_weights([op.weight.transpose(2, 3, 1, 0), op.bias])
        tensors.append(y)
    return keras.Model(tensors[0], keras.layers.Flatten()(tensors[-1]))


class _TorchTwin(nn.Module):
    def __init__(self, graph):
        super().__init__()
        self.graph, self.channels = graph, [channels for channels, _, _ in shapes(graph)]
        convs = {str(i): op for i, op in enumerate(graph.ops, 1) if hasattr(op, "weight")}
        self.weights = nn.ParameterDict({i: nn.Parameter(torch.from_numpy(op.weight)) for i, op in convs.items()})
        self.biases = nn.ParameterDict({i: nn.Parameter(torch.from_numpy(op.bias)) for i, op in convs.items()})

    def forward(self, x):
        tensors = [x]
        for number, op in enumerate(self.graph.ops, 1):
            if isinstance(op, Concat):
                y = torch.cat([tensors[src] for src in op.srcs], dim=1)
            elif isinstance(op, Slice):
                y = tensors[op.src][:, op.start : op.stop]
            elif isinstance(op, Pool):
                y = F.avg_pool2d(tensors[op.src], op.kernel)
            else:
                weight, bias = self.weights[str(number)], self.biases[str(number)]
                padding, groups = [k // 2 for k in weight.shape[2:]], groups_of(self.channels[op.src], op.weight)
                y = F.conv2d(tensors[op.src], weight, bias, padding=padding, groups=groups)
                y = y.relu() if op.relu else y
            tensors.append(y)
        return tensors[-1].flatten(1)


def _by_litert_torch(graph, channels_last):
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    twin = litert_torch.to_channel_last_io(_TorchTwin(graph).eval(), args=[0])
    with TemporaryDirectory() as folder:
        source, target = str(Path(folder) / "float.tflite"), str(Path(folder) / "int8.tflite")
        litert_torch.convert(twin, (torch.from_numpy(channels_last[:1]),)).export(source)
        ((name, ends),) = Interpreter(model_path=source).get_signature_list().items()
        job = quantizer.Quantizer(source)
        job.load_quantization_recipe(recipe.static_wi8_ai8())
        ranges = job.calibrate({name: [{ends["inputs"][0]: patch[None]} for patch in channels_last]})
        job.quantize(ranges).export_model(target)
        return Path(target).read_bytes()


def tflite_stripped(data: bytes) -> bytes:
    """The same graph without what engines do not read: names, metadata, signatures, ranges, equal buffers."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    model.description = model.metadata = model.metadataBuffer = model.signatureDefs = None
    graph = model.subgraphs[0]
    graph.name = None
    known, numbers = [schema.BufferT()], {b"": 0}  # buffer 0 is empty: it is every activation's
    for tensor in graph.tensors:
        content = model.buffers[tensor.buffer].data
        raw = b"" if content is None else bytes(content)
        if raw not in numbers:
            numbers[raw] = len(known)
            known.append(model.buffers[tensor.buffer])
        tensor.buffer, tensor.name = numbers[raw], None
        if tensor.quantization:
            tensor.quantization.min = tensor.quantization.max = None
    model.buffers = known
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def stripped(data: bytes) -> bytes:
    """The same graph without what engines do not read: long names, documentation, metadata, inner shapes, duplicates."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    for message, fields in ((model, ("producer_name", "producer_version", "doc_string", "metadata_props")),
                            (graph, ("value_info", "doc_string", "metadata_props"))):  # fmt: skip
        for field in fields:
            message.ClearField(field)
    names = _shared(graph)
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        node.input[:] = [_short(names, name) for name in node.input]
        node.output[:] = [_short(names, name) for name in node.output]
    used = {node.domain for node in graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(helper.make_opsetid(entry.domain, entry.version) for entry in imports)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def signed_weights(data: bytes) -> bytes:
    """Our int8 .onnx file with int8 weights in place of uint8 ones: the same numbers wherever products are exact."""
    model = onnx.load_model_from_string(data)
    convs = [node for node in model.graph.node if node.op_type == "QLinearConv"]
    weights = {node.input[3] for node in convs}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            numbers = numpy_helper.to_array(tensor).astype(np.int16) - 128
            tensor.CopyFrom(numpy_helper.from_array(numbers.astype(np.int8), tensor.name))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "_"))
    for node in convs:
        node.input[5] = "_"  # the weights' zero point
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _shared(graph):
    """Keeps one of each group of equal initializers, under a short name. -> {old name: new name}."""
    names = {end.name: end.name for end in (*graph.input, *graph.output)}
    known, kept = {}, []
    for tensor in graph.initializer:
        old = tensor.name
        tensor.name = ""
        key = tensor.SerializeToString()
        if key not in known:
            known[key] = tensor.name = _short(names, old)
            kept.append(tensor)
        names[old] = known[key]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    graph.ClearField("initializer")
    graph.initializer.extend(copies)
    return names


def _short(names, name):
    """names[name], a new one of at most two letters where there is none; an input that is left out has no name."""
    if name and name not in names:
        letters = string.ascii_letters + string.digits
        names[name] = letters[len(names) // len(letters)] + letters[len(names) % len(letters)]
    return names.get(name, "")
