"""The benchmark's peers are the same net, and its agreement counts what it says."""

import dataclasses

import numpy as np
import pytest
from random_nets import random_int8, random_model, random_patches

from benchmarks import converters, files
from export.graph import graph_of
from export.parity import run_onnx
from export.to_onnx import onnx_bytes


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


def test_agreement_is_of_the_engines(monkeypatch):
    net, patches = random_int8((8,) * 6, True, 32, 32), random_patches(6, 32, 32, seed=1)
    judged = files.agreement(net, patches)
    assert judged["patches"] == 6 and set(judged["steps"].values()) == {0}
    other = dataclasses.replace(net, ops=(*net.ops[:-1], dataclasses.replace(net.ops[-1], bias=net.ops[-1].bias[::-1])))
    right = files.onnx_bytes
    monkeypatch.setattr(files, "onnx_bytes", lambda _: right(other))
    wrong = files.agreement(net, patches)
    assert wrong["steps"]["onnxruntime"] > 0 and wrong["steps"]["XNNPACK"] == 0
