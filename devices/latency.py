"""Milliseconds of one inference on this machine: the net alone, after a warm-up."""

import platform
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from devices.size import ModelSize

WARM_UP = 5
Run = Callable[[], Any]
Open = Callable[[], Run]  # loads the engine and the file only when it is called


MAX_RUNS, MAX_THREADS = 1_000_000, 256


def check(runs: int, threads: int, warm_up: int = WARM_UP, least_runs: int = 0) -> None:
    """Raises ValueError naming what lies outside: an engine starts every thread it is asked for, and may die of it."""
    limits = {
        "runs": (runs, least_runs, MAX_RUNS),
        "threads": (threads, 1, MAX_THREADS),
        "warm-up": (warm_up, 0, MAX_RUNS),
    }
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise ValueError(f"--{name} {value}: choose {least} to {most}")


def measure(opened: Open, fmt: str, runs: int, threads: int = 1, warm_up: int = WARM_UP) -> dict[str, Any]:
    """Median, 10th and 90th percentile in ms of `runs` single inferences, or {"error": why there is none}.

    threads: what the engine was opened with, for the record.
    """
    refusals: tuple[type[Exception], ...] = (ImportError, RuntimeError, ValueError, *_onnx_errors(fmt))
    try:
        run = opened()
        for _ in range(warm_up):
            run()
    except refusals as error:  # no engine, or it refuses the file
        return {"error": str(error).splitlines()[0]}
    times_ms = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - start) * 1e3)
    low, median, high = np.percentile(times_ms, (10, 50, 90)).tolist()
    where = {"date": date.today().isoformat(), "engine": _engine(fmt), "machine": platform.machine()}
    how = {"runs": runs, "threads": threads, "warm_up": warm_up}
    return {"median_ms": median, "p10_ms": low, "p90_ms": high, **how, **where}


def open_net(path: Path, shape: tuple[int, ...], threads: int = 1) -> Open:
    """A bundle's net as a stream calls it: float patch of this shape in, logits out, quantization included."""

    def opened() -> Run:
        from runtime import engine

        run, patch = (
            engine.open_model(path, threads),
            np.random.default_rng(0).standard_normal(shape).astype(np.float32),
        )
        return lambda: run(patch)

    return opened


def open_model(path: Path, size: ModelSize, threads: int = 1) -> Open:
    """A bare model with inputs of any shape, fed with noise of the types it wants."""
    return (lambda: _onnx_run(path, size, threads)) if size.format == "onnx" else (lambda: _tflite_run(path, threads))


def _onnx_run(path: Path, size: ModelSize, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is reported as an error, not on the terminal
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    numpy_types = {"tensor(float)": "float32", "tensor(double)": "float64"}
    feed = {}
    for value, shape in zip(session.get_inputs(), size.input_shapes):
        kind = numpy_types.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
        feed[value.name] = _noise(shape, kind)
    return lambda: session.run(None, feed)


def _tflite_run(path: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found,unused-ignore]

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _noise(tuple(detail["shape"]), detail["dtype"]))
    return lambda: interpreter.invoke()


def _noise(shape: tuple[int, ...], kind: Any) -> np.ndarray:
    """Standard normal, but 0 or 1 for integers: they may be indices, and int8 time does not depend on values."""
    rng = np.random.default_rng(0)
    floating = np.issubdtype(np.dtype(kind), np.floating)
    return rng.standard_normal(shape).astype(kind) if floating else rng.integers(0, 2, shape).astype(kind)


def _onnx_errors(fmt: str) -> tuple[type[Exception], ...]:
    """onnxruntime's exceptions derive from Exception and nothing narrower."""
    if fmt != "onnx":
        return ()
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return ()
    return state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented


def _engine(fmt: str) -> str:
    for package in ("ai-edge-litert", "tflite-runtime") if fmt == "tflite" else ("onnxruntime",):
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
