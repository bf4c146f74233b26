"""The files: valid, small, readable by the official schemas, and run whole by the engines' fast paths."""

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from random_nets import N_CLASSES, random_int8, random_model, random_patches, torch_logits

from compress.size import fits, parse_bytes
from export.graph import Conv, Graph, Pool, Slice, graph_of, shapes
from export.parity import compare, run_onnx, run_tflite
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime.engine import open_model
from train.cnn7 import WIDTHS_CR, WIDTHS_FULL, WIDTHS_WIDE

SMALL = (8, 12, 8, 16, 12, 16)


@pytest.fixture(scope="module")
def wide():
    return random_int8(WIDTHS_WIDE, True, n_patches=1)


@pytest.mark.parametrize("order", ["paper", "deploy"])
@pytest.mark.parametrize("decomposed", [False, True])
def test_float_files_equal_torch(order, decomposed):
    model, patches = random_model(SMALL, decomposed, order), random_patches(3, 45, 34)
    graph, logits = graph_of(model, (3, 45, 34)), torch_logits(model, patches)
    tflite = tflite_bytes(graph)
    files = {"onnxruntime": run_onnx(onnx_bytes(graph), patches), "xnnpack": run_tflite(tflite, patches)}
    report = compare(logits, files | {"litert reference": run_tflite(tflite, patches, reference=True)}, 1e-5)
    assert all(result["agreement"] == 1 for result in report.values())


def test_three_wide_nets_fit_either_format(wide):
    for write in (tflite_bytes, onnx_bytes):
        assert fits([len(write(wide))] * 3, parse_bytes("128kb"))


def test_three_full_width_nets_fit_as_onnx_only():
    full = random_int8(WIDTHS_FULL, True, n_patches=1)
    assert fits([len(onnx_bytes(full))] * 3, parse_bytes("128kb"))
    assert not fits([len(tflite_bytes(full))] * 3, parse_bytes("128kb"))


def test_description_stays_lean():
    """At most 7.5 KB in TFLite and 4 KB in ONNX; off-the-shelf converters wrote 21 to 59 around the same 11,320 bytes."""
    net = random_int8(WIDTHS_CR, True, n_patches=1)
    numbers = sum(op.weight.nbytes + op.bias.nbytes for op in net.ops if hasattr(op, "weight"))
    assert numbers == 11_320
    assert len(tflite_bytes(net)) - numbers <= 7.5 * 1024 and len(onnx_bytes(net)) - numbers <= 4 * 1024


def test_files_are_reproducible(wide):
    assert tflite_bytes(wide) == tflite_bytes(wide) and onnx_bytes(wide) == onnx_bytes(wide)


def test_onnx_is_standard(wide):
    model = onnx.load_model_from_string(onnx_bytes(wide))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 11)]
    assert {node.domain for node in model.graph.node} == {""}
    ends = [model.graph.input[0], model.graph.output[0]]
    dims = [[dim.dim_value for dim in end.type.tensor_type.shape.dim] for end in ends]
    assert dims == [[1, 3, 128, 128], [1, N_CLASSES, 1, 1]]
    assert all(end.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for end in ends)


def test_onnx_holds_no_signed_weights(wide):
    """uint8 x int8 saturates on x86 without VNNI, silently: see test_int8.py."""
    initializers = onnx.load_model_from_string(onnx_bytes(wide)).graph.initializer
    assert onnx.TensorProto.INT8 not in {tensor.data_type for tensor in initializers}


def test_tflite_obeys_the_schema(wide):
    data = tflite_bytes(wide)
    assert data[4:8] == b"TFL3"
    model = schema.Model.GetRootAs(data, 0)
    assert model.Version() == 3 and model.SubgraphsLength() == 1
    assert model.Buffers(0).DataLength() == 0  # tflite-micro crashes otherwise
    whole = np.frombuffer(data, np.uint8)
    for i in range(1, model.BuffersLength()):
        start = model.Buffers(i).DataAsNumpy().ctypes.data - whole.ctypes.data
        assert start % 16 == 0, f"buffer {i} starts at byte {start}"
    graph = model.Subgraphs(0)
    for i in range(graph.TensorsLength()):
        grid = graph.Tensors(i).Quantization()
        assert grid is None or grid.ScaleLength() == grid.ZeroPointLength() in (1, graph.Tensors(i).Shape(0))


