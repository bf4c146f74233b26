"""The int8 net on disk: a safetensors file with the net's numbers, and its operators as JSON in the header.

Nothing in it can run code, and `load` hands over only what `int8.run` and every writer can compute. Tensors: "scales"
and "zero_points" by tensor number, "K.weight", "K.bias" and "K.scale" of the convolution that makes tensor K.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from export.graph import Concat, Pool, Slice, groups_of, shapes
from export.int8 import MAX_BIAS, Int8Conv, Int8Net
from runtime.values import whole

FORMAT = 1
MAX_BYTES = 64 << 20
MAX_SIDE = 1 << 16  # channels, frames or bands
# What broken bytes raise, safetensors' own error apart.
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
_OPS = {"conv": Int8Conv, "pool": Pool, "slice": Slice, "concat": Concat}
_FIELDS = {"conv": ("src",), "pool": ("src", "kernel"), "slice": ("src", "start", "stop"), "concat": ("srcs",)}
_ARRAYS = {"weight": ("int8", 4), "bias": ("int32", 1), "scale": ("float32", 1)}  # of a convolution: type, dimensions


def to_bytes(net: Int8Net) -> bytes:
    """-> the file's bytes, the same for the same net."""
    tensors = {"scales": net.scales, "zero_points": net.zero_points}
    ops = []
    for number, op in enumerate(net.ops, 1):
        kind = next(kind for kind, cls in _OPS.items() if isinstance(op, cls))
        ops.append({"op": kind} | {field: getattr(op, field) for field in _FIELDS[kind]})
        if kind == "conv":
            tensors |= {f"{number}.{name}": np.ascontiguousarray(getattr(op, name)) for name in _ARRAYS}
    header = {"format": FORMAT, "in_shape": net.in_shape, "ops": ops}
    return save(tensors, {"int8net": json.dumps(header)})


def load(path: str | Path) -> Int8Net:
    """The net of a file. Raises ValueError, one line, for anything that is not a whole and consistent int8 net."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MB: that is no int8 net's")
    try:
        with safetensors.safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {})["int8net"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return _net(header, tensors)
    except (*_BROKEN, safetensors.SafetensorError) as error:
        said = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{path} is no int8 net, or damaged: {said[:200]}") from error


def _net(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Int8Net:
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']!r}, this reads {FORMAT}")
    in_shape = tuple(whole("in_shape", n, 1, MAX_SIDE) for n in header["in_shape"])
    n_tensors = len(header["ops"]) + 1
    scales, zero_points = _take(tensors, "scales", "float32", 1), _take(tensors, "zero_points", "int8", 1)
    if len(in_shape) != 3 or not len(scales) == len(zero_points) == n_tensors > 1:
        raise ValueError(f"{len(in_shape)} dimensions, {len(scales)} scales, {n_tensors} tensors")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("a scale is not a positive number")
    net = Int8Net(in_shape, (), scales, zero_points)  # type: ignore[arg-type]  # three, as just checked
    for number, values in enumerate(header["ops"], 1):
        op = _op(values, number, tensors)
        _check(op, number, shapes(net), scales, zero_points)
        net = Int8Net(net.in_shape, (*net.ops, op), scales, zero_points)
    if tensors or shapes(net)[-1][2] != 1:  # frames there may be, of a net that decides on each
        raise ValueError(f"{len(tensors)} tensors too many, or logits of shape {shapes(net)[-1]}")
    return net


def _op(values: dict[str, Any], number: int, tensors: dict[str, np.ndarray]) -> Any:
    """JSON -> the operator that makes tensor `number`; every field a whole number in range."""
    kind = values["op"]
    if kind not in _OPS:
        raise ValueError(f"operator {kind!r} is not one of {', '.join(_OPS)}")
    given: dict[str, Any] = {name: values[name] for name in _FIELDS[kind]}
    for name, value in given.items():
        high = number - 1 if name in ("src", "srcs") else MAX_SIDE  # an operator reads what is there before it
        given[name] = (
            tuple(whole(name, n, 0, high) for n in value) if isinstance(value, list) else whole(name, value, 0, high)
        )
    if kind == "conv":
        given |= {name: _take(tensors, f"{number}.{name}", *form) for name, form in _ARRAYS.items()}
    return _OPS[kind](**given)


def _check(op: Any, number: int, known: list[tuple[int, int, int]], scales: np.ndarray, zeros: np.ndarray) -> None:
    """Raises ValueError for an operator that the shapes before it, or its grids, do not allow."""
    sources = op.srcs if isinstance(op, Concat) else (op.src,)
    channels, frames, bands = known[sources[0]] if sources else (0, 0, 0)
    if isinstance(op, Int8Conv):
        fine = _fits(op, channels, scales[op.src], scales[number])
    else:
        copied = all(scales[s] == scales[number] and zeros[s] == zeros[number] for s in sources)
        if isinstance(op, Pool):
            kernel = op.kernel if isinstance(op.kernel, tuple) else ()
            fine = copied and len(kernel) == 2 and 1 <= kernel[0] <= frames and 1 <= kernel[1] <= bands
        elif isinstance(op, Slice):
            fine = copied and 0 <= op.start < op.stop <= channels
        else:
            fine = copied and len(sources) > 0 and all(known[s][1:] == (frames, bands) for s in sources)
    if not fine:
        raise ValueError(f"operator {number} does not fit the tensors that it reads and writes")


def _fits(op: Int8Conv, channels: int, in_scale: np.floating, out_scale: np.floating) -> bool:
    """Whether weight, bias and scales belong together and to the input, and requantize as `int8.run` can."""
    n_out, n_in, *kernel = op.weight.shape
    shaped = n_out > 0 and n_in > 0 and len(op.bias) == len(op.scale) == n_out and all(k % 2 for k in kernel)
    if not shaped or channels % n_in or n_out % groups_of(channels, op.weight):
        return False
    with np.errstate(over="ignore"):
        multiplier = np.float64(in_scale) * op.scale.astype(np.float64) / np.float64(out_scale)
    usable = (multiplier > 2.0**-31) & (multiplier < 1)  # NaN is neither
    return bool(usable.all() and op.weight.min() >= -127 and np.abs(op.bias.astype(np.int64)).max() <= MAX_BIAS)


def _take(tensors: dict[str, np.ndarray], name: str, dtype: str, n_dims: int) -> np.ndarray:
    array = tensors.pop(name)
    if array.dtype != dtype or array.ndim != n_dims:
        raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions, not {dtype} of {n_dims}")
    return array
