"""Inference engines: open_model("x.tflite" | "x.onnx") -> patches to logits. The suffix decides; int8 scales live here.

ai-edge-litert runs .tflite (tflite-runtime 2.14 where there is nothing newer, as on 32-bit ARM), onnxruntime .onnx.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
MAX_THREADS = 256
_PACKAGES = {"tflite": ("ai_edge_litert", "tflite_runtime"), "onnx": ("onnxruntime",)}
FORMATS = tuple(_PACKAGES)


def available() -> list[str]:
    """Formats that an installed engine can run, the preferred one first."""
    return [fmt for fmt, names in _PACKAGES.items() if any(importlib.util.find_spec(name) for name in names)]


def choose(wanted: str | None = None, held: Sequence[str] = FORMATS) -> str:
    """-> "tflite" or "onnx": the wanted format, or the first of `held` that can run here. Raises ImportError with the
    remedy.
    """
    formats = available() if wanted else [fmt for fmt in available() if fmt in held]
    if wanted is None and formats:
        return formats[0]
    if wanted not in formats:
        raise ImportError(
            f"no engine for {wanted or ' or '.join(held)} files is installed: pip install 'tinyear[runtime]' "
            "(ai-edge-litert) or 'tinyear[runtime-onnx]' (onnxruntime)"
        )
    return wanted


def open_model(path: str | Path, threads: int = 1) -> Model:
    """-> a callable: (n, planes, frames, bands) float32 patches -> (n, classes) float32 logits, patch by patch.

    Of a net that decides on every frame (SPSMT of P2), whose file has an output with frames: (n, frames', classes).

    Raises ValueError for another suffix, ImportError with the remedy where the engine is missing. Verify a file from
    elsewhere before you open it here (Bundle.load does, by sha256): engines trust what they read.
    """
    suffix = Path(path).suffix
    if suffix not in (".tflite", ".onnx"):
        raise ValueError(f"{path}: a model file ends in .tflite or .onnx")
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads {threads}: choose 1 to {MAX_THREADS}")
    choose(suffix[1:])
    return _TfliteModel(path, threads) if suffix == ".tflite" else _OnnxModel(path, threads)


def _interpreter(path: str | Path, threads: int) -> Any:
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter
    else:
        if int(np.__version__.split(".")[0]) >= 2:
            raise ImportError(
                f"tflite-runtime cannot run with numpy {np.__version__}: pip install 'numpy<2', or use ai-edge-litert"
            )
        from tflite_runtime.interpreter import Interpreter
    return Interpreter(model_path=str(path), num_threads=threads)


class _TfliteModel:
    """One patch a call, time x bands x planes (NHWC), int8 or float."""

    def __init__(self, path: str | Path, threads: int) -> None:
        self._interpreter = _interpreter(path, threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        _, frames, bands, planes = (int(n) for n in self._input["shape"])
        _check_shape(patches, [planes, frames, bands])
        return np.stack([self._run(patch) for patch in patches])

    def _run(self, patch: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(patch.transpose(1, 2, 0)[None], np.float32)  # (1, frames, bands, planes)
        self._interpreter.set_tensor(self._input["index"], _quantize(x, self._input))
        self._interpreter.invoke()
        return decisions(_dequantize(self._interpreter.get_tensor(self._output["index"]), self._output))


def decisions(logits: np.ndarray) -> np.ndarray:
    """What a file says of one patch, (1, ..., classes) -> (classes,), or (frames', classes) where it decides on frames."""
    rows = logits.reshape(-1, logits.shape[-1])
    return rows[0] if len(rows) == 1 else rows


def _quantize(x: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """float32 -> the tensor's type: round half to even, as ONNX QuantizeLinear does, so that the formats agree."""
    if detail["dtype"] == np.float32:
        return x
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(x / np.float32(scale)) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def _dequantize(q: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    if detail["dtype"] == np.float32:
        return q
    scale, zero_point = detail["quantization"]
    return (q.astype(np.float32) - zero_point) * np.float32(scale)


def _check_shape(patches: np.ndarray, wanted: list[Any]) -> None:
    """Engines refuse other shapes too, each with an exception of its own. A size that is not fixed is a name in ONNX."""
    given = patches.shape[1:]
    if len(given) != len(wanted) or any(isinstance(n, int) and n != m for n, m in zip(wanted, given)):
        raise ValueError(f"patches of planes x frames x bands {given} for a net that wants {tuple(wanted)}")


class _OnnxModel:
    """One patch a call, planes x time x bands (NCHW), float at both ends: the file quantizes and dequantizes itself."""

    def __init__(self, path: str | Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3  # its warnings about a missing GPU are not the user's
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        _check_shape(patches, list(self._input.shape[1:]))
        rows = [self._session.run(None, {self._input.name: patch[None].astype(np.float32)})[0] for patch in patches]
        return np.stack(
            [decisions(np.moveaxis(row, 1, -1)) for row in rows]
        )  # (1, classes) or (1, classes, frames', 1)
