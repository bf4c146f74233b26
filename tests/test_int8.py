"""The integer reference is what every engine computes, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_int8, random_model, random_patches, torch_logits

from export import int8
from export.graph import Concat, Conv, Graph, Pool, Slice, graph_of
from export.parity import check_int8, compare, run_onnx, run_tflite
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from train.cnn7 import WIDTHS_CR, WIDTHS_WIDE

QUARTERS = st.lists(st.integers(1, 6), min_size=6, max_size=6)
DC = st.booleans() | st.lists(st.booleans(), min_size=5, max_size=5)


def engines_agree(net, patches):
    """Every engine is bit for bit the reference of its rounding."""
    report = check_int8(net, tflite_bytes(net), onnx_bytes(net), patches)
    assert all(row["max_diff"] < float(net.scales[-1]) / 4 for row in report.values()), report
    return report


@settings(max_examples=30, deadline=None, derandomize=True)
@given(QUARTERS, DC, st.integers(16, 45), st.integers(16, 45), st.integers(0, 9))
def test_engines_equal_the_reference(quarters, decomposed, frames, bands, seed):
    net = random_int8([4 * n for n in quarters], decomposed, frames, bands, seed)
    engines_agree(net, 2 * random_patches(4, frames, bands, seed + 1))  # louder than the calibration: clamps too


@pytest.mark.parametrize("widths, decomposed", [(WIDTHS_CR, True), (WIDTHS_CR, False), (WIDTHS_WIDE, True)])
def test_engines_equal_the_reference_at_full_size(widths, decomposed):
    net = random_int8(widths, decomposed, n_patches=1)
    report = engines_agree(net, random_patches(1, 128, 128, seed=7))
    assert {name: result["max_diff"] for name, result in report.items()} == dict.fromkeys(report, 0.0)
    assert set(report) == {"litert reference", "xnnpack", "onnxruntime"}


def test_the_two_roundings_stay_close():
    """They differ (or one would do) and by at most 3 steps of the logits."""
    patches = random_patches(12, 48, 48, seed=3)
    net = random_int8(WIDTHS_WIDE, True, 48, 48)
    steps = int8.run(net, patches, "double").astype(int) - int8.run(net, patches, "float32")
    assert 1 <= np.abs(steps).max() <= 3


def one_conv(weight, bias, in_range, relu=True):
    """-> one quantized convolution of 4 x 4 pixels, and the two constant patches it was calibrated on."""
    graph = Graph((weight.shape[1], 4, 4), (Conv(0, weight.astype(np.float32), np.float32(bias), relu),))
    corners = np.stack([np.full(graph.in_shape, edge, np.float32) for edge in in_range])
    return int8.quantize(graph, int8.calibrate(graph, corners)), corners


def logits_per_pixel(net):
    """One more layer so that the net ends in (n, 1, 1): the global average."""
    return int8.Int8Net(
        net.in_shape,
        (*net.ops, Pool(1, (4, 4))),
        np.append(net.scales, net.scales[1]),
        np.append(net.zero_points, net.zero_points[1]),
    )


@pytest.mark.parametrize("cin, kernel", [(32, 1), (128, 1), (64, 3)])
def test_extreme_products_do_not_saturate(cin, kernel):
    """All weights 127, all inputs 255 above their zero point: x86 without VNNI halves this in uint8 x int8."""
    net, corners = one_conv(np.ones((16, cin, kernel, kernel)), np.zeros(16), (0, 1))
    net = logits_per_pixel(net)
    engines_agree(net, corners)
    loud = run_onnx(onnx_bytes(net), corners)[1]
    assert np.allclose(loud, loud[0]) and loud[0] >= (0.6 if kernel == 3 else 0.99) * cin * kernel**2


def test_empty_channels_and_lone_biases():
    """Channels of zeros, of a bias alone, of a bias far larger than its weights, and an ordinary one."""
    weight = np.zeros((5, 4, 3, 3))
    weight[2], weight[3], weight[4] = 1e-7, np.linspace(-1, 1, 36).reshape(4, 3, 3), 1e-20
    net, corners = one_conv(weight, [0, 0.7, 0.3, 0.1, -0.2], (-1, 1))
    patches = np.concatenate([corners, np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 4)).astype(np.float32)])
    net = logits_per_pixel(net)
    engines_agree(net, patches)
    quiet = int8.dequantize(net, int8.run(net, patches))
    step = net.scales[-1]
    assert np.abs(quiet[:, [0, 1, 2, 4]] - [0, 0.7, 0.3, 0]).max() <= step


def test_a_dead_layer_is_zero_not_nan():
    net, corners = one_conv(np.zeros((4, 4, 1, 1)), np.full(4, -1), (-1, 1))
    net = logits_per_pixel(net)
    engines_agree(net, corners)
    assert (int8.run(net, corners) == -128).all()


def test_average_rounds_halves_away_from_zero():
    sums = np.array([-6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6])
    assert int8._average(sums, 4).tolist() == [-2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2]


def test_fixed_point_against_exact_fractions():
    """Each requantizer stays as near the exact product as its roundings allow."""
    rng = np.random.default_rng(0)
    acc = rng.integers(-(2**25), 2**25, (1, 64, 5, 5))
    scale = np.exp(rng.uniform(-9, -2, 64)).astype(np.float32)
    in_scale, out_scale = np.float32(0.031), np.float32(0.27)
    exact = acc * (np.float64(in_scale) * scale / np.float64(out_scale))[:, None, None]
    double = int8._requantize_double(acc, in_scale, scale, out_scale)
    single = int8._requantize_float32(acc, in_scale, scale, out_scale)
    assert np.abs(double - exact).max() < 0.76  # two roundings: 1/2 + 1/4 at worst, when the shift is one
    assert (np.abs(single - exact) <= 0.5 + 3e-7 * np.abs(exact)).all()


def test_behind_a_relu_the_zero_point_is_the_clamp():
    graph = graph_of(random_model(WIDTHS_CR, True), (3, 32, 32))
    net = int8.quantize(graph, int8.calibrate(graph, random_patches(2, 32, 32)))
    assert (net.zero_points[1:-1] == -128).all()


def test_copying_operators_share_their_source_grid():
    net = random_int8((8, 8, 8, 8, 8, 8), True, 32, 32)
    for number, op in enumerate(net.ops, 1):
        for src in op.srcs if isinstance(op, Concat) else (op.src,) if isinstance(op, (Pool, Slice)) else ():
            assert net.scales[src] == net.scales[number] and net.zero_points[src] == net.zero_points[number]


@pytest.mark.parametrize("clip", ["minmax", "mse"])
def test_quantized_is_near_float(clip):
    model, patches = random_model(WIDTHS_WIDE, True), random_patches(12, 48, 48)
    graph = graph_of(model, (3, 48, 48))
    net = int8.quantize(graph, int8.calibrate(graph, patches[:8], clip))
    logits, quantized = torch_logits(model, patches), int8.dequantize(net, int8.run(net, patches))
    assert np.sqrt(np.mean((quantized - logits) ** 2)) < 0.05 * logits.std()


def test_mse_clips_a_lone_outlier():
    graph = Graph((1, 64, 64), (Conv(0, np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32), False),))
    patches = random_patches(64, 64, 64)[:, :1]
    patches[0, 0, 5, 5] = 9
    ranges = {clip: int8.calibrate(graph, patches, clip) for clip in ("minmax", "mse")}
    nets = {clip: int8.quantize(graph, r) for clip, r in ranges.items()}
    errors = {
        clip: np.mean(((int8.quantize_input(n, patches) - float(n.zero_points[0])) * n.scales[0] - patches) ** 2)
        for clip, n in nets.items()
    }
    assert ranges["minmax"][0][1] == 9 and 4 < ranges["mse"][0][1] < 8
    assert errors["mse"] < 0.8 * errors["minmax"]


def test_doors():
    graph = graph_of(random_model((4,) * 6), (3, 16, 16))
    patches = random_patches(1, 16, 16)
    with pytest.raises(ValueError, match="'minmax' or 'mse'"):
        int8.calibrate(graph, patches, "best")
    with pytest.raises(ValueError, match="finite"):
        int8.calibrate(graph, patches * np.nan)
    with pytest.raises(ValueError, match="at least one patch"):
        int8.calibrate(graph, patches[:0])
    with pytest.raises(ValueError, match="ranges for 12 tensors"):
        int8.quantize(graph, [(0, 1)])
    with pytest.raises(ValueError, match="all but constant"):
        int8.quantize(graph, [(-1, 1)] + [(0, 1e-5)] * 11)
    with pytest.raises(ValueError, match="--shape deployed"):
        int8.quantize(graph_of(random_model((4,) * 6, order="paper"), (3, 16, 16)), [])


def test_compare_reports_and_refuses():
    a, b = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.5], [0.5, 0.75]])
    assert compare(a, {"b": b}, 1.5) == {"b": {"max_diff": 1.5, "agreement": 0.5}}
    with pytest.raises(ValueError, match=r"b: logits differ from the reference by 1.5, the bound is 1"):
        compare(a, {"b": b}, 1.0)
    with pytest.raises(ValueError, match="differ from the reference by nan"):
        compare(a, {"b": b * np.nan}, 1.0)
    with pytest.raises(ValueError, match="are"):
        compare(a, {"b": b[:1]}, 1.0)


def test_check_int8_notices_a_wrong_file():
    net, other = (random_int8((8,) * 6, False, 32, 32, seed) for seed in (0, 1))
    with pytest.raises(ValueError, match="onnxruntime: logits differ"):
        check_int8(net, tflite_bytes(net), onnx_bytes(other), random_patches(2, 32, 32))
    assert run_tflite(tflite_bytes(net), random_patches(2, 32, 32)).shape == (2, 10)
