"""Trained runs -> a bundle: model files in both formats, checked against torch, written whole or not at all."""

import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
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
from runtime import fusion
from runtime.bundle import FORMAT, Bundle
from runtime.golden import window
from runtime.member import file_entry
from train.cnn7 import CNN7
from train.run import Run

WRITERS = {"tflite": tflite_bytes, "onnx": onnx_bytes}
CONVERTERS = {"tflite": convert.tflite_bytes, "onnx": convert.onnx_bytes}
FLOAT_BOUND = 1e-3  # logits of a float file against torch, relative to the largest where that is above 1
INT8_BOUND = 0.15  # mean difference of the largest probability, int8 file against torch, on the calibration patches
WINDOW_S, HOP_S = 5.0, 1.0  # of the bundle's decisions; a window holds a patch's stride at least
SURE_WINDOW_S = 2.0  # where sure patches count more, doubtful ones need not be outvoted: sooner heard and over (LOG.md)
_FACTS = ("data", "recipe", "qat", "teachers", "pruned", "versions")  # of a run, into the provenance
N_PARITY = 16  # patches that every engine runs before a bundle is written


def assemble(
    runs: list[Run], folder: Path, calibration: list[np.ndarray], golden: np.ndarray, *,
    quantized: bool = True, converted: bool = False, formats: Sequence[str] = tuple(WRITERS), fuse: str = "prod",
) -> Bundle:  # fmt: skip
    """Write the bundle of `runs`, one member each, to `folder`; replaces a bundle, nothing else.

    calibration: per run, normalised patches (n, planes, frames, bands) of training clips. golden: (samples,) at the
    runs' rate. converted: float files by export.convert, for nets of any architecture, in some of the `formats` if need
    be. fuse: one of runtime.fusion.FUSIONS. -> the bundle, loaded. Raises ValueError, and leaves no bundle, where a file
    disagrees with torch.
    """
    _check_compatible(runs)
    check_target(folder)
    quantized = quantized and not converted
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        written = [_write_member(partial, r, x, quantized, converted, formats) for r, x in zip(runs, calibration)]
        _write_json(partial, runs, written, quantized, fuse)
        finish(partial, folder, golden)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.load(folder)


def check_target(folder: Path) -> None:
    """Raises ValueError where something that is no bundle stands at `folder`, or no folder can be made there."""
    if folder.exists() and not (folder / "bundle.json").is_file():
        raise ValueError(f"{folder} exists and is no bundle: name another folder")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{folder} cannot be made: {above} is no folder that can be written to")


