"""What an inference has to do, in seven classes whose unit costs differ: the estimator's only view of a model.

conv       MACs of convolutions: weights and inputs are used again and again
depthwise  MACs of depthwise convolutions: nothing to share between output channels
dense      MACs of matrix products and recurrent cells: each weight is fetched for one MAC
output     values that these produce: each is scaled, rounded and clipped
patch      values gathered in front of a convolution wider than 1x1 (im2col)
element    values that pools, additions, activations and copies touch
operator   operators, for their call
"""

from collections.abc import Iterable
from math import prod

import numpy as np

from devices.size import ModelSize, OpSize

CLASSES = ("conv", "depthwise", "dense", "output", "patch", "element", "operator")
_COPY = 0.25  # of the cost of a computed element: no arithmetic, several bytes at a time
_COPIES = set(
    "CONCATENATION SPLIT SPLIT_V SLICE STRIDED_SLICE PAD PADV2 TRANSPOSE PACK UNPACK TILE GATHER Concat Split Slice "
    "Pad Transpose Tile Gather QLinearConcat Expand".split()
)
# Bookkeeping: TFLM and every other runtime pass the tensor on, or know the answer before the first inference.
_FREE = set(
    "RESHAPE SQUEEZE EXPAND_DIMS SHAPE Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape Size Constant "
    "DequantizeLinear".split()
)


def of_model(model: ModelSize) -> np.ndarray:
    """-> (7,) counts, in the order of CLASSES, of one inference at batch 1."""
    return of_ops(model.ops, model.format)


def of_ops(ops: Iterable[OpSize], fmt: str) -> np.ndarray:
    """As `of_model`, of some of a model's operators. fmt: "tflite" or "onnx", for the order of the axes."""
    total = np.zeros(len(CLASSES))
    for op in ops:
        for name, count in _of_op(op, fmt == "tflite").items():
            total[CLASSES.index(name)] += count
    return total


def _of_op(op: OpSize, channels_last: bool) -> dict[str, float]:
    n_out = prod(op.output_shape)
    if op.op in _FREE:
        return {}
    if op.op == "QuantizeLinear":  # the end of a Dequantize-op-Quantize, which engines run as one operator
        return {}
    if not op.macs:
        touched = max(prod(op.input_shape), n_out)
        return {"element": touched * (_COPY if op.op in _COPIES else 1), "operator": 1}
    counts: dict[str, float] = {"output": n_out, "operator": 1}
    w = op.weight_shape
    n_in = op.input_shape[-1 if channels_last else 1] if len(op.input_shape) > 1 else 1
    if "DEPTHWISE" in op.op or ("CONV" in op.op.upper() and not channels_last and len(w) > 2 and w[1] == 1 < n_in):
        return {"depthwise": op.macs, **counts}
    if "CONV" not in op.op.upper():
        return {"dense": op.macs, **counts}
    if prod(w[1:-1] if channels_last else w[2:]) > 1:
        counts["patch"] = op.macs / max(1, op.output_shape[-1 if channels_last else 1])
    return {"conv": op.macs, **counts}
