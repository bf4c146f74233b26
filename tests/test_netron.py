"""Netron, whose readers share no code with ours or with an engine's, finds in the files the net that was written."""

import importlib.util
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from random_nets import random_int8

from export.graph import Concat, Pool, shapes
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes

NETRON = importlib.util.find_spec("netron")  # pip install netron
pytestmark = pytest.mark.skipif(
    not (NETRON and NETRON.origin and shutil.which("node")),
    reason="wants node and Netron's sources: pip install netron",
)


def seen_by_netron(*paths):
    assert NETRON and NETRON.origin
    script = Path(__file__).with_name("netron.mjs")
    command = ["node", script, Path(NETRON.origin).parent, *paths]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def net():
    return random_int8((8, 12, 8, 16, 12, 16), True, 32, 48)


def test_netron_reads_the_net_that_was_written(net, tmp_path):
    (tmp_path / "net.tflite").write_bytes(tflite_bytes(net))
    (tmp_path / "net.onnx").write_bytes(onnx_bytes(net))
    result = seen_by_netron(tmp_path / "net.tflite", tmp_path / "net.onnx")
    assert result.returncode == 0, result.stderr
    tflite, onnx = map(json.loads, result.stdout.splitlines())
    convs = [op for op in net.ops if hasattr(op, "weight")]
    grouped = sum(op.weight.shape[1] < shapes(net)[op.src][0] for op in convs)  # written as two in TFLite
    n_concats, n_pools = (sum(isinstance(op, kind) for op in net.ops) for kind in (Concat, Pool))
    nodes = Counter(tflite["nodes"])
    assert tflite["format"] == "TensorFlow Lite v3"
    assert (nodes["Conv2D"], nodes["Concatenation"], nodes["AveragePool2D"]) == (
        len(convs) + grouped, n_concats, n_pools,
    )  # fmt: skip
    assert tflite["ends"] == [[["int8[1,32,48,3]"]], [["int8[1,1,1,10]"]]]
    nodes = Counter(onnx["nodes"])
    assert (nodes["QLinearConv"], nodes["Concat"], nodes["AveragePool"]) == (len(convs), n_concats, n_pools)
    assert onnx["ends"] == [[["float32[1,3,32,48]"]], [["float32[1,10,1,1]"]]]
    first = convs[0].weight.shape
    assert f"int8[{first[0]},3,3,3]" in tflite["stored"] and f"uint8[{first[0]},3,3,3]" in onnx["stored"]


@pytest.mark.parametrize("suffix, write", [("tflite", tflite_bytes), ("onnx", onnx_bytes)])
def test_netron_notices_half_a_file(net, tmp_path, suffix, write):
    data = write(net)
    (tmp_path / f"half.{suffix}").write_bytes(data[: len(data) // 2])
    assert seen_by_netron(tmp_path / f"half.{suffix}").returncode != 0
