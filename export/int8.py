"""The quantized net as numbers, and what an engine must compute from them.

The TFLite int8 scheme: weights symmetric with one scale per output channel, biases int32 in units of input scale x
weight scale, one scale and zero point per activation tensor. Behind a ReLU the zero point is -128, so the clamp to
int8 is the ReLU. Pools, slices and concatenations copy numbers, so all their tensors share one scale.
Every writer starts from an Int8Net, so the files agree with each other and with `run`.
"""

from dataclasses import dataclass

import numpy as np

from export.graph import Concat, Graph, Pool, Shift, Slice, activations, check_patches, convolve, logits_of, window_sums

MAX_BIAS = 2**30  # leaves as much again for the products: 9 x 128 channels x 255 x 127 is under 2^26
N_SAMPLES = 4096  # values of one tensor and patch that the clipping rule looks at


@dataclass(frozen=True, eq=False)
class Int8Conv:
    """Stride 1, padded with the input's zero point; its ReLU, if any, is the zero point of its output."""

    src: int
    weight: np.ndarray  # (out, in / groups, kernel frames, kernel bands), int8, never -128
    bias: np.ndarray  # (out,), int32
    scale: np.ndarray  # (out,), float32, of the weights


@dataclass(frozen=True, eq=False)
class Int8Net:
    """ops as in export.graph, each Conv an Int8Conv; scales and zero points by tensor number."""

    in_shape: tuple[int, int, int]  # (planes, frames, bands)
    ops: tuple
    scales: np.ndarray  # (tensors,), float32
    zero_points: np.ndarray  # (tensors,), int8