def test_tflite_passes_flatbuffers_own_verifier(wide):
    """LiteRT runs it over what it opens: every offset, length and alignment. Here it says no where one is off."""
    data = bytearray(tflite_bytes(wide))
    Interpreter(model_content=bytes(data))
    root = int.from_bytes(data[:4], "little")
    for wrong in (root + 1, root + len(data)):  # misaligned, outside
        data[:4] = wrong.to_bytes(4, "little")
        with pytest.raises(ValueError, match="not a valid Flatbuffer"):
            Interpreter(model_content=bytes(data))


def test_tflite_states_every_shape(wide):
    """tflite-micro trusts them and XNNPACK skips what has none: each output has the shape that its operator makes."""
    graph = schema.Model.GetRootAs(tflite_bytes(wide), 0).Subgraphs(0)
    stated = [graph.Tensors(i).ShapeAsNumpy().tolist() for i in range(graph.TensorsLength())]
    interpreter = Interpreter(
        model_content=tflite_bytes(wide), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()  # works the shapes out anew
    made = {detail["index"]: detail["shape"].tolist() for detail in interpreter.get_tensor_details()}
    assert made == dict(enumerate(stated))


def test_tflite_writes_no_grouped_convolution(wide):
    """Engines without XNNPACK, tflite-runtime 2.14 among them, take three times as long over one."""
    graph = schema.Model.GetRootAs(tflite_bytes(wide), 0).Subgraphs(0)
    assert any(op.weight.shape[1] < shapes(wide)[op.src][0] for op in wide.ops if hasattr(op, "weight"))
    n_convolutions = 0
    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        inputs = [graph.Tensors(i) for i in operator.InputsAsNumpy()]
        if len(inputs) == 3:  # patches, weight, bias
            assert inputs[0].Shape(3) == inputs[1].Shape(3)
            n_convolutions += 1
    assert n_convolutions == 1 + 5 * 4 + 1


def test_tflite_refuses_what_halving_cannot_cut():
    graph = Graph((6, 4, 4), (Slice(0, 1, 3),))
    with pytest.raises(ValueError, match="channels 1 to 3 of 6 are not found by halving"):
        tflite_bytes(graph)
    weight = np.ones((3, 2, 1, 1), np.float32)
    with pytest.raises(ValueError, match="a convolution in 3 groups"):
        tflite_bytes(Graph((6, 4, 4), (Conv(0, weight, np.zeros(3, np.float32), True),)))


@pytest.mark.parametrize("start, stop", [(0, 8), (0, 4), (4, 8), (2, 4), (4, 6), (7, 8), (0, 1)])
def test_halving_finds_every_half_of_a_half(start, stop):
    graph = Graph((8, 4, 4), (Slice(0, start, stop), Pool(1, (4, 4))))
    patches = np.random.default_rng(0).standard_normal((2, 8, 4, 4)).astype(np.float32)
    exact = patches[:, start:stop].mean((2, 3))
    assert np.abs(run_tflite(tflite_bytes(graph), patches) - exact).max() < 1e-6
    assert np.abs(run_onnx(onnx_bytes(graph), patches) - exact).max() < 1e-6


def test_tflite_ends_are_int8_and_carry_their_grids(wide):
    interpreter = Interpreter(model_content=tflite_bytes(wide))
    for end, number in ((interpreter.get_input_details(), 0), (interpreter.get_output_details(), -1)):
        assert len(end) == 1 and end[0]["dtype"] == np.int8
        assert np.float32(end[0]["quantization"][0]) == wide.scales[number]
        assert end[0]["quantization"][1] == wide.zero_points[number]


def test_xnnpack_takes_everything_between_the_pools(wide):
    """Four int8 average pools part the net into five pieces; an operator it declined would make more."""
    interpreter = Interpreter(model_content=tflite_bytes(wide))
    interpreter.allocate_tensors()
    names = [details["op_name"] for details in interpreter._get_ops_details()]
    assert names.count("AVERAGE_POOL_2D") == 4 and names.count("DELEGATE") == 5


def test_the_runtime_opens_both_files_and_they_agree(wide, tmp_path):
    patches = random_patches(2, 128, 128, seed=5)
    for suffix, write in (("tflite", tflite_bytes), ("onnx", onnx_bytes)):
        (tmp_path / f"net.{suffix}").write_bytes(write(wide))
    tflite, onnx_ = (open_model(tmp_path / f"net.{suffix}")(patches) for suffix in ("tflite", "onnx"))
    assert tflite.shape == (2, N_CLASSES) and np.array_equal(tflite, onnx_)
