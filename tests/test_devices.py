"""Sizes counted by hand against devices.size, broken files, profiles, and the report."""

import dataclasses
import json
import subprocess
import sys

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from devices import machine, profile, report, size, work
from devices.board import on_device
from devices.cost import MULTIPLIER, NOISE, Cost
from devices.page import page
from devices.size import ModelError, conventions, read_model
from devices.text import markdown
from runtime import bundle as bundles
from runtime.frontend import Frontend, table_bytes
from runtime.member import file_entry

OPS = schema.BuiltinOperator


def write_tflite(path, tensors, ops, inputs, outputs):
    """tensors: [(shape, numpy type, values or None)], ops: [(builtin code, inputs, outputs)]."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.inputs, graph.outputs, graph.tensors, graph.operators = inputs, outputs, [], []
    for shape, kind, values in tensors:
        tensor = schema.TensorT()
        tensor.shape, tensor.type = list(shape), getattr(schema.TensorType, kind.upper())
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(values, kind).tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
    codes = sorted({code for code, _, _ in ops})
    model.operatorCodes = []
    for code in codes:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
        model.operatorCodes.append(entry)
    for code, ins, outs in ops:
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = codes.index(code), ins, outs
        graph.operators.append(operator)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture
def tiny_tflite(tmp_path):
    """(1,4,4,2) conv 3x3 -> (1,4,4,3), depthwise 3x3 -> (1,4,4,3), fully connected -> (1,5); int8."""
    ones = np.ones
    conv = ones((3, 3, 3, 2))
    conv[0] = 0  # 18 zeros
    tensors = [
        ((1, 4, 4, 2), "int8", None),
        ((3, 3, 3, 2), "int8", conv),
        ((3,), "int32", ones(3)),
        ((1, 4, 4, 3), "int8", None),
        ((1, 3, 3, 3), "int8", ones((1, 3, 3, 3))),
        ((3,), "int32", ones(3)),
        ((1, 4, 4, 3), "int8", None),
        ((5, 48), "int8", ones((5, 48))),
        ((1, 5), "int8", None),
    ]
    ops = [
        (OPS.CONV_2D, [0, 1, 2], [3]),
        (OPS.DEPTHWISE_CONV_2D, [3, 4, 5], [6]),
        (OPS.FULLY_CONNECTED, [6, 7, -1], [8]),
    ]
    return write_tflite(tmp_path / "tiny.tflite", tensors, ops, [0], [8])


def write_onnx(path, nodes, inputs, outputs, weights, kinds=None):
    """nodes: [(op, inputs, outputs, attributes)]; inputs: {name: shape}; weights: {name: array}."""
    kinds = kinds or {}
    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes],
        "g",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    # the version of the format that older engines read too
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def tiny_onnx(tmp_path):
    """(batch,4,8,8) grouped conv 3x3 -> (8,6,6), batch norm, relu, global pool, flatten, Gemm -> 3; float32."""
    f = np.float32
    nodes = [
        ("Conv", ["x", "w", "b"], ["c"], {"group": 2}),
        ("BatchNormalization", ["c", "g", "h", "m", "v"], ["n"], {}),
        ("Relu", ["n"], ["r"], {}),
        ("GlobalAveragePool", ["r"], ["p"], {}),
        ("Flatten", ["p"], ["q"], {}),
        ("Gemm", ["q", "fc", "fb"], ["y"], {"transB": 1}),
    ]
    weights = {"w": np.ones((8, 2, 3, 3), f), "b": np.zeros(8, f), "fc": np.ones((3, 8), f), "fb": np.ones(3, f)}
    weights |= {name: np.ones(8, f) for name in "ghmv"}
    return write_onnx(tmp_path / "tiny.onnx", nodes, {"x": ["batch", 4, 8, 8]}, ["y"], weights)


def test_tflite_by_hand(tiny_tflite):
    model = read_model(tiny_tflite)
    assert [op.macs for op in model.ops] == [48 * 18, 48 * 9, 5 * 48]
    assert [op.parameters for op in model.ops] == [54 + 3, 27 + 3, 240]
    assert [op.live_bytes for op in model.ops] == [32 + 48, 48 + 48, 48 + 5]
    assert (model.parameters, model.nonzero_parameters, model.macs) == (327, 327 - 18, 1536)
    assert model.parameter_bytes == 54 + 12 + 27 + 12 + 240
    assert (model.peak_activation_bytes, model.precision, model.format) == (96, "int8", "tflite")
    assert model.file_bytes == tiny_tflite.stat().st_size
    assert model.ops[0].output_shape == (1, 4, 4, 3)


def test_onnx_by_hand_with_a_dynamic_batch(tiny_onnx):
    model = read_model(tiny_onnx)
    assert model.input_shapes == ((1, 4, 8, 8),)
    assert [op.macs for op in model.ops] == [8 * 36 * 18, 0, 0, 0, 0, 24]
    assert model.parameters == 144 + 8 + 32 + 24 + 3
    assert (model.nonzero_parameters, model.batchnorm_nonzero) == (203, 32)
    assert model.parameter_bytes == 4 * 211
    assert model.peak_activation_bytes == 4 * (288 + 288)  # batch norm: its input and output
    assert model.precision == "float32"


def test_a_skip_connection_stays_live(tmp_path):
    w = np.ones((2, 2, 1, 1), np.float32)
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}),
        ("Conv", ["a", "w"], ["b"], {}),
        ("Conv", ["b", "w"], ["c"], {}),
        ("Add", ["a", "c"], ["y"], {}),
    ]
    model = read_model(write_onnx(tmp_path / "skip.onnx", nodes, {"x": [1, 2, 5, 5]}, ["y"], {"w": w}))
    assert [op.live_bytes for op in model.ops] == [400, 400, 600, 600]
    assert model.parameters == 4  # one tensor that three ops share


@pytest.mark.parametrize(
    ("op", "shape", "weights", "attributes", "macs"),
    [
        ("MatMul", [2, 5, 7], {"w": (7, 3)}, {}, 2 * 5 * 7 * 3),
        ("Gemm", [7, 5], {"w": (7, 3)}, {"transA": 1}, 5 * 7 * 3),
        ("ConvTranspose", [1, 4, 6, 6], {"w": (4, 5, 2, 2)}, {"strides": [2, 2]}, 4 * 36 * 5 * 4),
        ("Conv", [1, 6, 9], {"w": (6, 1, 3)}, {"group": 6}, 6 * 7 * 3),
        ("LSTM", [11, 1, 4], {"w": (2, 24, 4), "r": (2, 24, 6)}, {"hidden_size": 6, "direction": "bidirectional"},
         11 * 2 * 24 * 10),
        ("GRU", [11, 1, 4], {"w": (1, 18, 4), "r": (1, 18, 6)}, {"hidden_size": 6}, 11 * 18 * 10),
    ],
)  # fmt: skip
def test_macs_of_other_ops(tmp_path, op, shape, weights, attributes, macs):
    stored = {name: np.ones(s, np.float32) for name, s in weights.items()}
    path = write_onnx(tmp_path / "op.onnx", [(op, ["x", *weights], ["y"], attributes)], {"x": shape}, ["y"], stored)
    assert read_model(path).macs == macs
    assert read_model(path).parameters == sum(a.size for a in stored.values())


def test_batch_matmul_with_either_side_transposed(tmp_path):
    for a, b in [((1, 4, 6), (1, 6, 5)), ((1, 6, 4), (1, 6, 5)), ((1, 4, 6), (1, 5, 6))]:
        tensors = [(a, "int8", None), (b, "int8", None), ((1, 4, 5), "int8", None)]
        path = write_tflite(tmp_path / "m.tflite", tensors, [(OPS.BATCH_MATMUL, [0, 1], [2])], [0, 1], [2])
        assert read_model(path).macs == 4 * 6 * 5


def test_quantized_onnx_counts_like_its_tflite(tmp_path):
    """uint8 weights: 128 means zero. Dequantize-op-Quantize takes int8 memory, and its weights are the stored ones."""
    w = np.full((3, 2, 3, 3), 128, np.uint8)
    w[1:] = 7
    scale, zero = np.float32(0.1), np.uint8(128)
    weights = {"w": w, "s": scale, "z": zero, "b": np.ones(3, np.int32)}
    nodes = [("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z", "b"], ["y"], {})]
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.UINT8}
    one = read_model(write_onnx(tmp_path / "q.onnx", nodes, {"x": [1, 2, 6, 6]}, ["y"], weights, kinds))
    nodes = [
        ("DequantizeLinear", ["w", "s", "z"], ["wf"], {}),
        ("DequantizeLinear", ["b", "bs"], ["bf"], {}),
        ("DequantizeLinear", ["x", "s", "z"], ["xf"], {}),
        ("Conv", ["xf", "wf", "bf"], ["yf"], {}),
        ("QuantizeLinear", ["yf", "s", "z"], ["y"], {}),
    ]
    weights["bs"] = np.float32(0.01)
    two = read_model(write_onnx(tmp_path / "qdq.onnx", nodes, {"x": [1, 2, 6, 6]}, ["y"], weights, kinds))
    for model in (one, two):
        assert (model.parameters, model.nonzero_parameters, model.parameter_bytes) == (57, 36 + 3, 54 + 12)
        assert (model.macs, model.precision) == (3 * 16 * 18, "uint8")
        assert model.peak_activation_bytes == 72 + 48


def test_half_precision_weights_behind_a_dequantize(tmp_path):
    tensors = [
        ((1, 4), "float32", None),
        ((3, 4), "float16", np.ones((3, 4))),
        ((3, 4), "float32", None),
        ((1, 3), "float32", None),
    ]
    ops = [(OPS.DEQUANTIZE, [1], [2]), (OPS.FULLY_CONNECTED, [0, 2], [3])]
    model = read_model(write_tflite(tmp_path / "half.tflite", tensors, ops, [0], [3]))
    assert (model.parameters, model.parameter_bytes, model.macs, model.precision) == (12, 24, 12, "float16")
    assert model.peak_activation_bytes == 4 * (4 + 3)


def test_conventions_by_hand(tiny_onnx, tiny_tflite):
    rows = {row["year"]: row for row in conventions(read_model(tiny_onnx), read_model(tiny_tflite))}
    assert [rows[year]["parameters"] for year in (2020, 2021, 2022, 2023)] == [480, 512, 538, 538]
    assert rows[2020]["bytes"] == 4 * 171 + (345 - 18)
    assert rows[2021]["bytes"] == 4 * 203 + (345 - 18)
    assert (rows[2022]["bytes"], rows[2024]["bytes"]) == (538, 844 + 345)
    assert {row["verdict"] for row in rows.values()} == {"fits"}
    assert {row["macs"] for row in rows.values()} == {5208 + 1536}


def test_conventions_judge_macs_and_bytes(tmp_path):
    w = np.ones((256, 256, 1, 1), np.float32)  # 65,536 parameters, 262,144 bytes, 65,536 MACs a pixel
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    model = read_model(write_onnx(tmp_path / "big.onnx", nodes, {"x": [1, 256, 22, 22]}, ["y"], {"w": w}))
    assert model.macs == 65_536 * 484
    assert [row["verdict"] for row in conventions(model)] == ["fits", "too big", "too big", "too big", "too big"]


def test_ram_with_fused_layers_by_hand(tmp_path):
    """A convolution and its pool; then a layer of three convolutions over slices, joined and pooled, as CNN-7 has them."""
    int8 = [(shape, "int8", None) for shape in ((1, 4, 4, 2), (1, 4, 4, 6), (1, 2, 2, 6))]
    weights = ((6, 3, 3, 2), "int8", np.ones((6, 3, 3, 2)))
    chain = [(OPS.CONV_2D, [0, 3, -1], [1]), (OPS.MAX_POOL_2D, [1], [2])]
    model = read_model(write_tflite(tmp_path / "pool.tflite", [*int8, weights], chain, [0], [2]))
    assert (model.peak_activation_bytes, model.fused_bytes) == (96 + 32, 32 + 24)
    model = read_model(write_tflite(tmp_path / "read.tflite", [*int8, weights], chain, [0], [1, 2]))
    assert model.fused_bytes == model.peak_activation_bytes == 96 + 32  # its output is asked for: nothing to fuse
    shapes = [(1, 4, 4, 4), (1, 4, 4, 2), (1, 4, 4, 2), *[(1, 4, 4, 2)] * 3, (1, 4, 4, 6), (1, 2, 2, 6)]
    tensors = [(shape, "int8", None) for shape in shapes]
    tensors += [((2, 3, 3, 2), "int8", np.ones((2, 3, 3, 2))), ((2, 1, 1, 4), "int8", np.ones((2, 1, 1, 4)))]
    tensors += [((), "int32", 3)]
    ops = [(OPS.SPLIT, [10, 0], [1, 2]), (OPS.CONV_2D, [1, 8, -1], [3]), (OPS.CONV_2D, [2, 8, -1], [4]),
           (OPS.CONV_2D, [0, 9, -1], [5]), (OPS.CONCATENATION, [3, 4, 5], [6]), (OPS.AVERAGE_POOL_2D, [6], [7])]  # fmt: skip
    model = read_model(write_tflite(tmp_path / "dc.tflite", tensors, ops, [0], [7]))
    assert (model.peak_activation_bytes, model.fused_bytes) == (96 + 96, 64 + 24)


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_ram_with_fused_layers_of_the_shipped_nets(fmt):
    model = read_model(bundles.DEFAULT / f"mel.{fmt}")
    assert (model.peak_activation_bytes, model.fused_bytes) == (1 << 19, 128 * 64 * 16 + 64 * 32 * 32)


def test_one_clear_line_for_what_is_no_model(tmp_path, tiny_tflite, monkeypatch):
    def message(path):
        with pytest.raises(ModelError) as caught:
            read_model(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    assert "no such file" in message(tmp_path / "absent.onnx")
    assert "ends in .tflite or .onnx" in message(tmp_path / "model.pt")
    for name, text in [
        ("a.tflite", b"hello world, not a model"),
        ("a.onnx", b"hello"),
        ("b.tflite", b""),
        ("b.onnx", b""),
    ]:
        (tmp_path / name).write_bytes(text)
        message(tmp_path / name)
    nodes = [("NonMaxSuppression", ["x", "x"], ["y"], {})]
    assert "op NonMaxSuppression" in message(write_onnx(tmp_path / "n.onnx", nodes, {"x": [1, 2, 4]}, ["y"], {}))
    tensors = [((1, 4), "float32", None), ((1, 4), "float32", None)]
    assert "op CUMSUM" in message(write_tflite(tmp_path / "c.tflite", tensors, [(OPS.CUMSUM, [0], [1])], [0], [1]))
    nodes = [("Relu", ["x"], ["y"], {})]
    assert "axis 2 of the input 'x'" in message(write_onnx(tmp_path / "d.onnx", nodes, {"x": [1, 2, "t"]}, ["y"], {}))
    monkeypatch.setattr(size, "MAX_BYTES", 10)
    assert "more than the 10" in message(tiny_tflite)


@pytest.mark.parametrize("fixture", ["tiny_tflite", "tiny_onnx"])
def test_broken_files_raise_only_model_error(fixture, request, tmp_path):
    """Mutated bytes and cut files: a size or a ModelError, never anything else."""
    path = request.getfixturevalue(fixture)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(1)
    broken, refused = tmp_path / f"broken{path.suffix}", 0
    for trial in range(400):
        bytes_ = data.copy()
        at = rng.integers(0, len(data), rng.integers(1, 6))
        bytes_[at] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)], len(at))
        broken.write_bytes(bytes_[: rng.integers(len(data))].tobytes() if trial % 4 == 0 else bytes_.tobytes())
        try:
            read_model(broken)
        except ModelError:
            refused += 1
    assert refused > 50


def test_every_profile_loads():
    """Enough boards, each with links, and an interval that is wider where nothing was measured."""
    assert set(profile.DEFAULTS) <= set(profile.names()) and len(profile.names()) >= 14
    net = np.array([3e6, 3e5, 1e4, 8e4, 2e5, 2e4, 15.0])
    widths = {True: [], False: []}
    for name in profile.names():
        board = profile.load(name)
        low, high = board.latency_ms(net)
        assert 0 < low < board.likely_ms(net) < high
        assert board.measured or "measured: none" in board.source
        assert board.ram_kib <= board.ram_total_kib and all(link.startswith("https://") for link in board.links)
        widths[board.measured].append(high / low)
    assert np.median(widths[False]) > np.median(widths[True])


TOML = (profile.FOLDER / "stm32u5.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz = 160.0", "clock_mhz = 160.0\ncolour = 1", "unknown key colour"),
        ("clock_mhz = 160.0", "", "missing key clock_mhz"),
        ("clock_mhz = 160.0", "clock_mhz = 160000000.0", "clock_mhz = 160000000.0 must lie in 1 .. 10000"),
        ("clock_mhz = 160.0", "clock_mhz = 'fast'", "must be a number"),
        ("clock_mhz = 160.0", "clock_mhz = nan", "must lie in"),
        ("[0.5, 1.6]", "[1.6, 0.5]", "low first"),
        ("[0.5, 1.6]", "1.6", "two numbers"),
        ("cycles = [", "cycles = [-", "must be positive"),
        ("cycles = [", "cycles = [1, ", "wants 7 cycles"),
        ("covariance = [\n  [0", "covariance = [\n  [-9", "covariance is not one"),
        ("known_from", "known", "needs known_from"),
        ("links = [", "links = [1, ", "must be a list of texts"),
        ("measured = true", "measured = 1", "true or false"),
        ("core = ", "core = 3 #", "core = 3 must be a text"),
        ("core = ", "core ", "stm32u5.toml: "),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(old, new, message):
    assert old in TOML
    with pytest.raises(ValueError, match="stm32u5") as caught:
        profile.parse("stm32u5", TOML.replace(old, new, 1))
    assert message in str(caught.value)


def test_latency_and_fit_by_hand():
    board = profile.parse("stm32u5", TOML)  # 160 MHz, RAM 768 KiB of 784, factor 0.5 to 1.6
    sure = dataclasses.replace(board, cost=Cost(np.log([2.0, 6, 3, 24, 2, 16, 4000]), np.zeros((7, 7))))
    low, high = sure.latency_ms(np.array([8e6, 0, 0, 0, 0, 0, 0]))  # 16 M cycles are 100 ms; only noise is left
    assert (low, high) == pytest.approx((100 / np.exp(MULTIPLIER * NOISE), 100 * np.exp(MULTIPLIER * NOISE)))
    assert sure.likely_ms(np.array([0, 1e6, 0, 0, 0, 0, 250])) == pytest.approx((6e6 + 1e6) / 160e3)
    assert board.fit(100 * 1024, 100 * 1024) == ("fits", "flash 100 of 2,048 KiB, RAM 50 to 160 of 768 KiB")
    assert board.fit(100 * 1024, 1024 * 1024) == (
        "may fit", "RAM may not suffice: flash 100 of 2,048 KiB, RAM 512 to 1,638 of 768 KiB")  # fmt: skip
    assert board.fit(100 * 1024, 1600 * 1024)[0] == "does not fit"
    assert board.fit(3000 * 1024, 1024)[1].startswith("not enough flash: ")
    assert board.fit(1024, 1024, duty=(1.1, 2.0))[1].startswith("not enough time: ")
    assert board.fit(1024, 1024, duty=(0.5, 2.0))[0] == "may fit"
    assert board.fit(1024, 1024, 900 * 1024)[1].startswith("not enough RAM: ")


def test_report_of_a_model(tiny_onnx):
    numbers = report.report_dict(tiny_onnx, ["pi-4"], runs=3)
    json.dumps(numbers)
    (model,) = numbers["models"]
    assert (numbers["kind"], model["macs"], model["peak_activation_bytes"]) == ("model", 5208, 2304)
    timed = model["measured"]
    assert 0 < timed["p10_ms"] <= timed["median_ms"] <= timed["p90_ms"] and timed["engine"].startswith("onnxruntime ")
    (board,) = numbers["devices"]
    assert board["estimated_ms"] is None and "int8" in board["source"]  # the profile cannot know about float
    text = report.report_text(numbers)
    assert "5208" in text and "pi-4: fits" in text and "not estimated" in text and "measured on this machine" in text


def test_the_machine_at_hand(tiny_onnx, small_bundle):
    """Its times are the sums of what was measured, and its verdict rests on them."""
    numbers = report.report_dict(small_bundle, [machine.HERE, "pi-4"], runs=3)
    here, pi = numbers["devices"]
    nets = [row for row in numbers["models"] if row["format"] == here["format"]]
    for i, key in enumerate(("p10_ms", "median_ms", "p90_ms")):
        assert here["measured_ms"][i] == pytest.approx(sum(net["measured"][key] for net in nets))
        assert here["measured_ms_per_s"][i] == pytest.approx(
            sum(net["measured"][key] * net["patches_per_s"] for net in nets)
        )
    front = sum(one["measured_ms_per_s"] for one in numbers["product"]["frontends"])
    assert here["duty"][0] == pytest.approx((here["measured_ms_per_s"][0] + front) / 1000)
    assert here["estimated_ms"] is None and pi["measured_ms"] is None and pi["estimated_ms"]
    assert numbers["machine"]["cpu"] in here["board"] or numbers["machine"]["board"] in here["board"]
    assert numbers["machine"]["cores"] >= 1 and here["ram_kib"][1] < numbers["machine"]["ram_kib"]
    text = report.report_text(numbers)
    assert "here: fits" in text and "    measured: " in text and "measured here on " in text
    (unknown,) = report.report_dict(small_bundle, [machine.HERE], runs=0)["devices"]
    assert unknown["verdict"] == "may fit" and "time not known" in unknown["why"]


def test_cores_named_in_cpuinfo():
    x86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\n\nprocessor\t: 1\nmodel name\t: Some CPU @ 2.0GHz\n"
    part = "processor\t: {}\nmodel name\t: ARMv8 Processor rev 3 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    assert machine.cpu_name(x86) == "Some CPU @ 2.0GHz"
    assert machine.cpu_name(part.format(0, "0xd08") + part.format(1, "0xd08")) == "Cortex-A72"  # a Raspberry Pi 4
    assert machine.cpu_name(part.format(0, "0xd05") + part.format(1, "0xd0b")) == "Cortex-A55 + Cortex-A76"
    assert machine.cpu_name(part.format(0, "0x123")) == "Arm part 0x123"
    assert machine.cpu_name("nothing to be seen") == ""


def test_what_cannot_be_said_of_a_board(tiny_onnx, tmp_path):
    """Float nets, nets without weights: one line says why there is no time."""
    relu = write_onnx(tmp_path / "relu.onnx", [("Relu", ["x"], ["y"], {})], {"x": [1, 2]}, ["y"], {})
    for path, sentence in [
        (tiny_onnx, "int8 nets alone, the model is float32"),
        (relu, "no operator of the model has"),
    ]:
        numbers = report.report_dict(path, ["stm32h7"], runs=0)
        (line,) = [line for line in report.report_text(numbers).splitlines() if "not estimated" in line]
        assert sentence in line and sentence in markdown(numbers) and sentence in page(numbers)
        assert "time not known" in numbers["devices"][0]["why"]


def test_an_engine_that_refuses_is_reported(tmp_path):
    """A future version of the format: counted, but the installed engine does not load it."""
    path = write_onnx(tmp_path / "new.onnx", [("Relu", ["x"], ["y"], {})], {"x": [1, 2]}, ["y"], {})
    model = onnx.load(path)
    model.ir_version = 99
    onnx.save(model, path)
    numbers = report.report_dict(path, ["pi-4"], runs=1)
    assert list(numbers["models"][0]["measured"]) == ["error"]
    assert "not estimated" in report.report_text(numbers)


def test_report_estimates_int8(tiny_tflite):
    numbers = report.report_dict(tiny_tflite, ["stm32u5", "rp2040"], runs=0)
    assert numbers["models"][0]["measured"] is None
    u5, pico = numbers["devices"]
    assert u5["estimated_ms"] == pytest.approx(
        profile.load("stm32u5").latency_ms(work.of_model(read_model(tiny_tflite)))
    )
    assert u5["verdict"] == "fits" and u5["measured_board"] and not pico["measured_board"]
    assert pico["estimated_ms"][1] / pico["estimated_ms"][0] > u5["estimated_ms"][1] / u5["estimated_ms"][0]
    text = report.report_text(numbers)
    assert text.splitlines()[0].startswith("stm32u5: fits: ") and "measured: none" in text
    assert "| stm32u5 | fits |" in markdown(numbers)


def test_command_line(tiny_tflite, capsys):
    arguments = [str(tiny_tflite), "--device", "pi-4", "--device", "rp2040", "--runs", "0"]
    assert report.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert [row["device"] for row in numbers["devices"]] == ["pi-4", "rp2040"]
    assert report.main(arguments) == 0
    assert "1536" in capsys.readouterr().out
    assert report.main([*arguments, "--device", "all", "rp2040", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["devices"]) == len(profile.names())
    options = (
        "--device toaster",
        "--device none.toml",
        "--runs -1",
        f"--threads {10**12}",
        "--runs 0 --html no/page.html",
    )
    for wrong in (["absent.tflite"], ["no folder"], *([str(tiny_tflite), *option.split()] for option in options)):
        assert report.main(wrong) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
    assert report.main([str(tiny_tflite), "--device", "toaster"]) == 2
    assert "stm32h7" in capsys.readouterr().err  # the error lists the names


def write_bundle(folder):
    """Two members, mel and gam, hops 620 and 1240; a net is one fully connected layer over a patch of 8 x 16 x 3."""
    w = np.ones((2, 384), np.int8)
    tensors = [((1, 8, 16, 3), "float32", None), ((2, 384), "float32", w), ((1, 2), "float32", None)]
    members = []
    for name, kind, hop in [("mel", "mel", 620), ("gam", "gammatone", 1240)]:
        tflite = write_tflite(folder / f"{name}.tflite", tensors, [(OPS.FULLY_CONNECTED, [0, 1, -1], [2])], [0], [2])
        nodes = [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w"], ["y"], {"transB": 1})]
        inputs = {"x": [1, 3, 8, 16]}
        onnx_ = write_onnx(folder / f"{name}.onnx", nodes, inputs, ["y"], {"w": w.astype(np.float32)})
        frontend = Frontend(kind, hop_length=hop, n_bands=16, fmin=50.0)
        files = {"tflite": file_entry(tflite), "onnx": file_entry(onnx_)}
        statistics = {"mean": np.zeros((3, 16)).tolist(), "std": np.ones((3, 16)).tolist()}
        members.append({"name": name, "frontend": frontend.to_json(), "files": files, **statistics})
    values = {"format": 1, "labels": ["a", "b"], "sr": 44100, "window_s": 2.0, "hop_s": 0.5, "fuse": "prod"}
    values |= {"patch": {"n_frames": 8, "stride": 4}, "members": members, "provenance": {}}
    (folder / "bundle.json").write_text(json.dumps(values))
    return [Frontend.from_json(member["frontend"]) for member in members]


def test_report_of_a_bundle(tmp_path, capsys):
    frontends = write_bundle(tmp_path)
    numbers = report.report_dict(tmp_path, ["stm32u5", "pi-4"], runs=2)
    names = [(m["name"], m["format"]) for m in numbers["models"]]
    assert names == [("mel", "tflite"), ("mel", "onnx"), ("gam", "tflite"), ("gam", "onnx")]
    assert all(m["macs"] == 768 and m["measured"]["median_ms"] > 0 for m in numbers["models"])
    for fmt, sums in numbers["formats"].items():
        assert sums["file_bytes"] == sum(path.stat().st_size for path in tmp_path.glob(f"*.{fmt}"))
        assert (sums["macs"], sums["parameters"], sums["within_budget"]) == (1536, 1536, True)
        assert sums["frontend_bytes"] == sum(table_bytes(frontend) for frontend in frontends)
        assert sums["peak_activation_bytes"] == max(
            m["peak_activation_bytes"] for m in numbers["models"] if m["format"] == fmt
        )
        assert sums["macs_per_s"] == pytest.approx(768 * 44100 / (4 * 620) + 768 * 44100 / (4 * 1240))
    assert numbers["models"][0]["peak_activation_bytes"] == 4 * (384 + 2)
    assert numbers["devices"][0]["format"] == "tflite"
    text = report.report_text(numbers)
    assert sum(line.startswith("all ") for line in text.splitlines()) == 2
    assert report.main([str(tmp_path), "--runs", "0"]) == 0
    capsys.readouterr()
    (tmp_path / "gam.onnx").write_bytes(b"changed")
    assert report.main([str(tmp_path), "--runs", "0"]) == 2
    assert "gam.onnx" in capsys.readouterr().err
    assert report.main([str(tmp_path / "absent")]) == 2


def test_worst_layer_and_duty(tiny_tflite):
    """One net, two patches a second: ms per second is twice ms per patch; the first convolution takes the most."""
    size = read_model(tiny_tflite)
    row = report._row("net", tiny_tflite, size, lambda: None, frontend_bytes=0, patches_per_s=2.0)
    sums = report._format_sums([row])
    frontends = [{"table_bytes": 50_000, "lean_bytes": 2048, "sample_bytes": 1024, "frame_bytes": 512, "work_bytes": 512,
                  "flops_per_s": 1e6}]  # fmt: skip
    found = on_device(profile.load("stm32u5"), [row], sums, "tflite", {"frontends": frontends})
    assert found["estimated_ms_per_s"][1] > found["estimated_ms"][1]
    assert found["duty"] == pytest.approx(
        [(a + b) / 1000 for a, b in zip(found["estimated_ms_per_s"], found["frontend_ms_per_s"])]
    )
    assert (found["table_bytes"], found["buffer_bytes"]) == (2048, 2048)
    assert found["worst_layer"]["op"] == "CONV_2D" and found["worst_layer"]["index"] == 0


def test_importing_the_report_is_light():
    code = "import sys, devices.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "tensorflow", "onnx", "onnxruntime", "ai_edge_litert", "scipy", "train", "export", "compress"}
    assert not heavy & set(done.stdout.split())