def calibrate(graph: Graph, patches: np.ndarray, clip: str = "minmax", batch: int = 8) -> list[tuple[float, float]]:
    """Patches (n, planes, frames, bands) -> the range (low, high) of every tensor of the graph.

    clip "minmax" keeps the true extremes; "mse" narrows each range, the logits' apart, to the one that an
    eight-bit grid serves with the smallest mean squared error, clipping included.
    """
    if clip not in ("minmax", "mse"):
        raise ValueError(f"clip is {clip!r}, want 'minmax' or 'mse'")
    check_patches(graph, patches)
    if not len(patches) or not np.isfinite(patches).all():
        raise ValueError(f"calibration wants at least one patch and only finite values, got {np.shape(patches)}")
    n_tensors = len(graph.ops) + 1
    low, high = np.zeros(n_tensors), np.zeros(n_tensors)
    samples: list[list] = [[] for _ in range(n_tensors)]
    for start in range(0, len(patches), batch):
        for i, tensor in enumerate(activations(graph, patches[start : start + batch])):
            low[i], high[i] = min(low[i], tensor.min()), max(high[i], tensor.max())
            samples[i].append(tensor.ravel()[:: max(1, tensor.size // (len(tensor) * N_SAMPLES))].copy())
    ranges = [(float(a), float(b)) for a, b in zip(low, high)]
    if clip == "mse":
        ranges[:-1] = [_clipped(np.concatenate(s), *r) for s, r in zip(samples[:-1], ranges[:-1])]
    return ranges


def _clipped(values, low, high):
    """The range, a fraction of (low, high), with the smallest mean squared error on a grid of 256 steps."""

    def error(fraction):
        a, step = low * fraction, max((high - low) * fraction / 255, 1e-30)
        return np.mean((np.clip(np.rint((values - a) / step), 0, 255) * step + a - values) ** 2)

    fraction = min(np.linspace(1, 0.2, 41), key=error)
    return low * fraction, high * fraction


def quantize(graph: Graph, ranges) -> Int8Net:
    """A float graph and the range (low, high) of each of its tensors -> Int8Net."""
    if any(isinstance(op, Shift) for op in graph.ops):
        raise ValueError(
            "a BN in front of a padded convolution has no int8 form: export it with --float, or train with --shape deployed"
        )
    if len(ranges) != len(graph.ops) + 1:
        raise ValueError(f"{len(ranges)} ranges for {len(graph.ops) + 1} tensors")
    grids = [_grid(*ranges[owner]) for owner in _owners(graph.ops)]
    scales = np.array([scale for scale, _ in grids], np.float32)
    ops = []
    for op, out_scale in zip(graph.ops, scales[1:]):
        ops.append(_quantize_conv(op, scales[op.src], out_scale) if hasattr(op, "weight") else op)
    zero_points = np.array([zero_point for _, zero_point in grids], np.int8)
    return Int8Net(graph.in_shape, tuple(ops), scales, zero_points)


def _owners(ops):
    """Whose range each tensor uses: a pool or slice its source's, a convolution that of the concatenation it feeds."""
    owners = list(range(len(ops) + 1))
    for i, op in enumerate(ops, 1):
        if isinstance(op, (Pool, Slice)):
            owners[i] = owners[op.src]
        elif isinstance(op, Concat):
            assert all(hasattr(ops[src - 1], "weight") for src in op.srcs)
            for src in op.srcs:
                owners[src] = i
    return owners


def _grid(low, high):
    """Range -> (float32 scale, zero point) of 256 steps that hold 0 exactly, as padding and ReLU need."""
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"({low}, {high}) is not a range")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) if high - low > 1e-6 else np.float32(1 / 255)  # else: a dead tensor
    return scale, int(np.clip(np.rint(-128 - low / scale), -128, 127))


def weight_scales(weight: np.ndarray, bias: np.ndarray, in_scale, out_scale) -> np.ndarray:
    """Float weight (out, ...) and bias (out,) -> (out,) float32: 127 steps to each channel's largest weight.

    A channel is coarser where its bias asks for it.
    """
    unit = float(in_scale)
    largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(1)
    # MAX_BIAS from both sides: the bias fits its int32, and the multiplier of a channel without weights is no smaller
    # than 1 / MAX_BIAS, which every requantizer can hold.
    scale = np.maximum(largest / 127, np.abs(bias) / (unit * MAX_BIAS))
    return np.maximum(scale, float(out_scale) / (unit * MAX_BIAS)).astype(np.float32)


def _quantize_conv(op, in_scale, out_scale):
    unit, scale = float(in_scale), weight_scales(op.weight, op.bias, in_scale, out_scale)
    if unit * scale.max() > out_scale / 2:
        raise ValueError(
            f"a convolution's outputs, in steps of {out_scale:.3g}, are all but constant: calibrate on data"
        )
    weight = np.rint(op.weight.astype(np.float64) / scale[:, None, None, None])
    weight = np.clip(weight, -127, 127).astype(np.int8)
    bias = np.rint(op.bias / (unit * scale.astype(np.float64)))
    return Int8Conv(op.src, weight, np.clip(bias, -MAX_BIAS, MAX_BIAS).astype(np.int32), scale)


def quantize_input(net: Int8Net, x: np.ndarray) -> np.ndarray:
    """Float patches -> int8, halves to even, as an engine's QuantizeLinear does."""
    return np.clip(np.rint(x / net.scales[0]) + int(net.zero_points[0]), -128, 127).astype(np.int8)


def run(net: Int8Net, x: np.ndarray, rounding: str = "double") -> np.ndarray:
    """Patches (n, planes, frames, bands), float or int8 -> int8 logits, (n, n_classes): the integer reference.

    Of a net that decides on every frame: (n, frames', n_classes).

    rounding "double" predicts LiteRT's reference kernels and tflite-micro, "float32" XNNPACK and onnxruntime.
    The logits as floats are `dequantize(net, ...)`.
    """
    if rounding not in ("double", "float32"):
        raise ValueError(f"rounding is {rounding!r}, want 'double' or 'float32'")
    check_patches(net, x)
    requantize = _requantize_double if rounding == "double" else _requantize_float32
    quantized = x if x.dtype == np.int8 else quantize_input(net, x)
    # One patch at a time: its tensors stay in the processor's cache, half the time of a batch.
    logits = [_run_patch(net, patch[None], requantize) for patch in quantized]
    return np.concatenate(logits) if logits else np.zeros((0, len(net.ops[-1].weight)), np.int8)


def _run_patch(net, patch, requantize):
    tensors = [patch]
    for number, op in enumerate(net.ops, 1):
        if isinstance(op, Concat):
            y = np.concatenate([tensors[src] for src in op.srcs], axis=1)
        elif isinstance(op, Slice):
            y = tensors[op.src][:, op.start : op.stop]
        elif isinstance(op, Pool):
            y = _average(window_sums(tensors[op.src].astype(np.int64), op.kernel), op.kernel[0] * op.kernel[1])
        else:
            acc = _accumulate(tensors[op.src], net.zero_points[op.src], op)
            y = requantize(acc, net.scales[op.src], op.scale, net.scales[number]) + net.zero_points[number]
        tensors.append(np.clip(y, -128, 127).astype(np.int8))
    return logits_of(tensors[-1])


def _accumulate(x, zero_point, op):
    """int8 input -> int64 sums of products and bias, (n, out, frames, bands); every sum is exact in the float used."""
    largest = 255 * np.abs(op.weight.astype(np.int64)).reshape(len(op.weight), -1).sum(1).max()
    dtype = np.float32 if largest < 2**24 else np.float64
    products = convolve(x.astype(dtype) - dtype(zero_point), op.weight.astype(dtype))
    return products.astype(np.int64) + op.bias[:, None, None]


def dequantize(net: Int8Net, logits: np.ndarray) -> np.ndarray:
    """int8 logits -> float32 logits."""
    return (logits.astype(np.float32) - np.float32(net.zero_points[-1])) * net.scales[-1]


def _average(sums, count):
    """Mean of raw int8 numbers (zero point included), halves away from zero: LiteRT's and tflite-micro's rule."""
    return np.sign(sums) * ((np.abs(sums) + count // 2) // count)


def _requantize_double(acc, in_scale, weight_scale, out_scale):
    """Fixed point with two roundings: product with a 31-bit mantissa, halves up; then the shift, halves away from 0."""
    mantissa, exponent = np.frexp(np.float64(in_scale) * weight_scale.astype(np.float64) / np.float64(out_scale))
    mantissa = np.floor(mantissa * 2.0**31 + 0.5).astype(np.int64)
    carried = mantissa == 2**31
    mantissa, exponent = np.where(carried, 2**30, mantissa), exponent + carried
    right = -exponent[:, None, None]  # 0 to 30: `quantize` keeps the multiplier in [2^-30, 1)
    high = (acc * mantissa[:, None, None] + 2**30) >> 31
    remainder = high & ((1 << right) - 1)
    return (high >> right) + (remainder > ((1 << right) - 1 >> 1) + (high < 0))


def _requantize_float32(acc, in_scale, weight_scale, out_scale):
    """One float32 product, halves to even."""
    scale = (in_scale * weight_scale / out_scale).astype(np.float32)[:, None, None]
    return np.rint(acc.astype(np.float32) * scale).astype(np.int64)
