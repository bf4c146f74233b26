"""The deployable net as data: convolutions, average pools, slices and concatenations in the order they run.

Tensor 0 is the input, tensor k the output of ops[k - 1], the last tensor holds the logits. Shapes leave out the batch:
(channels, frames, bands). The fully connected layer is a 1x1 convolution behind the global pool, because engines
round that one alike; where a net decides on every frame (SPSMT of P2), the pool spans the bands alone and the convolution
meets each frame. Numpy only; `graph_of` reads a torch model through its own methods.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Conv:
    """Stride 1, zero padded so that frames and bands stay."""

    src: int
    weight: np.ndarray  # (out, in / groups, kernel frames, kernel bands), float32, odd kernels; see `groups_of`
    bias: np.ndarray  # (out,), float32
    relu: bool


@dataclass(frozen=True)
class Pool:
    """Average over windows that do not overlap; a rest narrower than the kernel is dropped."""

    src: int
    kernel: tuple[int, int]  # (frames, bands)


@dataclass(frozen=True)
class Slice:
    """Channels start to stop of a tensor."""

    src: int
    start: int
    stop: int


@dataclass(frozen=True)
class Concat:
    """Tensors put side by side along the channels."""

    srcs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Shift:
    """Adds one number per channel: what BN leaves in front of a zero-padded convolution (order "paper")."""

    src: int
    shift: np.ndarray  # (channels,), float32


@dataclass(frozen=True, eq=False)
class Graph:
    in_shape: tuple[int, int, int]  # (planes, frames, bands)
    ops: tuple


def shapes(net) -> list[tuple[int, int, int]]:
    """(channels, frames, bands) of every tensor, the input first; for a Graph or an Int8Net."""
    out = [net.in_shape]
    for op in net.ops:
        channels, frames, bands = out[op.srcs[0] if isinstance(op, Concat) else op.src]
        if isinstance(op, Pool):
            frames, bands = frames // op.kernel[0], bands // op.kernel[1]
        elif isinstance(op, Slice):
            channels = op.stop - op.start
        elif isinstance(op, Concat):
            channels = sum(out[src][0] for src in op.srcs)
        elif not isinstance(op, Shift):
            channels = len(op.weight)
        out.append((channels, frames, bands))
    return out


def macs(net) -> int:
    """Multiply-accumulates of the convolutions for one patch; pools are not counted."""
    return sum(op.weight.size * h * w for op, (_, h, w) in zip(net.ops, shapes(net)[1:]) if hasattr(op, "weight"))


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    """(n, planes, frames, bands) -> (n, n_classes) logits, see `logits_of`: the float reference."""
    return logits_of(activations(graph, x)[-1])


def logits_of(last: np.ndarray) -> np.ndarray:
    """The last tensor (n, n_classes, frames', 1) -> (n, n_classes), or (n, frames', n_classes) where there are several."""
    rows = np.moveaxis(last[..., 0], 1, 2)
    return rows[:, 0] if rows.shape[1] == 1 else rows


def activations(graph: Graph, x: np.ndarray) -> list[np.ndarray]:
    """Every tensor of the graph, each (n, channels, frames, bands), for patches x."""
    check_patches(graph, x)
    tensors = [np.asarray(x, np.float32)]
    for op in graph.ops:
        if isinstance(op, Concat):
            y = np.concatenate([tensors[src] for src in op.srcs], axis=1)
        elif isinstance(op, Slice):
            y = tensors[op.src][:, op.start : op.stop]
        elif isinstance(op, Pool):
            y = window_sums(tensors[op.src], op.kernel) / (op.kernel[0] * op.kernel[1])
        elif isinstance(op, Shift):
            y = tensors[op.src] + op.shift[:, None, None]
        else:
            y = convolve(tensors[op.src], op.weight) + op.bias[:, None, None]
            y = np.maximum(y, 0) if op.relu else y
        tensors.append(y)
    return tensors


def check_patches(net, x) -> None:
    if np.ndim(x) != 4 or np.shape(x)[1:] != tuple(net.in_shape):
        raise ValueError(f"patches are {np.shape(x)}, the net wants (n, {', '.join(map(str, net.in_shape))})")


def groups_of(channels: int, weight: np.ndarray) -> int:
    """Into how many runs of input channels, with as many runs of output channels, a weight parts its convolution."""
    return channels // weight.shape[1]


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, in, frames, bands) * (out, in / groups, kh, kw) -> (n, out, frames, bands), zero padded."""
    groups = groups_of(x.shape[1], weight)
    parts = zip(np.split(x, groups, axis=1), np.split(weight, groups))
    return np.concatenate([_convolve_group(part, w) for part, w in parts], axis=1)


def _convolve_group(x, weight):
    """One matmul with the windows under every kernel tap as rows."""
    n, cin, frames, bands = x.shape
    cout, _, kh, kw = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2))) if kh * kw > 1 else x
    taps = np.lib.stride_tricks.sliding_window_view(padded, (frames, bands), axis=(2, 3))  # (n, cin, kh, kw, ...)
    y = weight.reshape(cout, -1) @ taps.reshape(n, cin * kh * kw, frames * bands)
    return y.reshape(n, cout, frames, bands)


