"""Does every form of a net say the same? Runs files in their engines and holds the logits against a reference.

Logits are (n, n_classes), or (n, frames', n_classes) of a net that decides on every frame: runtime.engine's.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np

from export import int8
from runtime.engine import decisions

LITERT, TENSORFLOW = "ai_edge_litert.interpreter", "tensorflow.lite.python.interpreter"
MICRO_ARENA_BYTES = 8 << 20  # more than any of our nets needs
ENGINE_STEPS = 2.25  # of the logits' int8 grid


def run_onnx(data: bytes, patches: np.ndarray) -> np.ndarray:
    """A .onnx file's bytes, patches (n, planes, frames, bands) -> float32 logits as an engine's, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: patch[None]})[0] for patch in np.asarray(patches, np.float32)]
    return np.stack([decisions(np.moveaxis(output, 1, -1)) for output in outputs])


def has_tensorflow() -> bool:
    """Whether tensorflow is installed, whose interpreter is built apart from LiteRT's."""
    return importlib.util.find_spec("tensorflow") is not None


def run_tflite(data: bytes, patches: np.ndarray, reference: bool = False, package: str = LITERT) -> np.ndarray:
    """A .tflite file's bytes, patches -> float32 logits as an engine's, by XNNPACK or the reference kernels.

    package: LITERT or TENSORFLOW.
    """
    engine = importlib.import_module(package)
    resolver = engine.OpResolverType.BUILTIN_REF if reference else engine.OpResolverType.AUTO
    interpreter = engine.Interpreter(model_content=data, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for patch in np.asarray(patches, np.float32):
        x = patch.transpose(1, 2, 0)[None]  # planes last
        interpreter.set_tensor(entry["index"], _to_grid(x, entry) if entry["dtype"] == np.int8 else x)
        interpreter.invoke()
        logits.append(decisions(_from_grid(interpreter.get_tensor(exit_["index"]), exit_)))
    return np.stack(logits)


def has_micro() -> bool:
    """Whether tflite-micro's interpreter for hosts is installed (extra `micro`)."""
    return importlib.util.find_spec("tflite_micro") is not None


def micro_interpreter(data: bytes) -> Any:
    from tflite_micro.python.tflite_micro import runtime  # type: ignore[import-not-found,unused-ignore]

    return runtime.Interpreter.from_bytes(data, arena_size=MICRO_ARENA_BYTES)


def run_micro(data: bytes, patches: np.ndarray) -> np.ndarray:
    """An int8 .tflite file's bytes, patches -> float32 logits as an engine's, by tflite-micro's reference kernels."""
    interpreter = micro_interpreter(data)
    entry, exit_ = (_micro_grid(d) for d in (interpreter.get_input_details(0), interpreter.get_output_details(0)))
    logits = []
    for patch in np.asarray(patches, np.float32):
        interpreter.set_input(_to_grid(patch.transpose(1, 2, 0)[None], entry), 0)
        interpreter.invoke()
        logits.append(decisions(_from_grid(interpreter.get_output(0), exit_)))
    return np.stack(logits)


def _micro_grid(details):
    grid = details["quantization_parameters"]
    return {"quantization": (grid["scales"][0], int(grid["zero_points"][0]))}


def _to_grid(x, details):
    scale, zero_point = details["quantization"]
    return np.clip(np.rint(x / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)


def _from_grid(y, details):
    scale, zero_point = details["quantization"]
    return y if y.dtype == np.float32 else (y.astype(np.float32) - zero_point) * np.float32(scale)


def compare(reference: np.ndarray, others: dict[str, np.ndarray], bound: float) -> dict[str, dict[str, float]]:
    """Logits (n, ..., n_classes) of a reference and, by name, of others -> {name: {max_diff, agreement}}.

    max_diff: the largest absolute difference of a logit; agreement: the share of decisions with the same largest one.
    A max_diff above `bound` is a ValueError that says whose and how much.
    """
    report = {}
    for name, logits in others.items():
        if logits.shape != reference.shape:
            raise ValueError(f"{name}: logits are {logits.shape}, the reference's are {reference.shape}")
        max_diff = float(np.abs(logits - reference).max())
        if not max_diff <= bound:  # NaN fails too
            raise ValueError(f"{name}: logits differ from the reference by {max_diff:.3g}, the bound is {bound:.3g}")
        agreement = float((logits.argmax(-1) == reference.argmax(-1)).mean())
        report[name] = {"max_diff": max_diff, "agreement": agreement}
    return report


def check_int8(net: int8.Int8Net, tflite: bytes, onnx: bytes, patches: np.ndarray) -> dict[str, dict[str, float]]:
    """Holds both files of an int8 net, in every engine here, against the integer reference -> compare()'s report.

    LiteRT's reference kernels must equal it exactly. XNNPACK and onnxruntime are held against the reference of their
    own rounding rule, ENGINE_STEPS apart at most: on the CPUs we measured they equal it (the tests hold that), on one
    with other instructions a rounding may fall the other way, which is no reason to refuse a bundle.
    """
    exact, rounded = (int8.dequantize(net, int8.run(net, patches, rule)) for rule in ("double", "float32"))
    step = float(net.scales[-1])
    report = compare(exact, {"litert reference": run_tflite(tflite, patches, reference=True)}, step / 4)
    engines = {"xnnpack": run_tflite(tflite, patches), "onnxruntime": run_onnx(onnx, patches)}
    return report | compare(rounded, engines, ENGINE_STEPS * step)
