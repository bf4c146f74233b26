"""A torch net -> float ONNX and TFLite files, by the converters that others maintain: torch.onnx and litert-torch.

For nets that export.graph has no form for. The files are large, and export.assemble holds them against torch like any
other: converters have been silently wrong on our nets.
"""

import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout

import torch
from torch import nn

NEEDS = {"onnx": ("onnxscript",), "tflite": ("litert_torch",)}


def check_installed() -> None:
    """Raises ImportError, one line with the remedy, where a converter is missing."""
    missing = [name for names in NEEDS.values() for name in names if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"--converters needs {' and '.join(missing)}: pip install 'tinyear[convert]'")


def onnx_bytes(model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    """(planes, frames, bands) -> a float .onnx file: (1, planes, frames, bands) -> (1, n_classes), by torch.onnx."""
    patch = torch.zeros(1, *in_shape)
    with _quiet():
        program = torch.onnx.export(model, (patch,), input_names=["patch"], output_names=["logits"], dynamo=True)
    assert program is not None
    return program.model_proto.SerializeToString()


def tflite_bytes(model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    """The same as a .tflite file: (1, frames, bands, planes) -> (1, n_classes), by litert-torch."""
    import litert_torch  # type: ignore[import-not-found,unused-ignore]

    planes, frames, bands = in_shape
    with _quiet():
        channels_last = litert_torch.to_channel_last_io(model, args=[0])
        converted = litert_torch.convert(channels_last, (torch.zeros(1, frames, bands, planes),))
    return converted.model_content()


class _quiet:
    """Keeps what converters print about their own progress off the terminal; their errors come through."""

    def __enter__(self):
        self.kept = [redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings()]
        for context in self.kept:
            context.__enter__()
        warnings.simplefilter("ignore")
        self.level = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *error):
        logging.disable(self.level)
        for context in reversed(self.kept):
            context.__exit__(*error)