def finish(partial: Path, folder: Path, golden: np.ndarray) -> None:
    """Add golden window and report to a bundle at `partial`, check it in every format, and put it in place of `folder`."""
    bundle = Bundle.load(partial)
    with open(partial / "golden.npz", "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **window(bundle, golden))
    for fmt in bundle.formats:
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
    return "+".join({"gammatone": "gam"}.get(f.kind, f.kind) for f in run.frontend.frontends)


def _write_member(
    folder: Path, run: Run, patches: np.ndarray, quantized: bool, converted: bool, formats: Sequence[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """The model files of one run -> what bundle.json says of the member, and how far they are from torch."""
    name = _name(run)
    net: Any = None if converted else _net_of(run.model, patches, quantized)
    files = {}
    for fmt in formats:
        path = folder / f"{name}.{fmt}"
        if converted:  # a recurrent net takes a minute
            print(f"{name}: converting to {fmt}", file=sys.stderr, flush=True)
        path.write_bytes(WRITERS[fmt](net) if net else CONVERTERS[fmt](run.model, patches.shape[1:]))
        files[fmt] = file_entry(path, macs=read_model(path).macs)
    differences = _check_member(name, run, net, folder, patches[:N_PARITY], quantized, formats)
    if quantized:  # for whoever writes a next format from the same numbers; the runtime does not read it
        (folder / f"{name}.safetensors").write_bytes(numbers.to_bytes(net))
    member: dict[str, Any] = {"name": name, "frontend": run.frontend.to_json(), "temperature": 1.0}
    if run.patch.planes != "frames":  # raw ones are not normalised
        member |= {"mean": _rounded(run.mean), "std": _rounded(run.std)}
    return member | {"files": files}, differences


def _net_of(model: Any, patches: np.ndarray, quantized: bool) -> Any:
    """-> the Graph or Int8Net to write; a model trained on its int8 grid (compress.qat) knows its own."""
    if quantized and hasattr(model, "deployed"):
        return model.deployed()
    (inner,) = model.nets if len(getattr(model, "nets", ())) == 1 else (model,)  # of train.strategies
    if not isinstance(inner, CNN7):
        name = f"SPSMF of {len(model.nets)} nets" if hasattr(inner, "nets") else type(inner).__name__
        raise ValueError(f"{name} has no form of ours: export it with --converters")
    net = graph.graph_of(model, patches.shape[1:])
    return int8.quantize(*fit_for_int8(net, patches)) if quantized else net


@torch.no_grad()
def _check_member(
    name: str, run: Run, net: Any, folder: Path, patches: np.ndarray, quantized: bool, formats: Sequence[str]
) -> dict[str, float]:
    """Raises ValueError where a file and torch do not say the same -> by how much they differ, what from whom."""
    files = {fmt: (folder / f"{name}.{fmt}").read_bytes() for fmt in formats}
    logits = run.model(torch.from_numpy(patches)).numpy()
    if not quantized:
        run_in = {"tflite": ("LiteRT", parity.run_tflite), "onnx": ("onnxruntime", parity.run_onnx)}
        engines = {run_in[fmt][0]: _by_patch(run_in[fmt][1](file, patches)) for fmt, file in files.items()}
        report = parity.compare(logits, engines, FLOAT_BOUND * max(1.0, float(np.abs(logits).max())))
        return {f"logits, {engine}": row["max_diff"] for engine, row in report.items()}
    parity.check_int8(net, files["tflite"], files["onnx"], patches)
    exact, rounded = (np.exp(fusion.patch_log_p(y)) for y in (logits, parity.run_tflite(files["tflite"], patches)))
    differences = np.abs(exact - rounded).max(1)
    if not differences.mean() <= INT8_BOUND:
        raise ValueError(
            f"{name}: int8 moves probabilities by {differences.mean():.2f} on average, at most {INT8_BOUND} allowed"
        )
    return {"probabilities, int8, mean": float(differences.mean()), "probabilities, int8": float(differences.max())}


def _by_patch(logits: np.ndarray) -> np.ndarray:
    """Where a file decides on every frame, what train.strategies makes of it: the log of the mean probability."""
    return fusion.patch_log_p(logits) if logits.ndim == 3 else logits


def _rounded(table: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in table]


def _write_json(
    folder: Path, runs: list[Run], written: list[tuple[dict[str, Any], dict[str, float]]], quantized: bool, fuse: str
) -> None:
    first, members = runs[0], [member for member, _ in written]
    for run, member in zip(runs, members):
        if run.patch != first.patch:
            member["patch"] = run.patch.to_json()
    stride_s = max(run.patch.stride * run.frontend.hop_length / run.frontend.sr for run in runs)
    window_s = SURE_WINDOW_S if all(run.patch.certainty for run in runs) else WINDOW_S
    heard_hz = [run.meta.get("data", {}).get("highest_hz", run.frontend.sr / 2) for run in runs]
    values = {
        "format": FORMAT,
        "labels": list(first.labels),
        "sr": first.frontend.sr,
        "window_s": max(window_s, float(math.ceil(stride_s))),
        "hop_s": HOP_S,
        **({"highest_hz": max(heard_hz)} if max(heard_hz) < first.frontend.sr / 2 else {}),
        "fuse": fuse,
        "patch": first.patch.to_json(),
        "members": members,
        "provenance": {
            "numbers": "int8" if quantized else "float32",
            "runs": {_name(run): {key: run.meta[key] for key in _FACTS if run.meta.get(key)} for run in runs},
            "differences_from_torch": {member["name"]: said for member, said in written},
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
