"""Trained runs -> a bundle: model files in both formats, checked against torch, written whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from devices.report import report_dict, report_text
from devices.size import read_model
from export import convert, graph, int8, numbers, parity
from export.equalize import fit_for_int8
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime.bundle import FORMAT, Bundle, file_entry, golden_window
from train.run import Run

WRITERS = {"tflite": tflite_bytes, "onnx": onnx_bytes}
CONVERTERS = {"tflite": convert.tflite_bytes, "onnx": convert.onnx_bytes}
FLOAT_BOUND = 1e-3  # logits of a float file against torch
INT8_BOUND = 0.15  # mean difference of the largest probability, int8 file against torch, on the calibration patches
WINDOW_S, HOP_S = 5.0, 1.0
_FACTS = ("data", "recipe", "qat", "versions")  # of a run, into the provenance
N_PARITY = 16  # patches that every engine runs before a bundle is written


def assemble(
    runs: list[Run], folder: Path, calibration: list[np.ndarray], golden: np.ndarray, *,
    quantized: bool = True, converted: bool = False,
) -> Bundle:  # fmt: skip
    """Write the bundle of `runs`, one member each, to `folder`; replaces a bundle, nothing else.

    calibration: per run, normalised patches (n, planes, frames, bands) of training clips. golden: (samples,) at the
    runs' rate. converted: float files by export.convert, for nets of any architecture. -> the bundle, loaded. Raises
    ValueError, and leaves no bundle, where a file disagrees with torch.
    """
    _check_compatible(runs)
    check_target(folder)
    quantized = quantized and not converted
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        members = [
            _write_member(partial, run, patches, quantized, converted) for run, patches in zip(runs, calibration)
        ]
        _write_json(partial, runs, members, quantized)
        finish(partial, folder, golden)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.load(folder, "tflite")


def check_target(folder: Path) -> None:
    """Raises ValueError where something that is no bundle stands at `folder`: it would have to be replaced."""
    if folder.exists() and not (folder / "bundle.json").is_file():
        raise ValueError(f"{folder} exists and is no bundle: name another folder")


def finish(partial: Path, folder: Path, golden: np.ndarray) -> None:
    """Add golden window and report to a bundle at `partial`, check it in every format, and put it in place of `folder`."""
    bundle = Bundle.load(partial, "tflite")
    with open(partial / "golden.npz", "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **golden_window(bundle, golden))
    for fmt in WRITERS:
        Bundle.load(partial, fmt).check()
    (partial / "report.md").write_text(_report(partial, folder.name))
    _replace(partial, folder)


def _check_compatible(runs: list[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if (run.labels, run.frontend.sr) != (first.labels, first.frontend.sr):
            raise ValueError("the runs differ in labels or sample rate: one bundle needs them alike")
    if len({_name(run) for run in runs}) != len(runs):
        raise ValueError(f"two runs hear the same spectrogram ({', '.join(map(_name, runs))}): export one of them")


def _name(run: Run) -> str:
    return {"gammatone": "gam"}.get(run.frontend.kind, run.frontend.kind)


def _write_member(folder: Path, run: Run, patches: np.ndarray, quantized: bool, converted: bool) -> dict[str, Any]:
    """Both model files of one run, and what bundle.json says of the member."""
    name = _name(run)
    net: Any = None if converted else _net_of(run.model, patches, quantized)
    files = {}
    for fmt in WRITERS:
        path = folder / f"{name}.{fmt}"
        path.write_bytes(WRITERS[fmt](net) if net else CONVERTERS[fmt](run.model, patches.shape[1:]))
        files[fmt] = file_entry(path, macs=read_model(path).macs)
    _check_member(name, run, net, folder, patches[:N_PARITY], quantized)
    if quantized:  # for whoever writes a next format from the same numbers; the runtime does not read it
        (folder / f"{name}.safetensors").write_bytes(numbers.to_bytes(net))
    return {
        "name": name,
        "frontend": run.frontend.to_json(),
        "temperature": 1.0,
        "mean": _rounded(run.mean),
        "std": _rounded(run.std),
        "files": files,
    }


def _net_of(model: Any, patches: np.ndarray, quantized: bool) -> Any:
    """-> the Graph or Int8Net to write; a model trained on its int8 grid (compress.qat) knows its own."""
    if quantized and hasattr(model, "deployed"):
        return model.deployed()
    if not hasattr(model, "blocks"):  # what graph_of reads
        raise ValueError(f"{type(model).__name__} has no form of ours: export it with --converters")
    net = graph.graph_of(model, patches.shape[1:])
    return int8.quantize(*fit_for_int8(net, patches)) if quantized else net


@torch.no_grad()
def _check_member(name: str, run: Run, net: Any, folder: Path, patches: np.ndarray, quantized: bool) -> None:
    """Raises ValueError where a file and torch do not say the same."""
    files = {fmt: (folder / f"{name}.{fmt}").read_bytes() for fmt in WRITERS}
    logits = run.model(torch.from_numpy(patches)).numpy()
    if not quantized:
        engines = {
            "LiteRT": parity.run_tflite(files["tflite"], patches),
            "onnxruntime": parity.run_onnx(files["onnx"], patches),
        }
        parity.compare(logits, engines, FLOAT_BOUND)
        return
    parity.check_int8(net, files["tflite"], files["onnx"], patches)
    exact = torch.softmax(torch.from_numpy(logits), 1)
    rounded = torch.softmax(torch.from_numpy(parity.run_tflite(files["tflite"], patches)), 1)
    difference = float((exact - rounded).abs().max(1).values.mean())
    if not difference <= INT8_BOUND:
        raise ValueError(
            f"{name}: int8 moves probabilities by {difference:.2f} on average, at most {INT8_BOUND} allowed"
        )


def _rounded(table: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in table]


def _write_json(folder: Path, runs: list[Run], members: list[dict[str, Any]], quantized: bool) -> None:
    patches = [{"n_frames": run.patch.n_frames, "stride": run.patch.stride} for run in runs]
    members = [m if patch == patches[0] else m | {"patch": patch} for m, patch in zip(members, patches)]
    values = {
        "format": FORMAT,
        "labels": list(runs[0].labels),
        "sr": runs[0].frontend.sr,
        "window_s": WINDOW_S,
        "hop_s": HOP_S,
        "fuse": "prod",
        "patch": patches[0],  # of the members without one of their own
        "members": members,
        "provenance": {
            "numbers": "int8" if quantized else "float32",
            "runs": {_name(run): {key: run.meta[key] for key in _FACTS if key in run.meta} for run in runs},
        },
    }
    (folder / "bundle.json").write_text(json.dumps(values, indent=1) + "\n")


def _report(folder: Path, name: str) -> str:
    text = report_text(report_dict(folder) | {"name": name})  # the folder has its final name only later
    return f"# {name}\n\nMade by `python -m devices.report`.\n\n```\n{text}\n```\n"


def _replace(partial: Path, folder: Path) -> None:
    """Put the finished folder in place of an old bundle."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
