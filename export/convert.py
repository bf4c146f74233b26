"""A torch net -> float ONNX and TFLite files, by the converters that others maintain: torch.onnx and litert-torch.

For nets that export.graph has no form for. The files are large, and export.assemble holds them against torch like any
other: converters have been silently wrong on our nets.
"""

import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn

from train.learned import BANKS

NEEDS = {"onnx": ("onnxscript",), "tflite": ("litert_torch",)}


def check_installed(formats: Sequence[str] = tuple(NEEDS)) -> None:
    """Raises ImportError, one line with the remedy, where a converter is missing."""
    missing = [name for fmt in formats for name in NEEDS[fmt] if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"--converters needs {' and '.join(missing)}: pip install 'tinyear[convert]'")


def onnx_bytes(model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    """(planes, frames, bands) -> a float .onnx file: (1, planes, frames, bands) -> (1, n_classes), by torch.onnx."""
    return _converted("onnx", _by_torch, model, in_shape)


def tflite_bytes(model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    """The same as a .tflite file: (1, frames, bands, planes) -> (1, n_classes), by litert-torch."""
    return _converted("tflite", _by_litert, model, in_shape)


def with_tables(model: nn.Module, in_shape: tuple[int, int, int]) -> nn.Module:
    """A copy in which each learned filterbank (train.learned) is the table of weights that it has become."""
    model = copy.deepcopy(model)
    banks: list[tuple[nn.Module, str, Any]] = [
        (parent, name, bank)
        for parent in model.modules()
        for name, bank in parent.named_children()
        if isinstance(bank, tuple(BANKS.values()))
    ]
    for parent, name, bank in banks:
        setattr(parent, name, bank.as_table(in_shape[2]))
    return model.eval()


def _by_torch(model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    program = torch.onnx.export(
        model, (torch.zeros(1, *in_shape),), input_names=["patch"], output_names=["logits"], dynamo=True
    )
    assert program is not None
    return program.model_proto.SerializeToString()


def _by_litert(model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    import litert_torch  # type: ignore[import-not-found,unused-ignore]

    planes, frames, bands = in_shape
    channels_last = litert_torch.to_channel_last_io(model, args=[0])
    return litert_torch.convert(channels_last, (torch.zeros(1, frames, bands, planes),)).model_content()


def _converted(fmt: str, convert: Callable, model: nn.Module, in_shape: tuple[int, int, int]) -> bytes:
    """Raises ValueError, one line, where the converter has no form for the net."""
    try:
        with _quiet():
            return convert(with_tables(model, in_shape), in_shape)
    except Exception as error:  # converters raise whatever their insides do
        other = next(name for name in NEEDS if name != fmt)
        reason: BaseException = error
        while reason.__cause__:  # theirs end in pages of advice, what went wrong comes first
            reason = reason.__cause__
        said = next((line for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
        raise ValueError(f"no {fmt} file can hold this net ({said[:200]}): export it with --only {other}") from error


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
