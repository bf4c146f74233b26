"""What each TFLite or ONNX op multiplies, and which of its stored inputs are parameters; other ops are refused."""

from collections.abc import Mapping
from math import prod

from devices.graph import ModelError, Node, Tensor

# Ops with weights: (position of x, position of the weights, positions that are parameters).
_CONVOLUTIONS = {
    **dict.fromkeys(("CONV_2D", "FULLY_CONNECTED", "Conv"), (0, 1, (1, 2))),
    "ConvInteger": (0, 1, (1,)),
    "QLinearConv": (0, 3, (3, 8)),
}
_DEPTHWISE = {"DEPTHWISE_CONV_2D": (0, 1, (1, 2))}
_TRANSPOSED = {"TRANSPOSE_CONV": (2, 1, (1, 3)), "ConvTranspose": (0, 1, (1, 2))}
_PRODUCTS = {
    **dict.fromkeys(("BATCH_MATMUL", "MatMul", "MatMulInteger"), (0, 1, (0, 1))),
    "Gemm": (0, 1, (0, 1, 2)),
    "QLinearMatMul": (0, 3, (0, 3)),
    "QGemm": (0, 3, (3, 6)),
}
_RECURRENT = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (0, 1, (1, 2, 3, 7))),
    **dict.fromkeys(("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN"), (0, 1, tuple(range(1, 18)))),
}
_WEIGHTED = {**_CONVOLUTIONS, **_DEPTHWISE, **_TRANSPOSED, **_PRODUCTS, **_RECURRENT}

BATCHNORM = {"BatchNormalization": (1, 2, 3, 4)}
# Ops without MACs whose stored operands are parameters all the same.
_SCALING = {
    **dict.fromkeys("ADD SUB MUL DIV PRELU Add Sub Mul Div PRelu Pow".split(), (0, 1)),
    **dict.fromkeys("GATHER EMBEDDING_LOOKUP Gather".split(), (0, 1)),
    **dict.fromkeys("InstanceNormalization LayerNormalization GroupNormalization".split(), (1, 2)),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    **BATCHNORM,
}
_PLAIN = set(
    "QUANTIZE DEQUANTIZE RESHAPE SQUEEZE EXPAND_DIMS SOFTMAX LOG_SOFTMAX LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 "
    "RELU_0_TO_1 LEAKY_RELU ELU HARD_SWISH GELU MAXIMUM MINIMUM SQUARED_DIFFERENCE POW SQRT RSQRT SQUARE EXP LOG ABS "
    "NEG SIN COS FLOOR CEIL ROUND MAX_POOL_2D AVERAGE_POOL_2D MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD "
    "L2_NORMALIZATION CONCATENATION SPLIT SPLIT_V SLICE STRIDED_SLICE PAD PADV2 MIRROR_PAD TRANSPOSE SHAPE PACK UNPACK "
    "TILE FILL RANGE CAST ARG_MAX ARG_MIN GATHER_ND BROADCAST_TO BROADCAST_ARGS RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR DEPTH_TO_SPACE SPACE_TO_DEPTH SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND REVERSE_V2 SELECT "
    "SELECT_V2 WHERE GREATER GREATER_EQUAL LESS LESS_EQUAL EQUAL NOT_EQUAL LOGICAL_AND LOGICAL_OR LOGICAL_NOT DENSIFY "
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear Reshape Flatten Squeeze Unsqueeze Identity Dropout Softmax "
    "LogSoftmax Sigmoid Tanh Relu LeakyRelu Elu Selu HardSigmoid HardSwish Gelu Softplus Mish Clip Max Min Sqrt "
    "Reciprocal Exp Log Abs Neg Sin Cos Floor Ceil Round Sign Erf MaxPool AveragePool GlobalAveragePool GlobalMaxPool "
    "LpNormalization ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL2 ReduceLogSumExp Concat Split Slice "
    "Pad Transpose Shape Size Tile Expand ConstantOfShape Range Cast ArgMax ArgMin GatherElements GatherND Resize Upsample "
    "DepthToSpace SpaceToDepth Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Not QLinearAveragePool "
    "QLinearGlobalAveragePool QLinearConcat QLinearSigmoid QLinearLeakyRelu QLinearSoftmax".split()
)

PARAMETERS = {**_SCALING, **{op: where[2] for op, where in _WEIGHTED.items()}}  # op -> input positions
WEIGHTS = {op: where[1:2] for op, where in _WEIGHTED.items()}  # the ones that the MACs use


def known(name: str, tensors: Mapping[str, Tensor], op: str) -> Tensor:
    """tensors[name]. Raises ModelError where shape inference has found no shape for it."""
    if name not in tensors:
        raise ModelError(f"the shape of {name!r} at op {op} is not known")
    return tensors[name]


def macs(node: Node, tensors: Mapping[str, Tensor]) -> int:
    """Multiply-accumulates of one run at batch 1. Raises ModelError for an op that is in none of the tables."""
    if node.op not in PARAMETERS and node.op not in _PLAIN:
        raise ModelError(f"op {node.op} is unknown here, so its MACs are too")
    if node.op not in _WEIGHTED:
        return 0
    x_at, w_at, _ = _WEIGHTED[node.op]
    x, w = (known(node.inputs[i], tensors, node.op).shape for i in (x_at, w_at))
    y = known(node.outputs[0], tensors, node.op).shape
    if "CONV" in node.op.upper() and not 3 <= len(x) == len(w) == len(y):
        raise ModelError(
            f"op {node.op} has shapes of {len(x)}, {len(w)} and {len(y)} axes: input, weights and output differ"
        )
    if node.op in _CONVOLUTIONS:
        return prod(y) * prod(w[1:])  # w: output channels first, then what one output element sums over
    if node.op in _DEPTHWISE:
        return prod(y) * prod(w[:-1])  # w: (1, rows, columns, channels)
    if node.op in _TRANSPOSED:  # every input element is spread over the kernel: input channels last or first in w
        return prod(x) * prod(w[:-1] if node.op == "TRANSPOSE_CONV" else w[1:])
    if node.op in _PRODUCTS:  # whichever side is transposed, x holds rows of y times the summed length
        return prod(y) * (x[-2] * x[-1] // y[-2] if len(x) > 1 and len(w) > 1 else x[-1])
    steps = prod(x[:2])  # time and batch, in either order
    if node.op in ("LSTM", "GRU", "RNN"):
        return steps * sum(prod(known(name, tensors, node.op).shape) for name in node.inputs[1:3])  # W and R
    stored = (tensors[name] for name in node.inputs[1:] if name in tensors)
    return steps * sum(tensor.elements for tensor in stored if tensor.data is not None and len(tensor.shape) == 2)
