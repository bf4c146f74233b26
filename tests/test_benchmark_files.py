"""The benchmark's peers are the same net, and its agreement counts what it says."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from random_nets import random_int8, random_model, random_patches

from benchmarks import converters, files
from export.graph import graph_of
from export.parity import run_onnx, run_tflite
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes


@pytest.mark.parametrize("form", converters.FORMS)
def test_a_stripped_file_computes_the_same_in_fewer_bytes(form):
    graph, patches = graph_of(random_model((8,) * 6, True), (3, 32, 32)), random_patches(4, 32, 32)
    raw = converters.quantized(onnx_bytes(graph), patches, form)
    stripped = converters.stripped(raw)
    assert len(stripped) < 0.9 * len(raw)
    logits = run_onnx(raw, patches)
    assert np.array_equal(run_onnx(stripped, patches), logits)
    exact = run_onnx(onnx_bytes(graph), patches)
    assert np.sqrt(np.mean((logits - exact) ** 2)) < 0.2 * exact.std()


def test_signed_weights_compute_the_same_in_a_few_bytes_more():
    """Measured beside ours; not shipped, since x86 without VNNI saturates on them."""
    net, patches = random_int8((8,) * 6, True, 32, 32), random_patches(4, 32, 32)
    ours = onnx_bytes(net)
    signed = converters.signed_weights(ours)
    assert 0 < len(signed) - len(ours) < 64 and onnx.TensorProto.INT8 in {
        tensor.data_type for tensor in onnx.load_model_from_string(signed).graph.initializer
    }
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact without VNNI too
    session = onnxruntime.InferenceSession(signed, options, providers=["CPUExecutionProvider"])
    logits = np.stack([session.run(None, {"patch": patch[None]})[0].ravel() for patch in patches])
    assert np.array_equal(logits, run_onnx(ours, patches))


@pytest.mark.parametrize("converter", converters.installed())
def test_a_converter_s_file_is_the_same_net_and_ours_the_smaller(converter):
    graph, patches = graph_of(random_model((8,) * 6, True), (3, 32, 32)), random_patches(4, 32, 32)
    raw = converters.tflite_quantized(graph, patches, converter)
    stripped = converters.tflite_stripped(raw)
    assert len(tflite_bytes(files.quantized(graph, patches))) < len(stripped) < len(raw)
    logits, exact = run_tflite(raw, patches), run_onnx(onnx_bytes(graph), patches)
    assert np.array_equal(run_tflite(stripped, patches), logits)
    assert np.sqrt(np.mean((logits - exact) ** 2)) < 0.2 * exact.std()


def test_agreement_is_of_the_engines(monkeypatch):
    net, patches = random_int8((8,) * 6, True, 32, 32), random_patches(6, 32, 32, seed=1)
    judged = files.agreement(net, patches)
    assert judged["patches"] == 6 and set(judged["steps"].values()) == set(judged["logits_off"].values()) == {0}
    other = dataclasses.replace(net, ops=(*net.ops[:-1], dataclasses.replace(net.ops[-1], bias=net.ops[-1].bias[::-1])))
    right = files.onnx_bytes
    monkeypatch.setattr(files, "onnx_bytes", lambda _: right(other))
    wrong = files.agreement(net, patches)
    assert (
        wrong["steps"]["onnxruntime"] > 0 and wrong["logits_off"]["onnxruntime"] > 30 and wrong["steps"]["XNNPACK"] == 0
    )