def window_sums(x: np.ndarray, kernel: tuple[int, int]) -> np.ndarray:
    """(n, channels, frames, bands) -> sums over windows of `kernel` that do not overlap."""
    n, channels, frames, bands = x.shape
    h, w = kernel
    x = x[:, :, : frames // h * h, : bands // w * w]
    return x.reshape(n, channels, frames // h, h, bands // w, w).sum((3, 5))


def graph_of(model, in_shape) -> Graph:
    """A CNN7 in eval mode -> the Graph equal to it up to float rounding. in_shape: (planes, frames, bands).

    Strategies (train.strategies) around one: the graph gives the logits of every frame, for the reader to average as
    runtime.fusion.patch_log_p does. Raises ValueError for a net in training mode, or one per sub-band (SPSMF).

    Order "deploy" folds each BN into the convolution in front of it, the last one into the FC layer. Order "paper"
    cannot fold a shift through zero padding: the BN behind a ReLU, the average pool (it commutes with an affine map)
    and the next block's BN become one affine map whose scale goes into the next convolution and whose shift stays as
    one Shift.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() first, the graph is made of its statistics")
    in_shape, by_frame = tuple(in_shape), False
    if hasattr(model, "nets"):
        if len(model.nets) > 1:
            raise ValueError(f"SPSMF: {len(model.nets)} nets in one, a graph holds one: export it with --converters")
        by_frame, (model,) = model.kwargs["frame_decisions"], model.nets
    ops: list = []
    src, owed = 0, (np.ones(in_shape[0]), np.zeros(in_shape[0]))  # owed: scale, shift of the BN behind `src`
    for block in model.blocks:
        src, owed = _add_block(ops, src, owed, block)
        _, frames, bands = shapes(Graph(in_shape, tuple(ops)))[-1]
        all_of_it = 1 if by_frame else frames, bands
        kernel = {"AvgPool2d": (2, 2), "AdaptiveAvgPool2d": all_of_it}.get(type(block.pool).__name__)
        src = _add(ops, Pool(src, kernel)) if kernel else src
    if hasattr(model.tail, "weight"):  # order "deploy": nothing was owed, now the BN behind the global pool is
        owed = _affine(model.tail)
    weight, bias = _float64(model.fc.weight), _float64(model.fc.bias)
    _add(ops, _conv(src, (weight * owed[0])[:, :, None, None], bias + weight @ owed[1], relu=False))
    return Graph(in_shape, tuple(ops))


def _add_block(ops, src, owed, block):
    """Appends the convolutions of one block -> (tensor behind its ReLU, the affine map owed to it)."""
    after = _affine(block.after)
    identity = np.ones_like(after[0]), np.zeros_like(after[0])
    if block.order == "deploy":
        return _add_convs(ops, src, block.conv, owed[0], after), identity
    before = _affine(block.before)
    scale, shift = owed[0] * before[0], owed[1] * before[0] + before[1]
    scale = np.where(np.abs(scale) < 1e-6, 1e-6, scale)  # a dead channel is constant; its shift must survive
    src = _add(ops, Shift(src, (shift / scale).astype(np.float32)))
    return _add_convs(ops, src, block.conv, scale, identity), after


def _add_convs(ops, src, conv, in_scale, out_affine):
    """Appends a convolution, or the branches of a decomposed one, with ReLU -> its output's tensor number."""
    channels = len(in_scale)
    outs = []
    for (start, stop), weight, bias in _grouped(_branches(conv, in_scale, out_affine)):
        part = src if (start, stop) == (0, channels) else _add(ops, Slice(src, start, stop))
        outs.append(_add(ops, _conv(part, weight, bias, relu=True)))
    return outs[0] if len(outs) == 1 else _add(ops, Concat(tuple(outs)))


def _branches(conv, in_scale, out_affine):
    """-> [(range of input channels, weight, bias)], the affine maps before and behind folded in."""
    folded, done = [], 0  # done: output channels of the branches before this one
    for branch, (start, stop) in zip(getattr(conv, "branches", [conv]), getattr(conv, "ranges", [(0, len(in_scale))])):
        scale, shift = (part[done : done + len(branch.weight)] for part in out_affine)
        weight = _float64(branch.weight) * in_scale[start:stop, None, None] * scale[:, None, None, None]
        folded.append(((start, stop), weight, shift if branch.bias is None else shift + scale * _float64(branch.bias)))
        done += len(branch.weight)
    return folded


def _grouped(branches):
    """Neighbours of one shape, the second on the channels behind the first's, become one grouped convolution.

    Of the four branches of a decomposed convolution those are the two on halves: one convolution and two slices less
    to describe, and to run.
    """
    out = []
    for (start, stop), weight, bias in branches:
        if out and out[-1][0][1] == start and out[-1][1].shape == weight.shape:
            (first, _), before, bias_before = out[-1]
            out[-1] = (first, stop), np.concatenate([before, weight]), np.concatenate([bias_before, bias])
        else:
            out.append(((start, stop), weight, bias))
    return out


def _add(ops, op) -> int:
    ops.append(op)
    return len(ops)


def _conv(src, weight, bias, relu):
    return Conv(src, weight.astype(np.float32), bias.astype(np.float32), relu)


def _affine(bn):
    """BatchNorm in eval mode is x * scale + shift, per channel."""
    scale = _float64(bn.weight) / np.sqrt(_float64(bn.running_var) + bn.eps)
    return scale, _float64(bn.bias) - scale * _float64(bn.running_mean)


def _float64(tensor):
    return tensor.detach().cpu().numpy().astype(np.float64)
