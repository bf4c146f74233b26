"""A float graph made fit for int8: the same net to float rounding, and nearer to itself once it is quantized.

Most of what int8 costs a CNN-7 it costs at the global pool. Engines average on the grid of the pool's input, so 128
averages, a tenth of the peaks, are rounded to a few steps each (LOG.md). Two cures after training, both of Nagel et
al. 2019 (arXiv:1906.04721): cross-layer equalisation of that one tensor, and a correction of the last biases. And the
logits get room: those of unheard clips go beyond the calibration's, and clamped ones differ no more.
"""

import dataclasses

import numpy as np

from export import int8
from export.graph import Graph, activations, run

VERSION = 3  # raise it when the same run and patches make other numbers, here or in export.int8
LOGITS_ROOM = 1.5  # times the range that calibration saw; costs half a step of the logits
MAX_FACTOR = 16.0  # a channel that hardly speaks is not blown up to fill the range: its noise would be, too


def fit_for_int8(graph: Graph, patches: np.ndarray, batch: int = 8) -> tuple[Graph, list[tuple[float, float]]]:
    """A graph of graph_of, calibration patches (n, planes, frames, bands) -> the graph to quantize, and its ranges.

    In float, the new graph differs from the old one by its last biases only. Raises ValueError as int8.calibrate and
    int8.quantize do.
    """
    graph = equalize(graph, patches, batch)
    *ranges, (low, high) = int8.calibrate(graph, patches, clip="mse", batch=batch)
    ranges.append((LOGITS_ROOM * low, LOGITS_ROOM * high))
    return bias_corrected(graph, ranges, patches, batch), ranges


def equalize(graph: Graph, patches: np.ndarray, batch: int = 8) -> Graph:
    """Each channel of the tensor in front of the global pool divided by its peak, the FC weights multiplied by it.

    ReLU, concatenation and pool let a positive factor through, so nothing changes in float; in int8 each channel uses
    the whole grid. Peaks count relative to the largest and as 1 / MAX_FACTOR at least; a silent channel stays.
    """
    pooled = graph.ops[-2].src
    starts = range(0, len(patches), batch)
    peaks = np.max([activations(graph, patches[i : i + batch])[pooled].max((0, 2, 3)) for i in starts], axis=0)
    factors = np.clip(peaks / max(peaks.max(), 1e-30), 1 / MAX_FACTOR, 1).astype(np.float32)
    factors[peaks <= 0] = 1
    ops, makers = list(graph.ops), getattr(graph.ops[pooled - 1], "srcs", (pooled,))
    for tensor, part in zip(makers, np.split(factors, np.cumsum([len(ops[t - 1].weight) for t in makers])[:-1])):
        op = ops[tensor - 1]
        ops[tensor - 1] = dataclasses.replace(op, weight=op.weight / part[:, None, None, None], bias=op.bias / part)
    ops[-1] = dataclasses.replace(ops[-1], weight=ops[-1].weight * factors[:, None, None])
    return Graph(graph.in_shape, tuple(ops))


def bias_corrected(graph: Graph, ranges, patches: np.ndarray, batch: int = 8) -> Graph:
    """The last biases moved by what int8 takes from each logit on average over the patches."""
    net = int8.quantize(graph, ranges)
    exact = np.concatenate([run(graph, patches[i : i + batch]) for i in range(0, len(patches), batch)])
    lost = (exact - int8.dequantize(net, int8.run(net, patches))).reshape(-1, exact.shape[-1]).mean(0)
    last = dataclasses.replace(graph.ops[-1], bias=graph.ops[-1].bias + lost)
    return Graph(graph.in_shape, (*graph.ops[:-1], last))
