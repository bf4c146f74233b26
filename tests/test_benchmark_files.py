"""The benchmark's peers are the same net, and its agreement counts what it says."""

import dataclasses

import numpy as np
import onnx
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


def test_signed_weights_are_the_same_numbers_in_a_few_bytes_more():
    """Measured beside ours and not shipped: x86 without VNNI saturates on them, so this does not run them."""
    ours = onnx_bytes(random_int8((8,) * 6, True, 32, 32))
    signed = converters.signed_weights(ours)
    assert 0 < len(signed) - len(ours) < 64
    centred = []
    for data, dtype in ((ours, np.dtype("uint8")), (signed, np.dtype("int8"))):
        graph = onnx.load_model_from_string(data).graph
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        convs = [node.input for node in graph.node if node.op_type == "QLinearConv"]
        assert {stored[inputs[3]].dtype for inputs in convs} == {stored[inputs[5]].dtype for inputs in convs} == {dtype}
        centred.append([stored[inputs[3]].astype(int) - stored[inputs[5]].astype(int) for inputs in convs])
    assert all(np.array_equal(a, b) for a, b in zip(*centred))


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
