"""What an off-the-shelf converter writes of our nets: onnxruntime's static quantization of our float ONNX file."""

import logging
import string
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

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
