"""How big CNN-7 is, by every convention, and other families.  python -m compress.size [--json]

KB is 1024 bytes. The budget is judged on the sum of the deployed files of one format: `parse_bytes` reads it, `fits`
judges it, and nothing else does either.
"""

import argparse
import json
import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from export import int8
from export.graph import graph_of, macs
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime import command
from train.cnn7 import CNN7, N_PLANES, WIDTHS_CR, WIDTHS_DEPLOYED, WIDTHS_FULL, WIDTHS_WIDE
from train.models import MODELS
from train.systems import SYSTEMS

MAX_BYTES = 2**30
# What one more convolution, one more operator of another kind, and no operator at all take in a file of export.to_tflite.
CONV_BYTES, OTHER_BYTES, EMPTY_BYTES = 184, 93, 416
OTHERS = {"add", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "cat", "slice"}  # ATen's names
UNITS = {"": 1, "b": 1, "kb": 1024, "kib": 1024, "mb": 1024**2, "mib": 1024**2}
NETS = {  # name: widths, decomposed, KB at 32 bit as published in P3
    "CNN-7": (WIDTHS_FULL, False, 1129.0),
    "CNN-7 CR": (WIDTHS_CR, False, 313.0),
    "CNN-7 CR+DC": (WIDTHS_CR, True, 42.6),
    "wide DC": (WIDTHS_WIDE, True, None),
    "full DC": (WIDTHS_FULL, True, None),
    "deployed": (WIDTHS_DEPLOYED, True, None),
}
FAMILIES = [(name, shape) for name in ("cpmobile", "bcresnet") for shape in SYSTEMS[name].shapes]
COLUMNS = {  # key of `size_row`: (heading, what it counts)
    "paper": ("P3", "parameters as P3 counts: convolutions, gamma and beta of the BN in front of each, FC weights"),
    "paper_kb": ("P3 KB", "the same at 32 bit"),
    "published_kb": ("printed", "KB printed in P3"),
    "dcase_2020": ("D2020", "DCASE 2020: parameters that are not zero, BN apart"),
    "dcase_2021": ("D2021", "DCASE 2021: all trainable parameters"),
    "with_statistics": ("+stats", "all parameters and the running statistics of BN"),
    "dcase_2022": ("D2022", "DCASE 2022: weights and biases of the deployed net, zeros included; at most 128 K"),
    "deployed_float_bytes": ("float B", "those at 32 bit"),
    "dcase_2023_bytes": ("D2023 B", "DCASE 2023 on: bytes of those as int8 weights and int32 biases; at most 128 kB"),
    "tflite_bytes": ("tflite B", "the deployed int8 file"),
    "onnx_bytes": ("onnx B", "the deployed int8 file"),
    "estimated_bytes": ("estimate", "of the int8 tflite file, for families that our writers have no form of"),
    "mmacs": ("MMAC", "million multiply-accumulates of one 128 x 128 patch"),
}


def parse_bytes(text: str | int) -> int:
    """ "128kb" -> 131072. Units b, kb or kib (1024 bytes), mb or mib; a plain number is bytes."""
    wanted = f"a size from 1 byte to {MAX_BYTES} bytes, such as 131072, 128kb or 0.5mb"
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError(f"{text!r} is not a size; want {wanted}")
    match = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-z]*)\s*", str(text).lower())
    if not match or match[2] not in UNITS:
        raise ValueError(f"{text!r} is not a size; want {wanted}")
    n_bytes = int(float(match[1]) * UNITS[match[2]])
    if not 1 <= n_bytes <= MAX_BYTES:
        raise ValueError(f"{text!r} is {n_bytes} bytes; want {wanted}")
    return n_bytes


def fits(file_sizes: Iterable[int], budget_bytes: int) -> bool:
    """Whether the files deployed together, all of one format, stay within the budget: the one definition of it."""
    return sum(file_sizes) <= budget_bytes


def paper_parameters(model: nn.Module) -> int:
    """P3's count: convolution weights and biases, gamma and beta of the BN in front of each, FC weights, no FC bias."""
    convs = sum(p.numel() for block in model.blocks for part in (block.before, block.conv) for p in part.parameters())
    return convs + model.fc.weight.numel()


def trained_counts(model: nn.Module) -> dict[str, int]:
    """The conventions that count a net as it was trained."""
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    total = sum(p.numel() for p in model.parameters())
    non_zero = sum(int(p.count_nonzero()) for p in model.parameters())
    in_norms = sum(int(p.count_nonzero()) for m in norms for p in m.parameters())
    statistics = sum(m.running_mean.numel() + m.running_var.numel() for m in norms)
    return {
        "paper": paper_parameters(model),
        "dcase_2020": non_zero - in_norms,
        "dcase_2021": total,
        "with_statistics": total + statistics,
    }


def deployed_counts(net) -> dict[str, int]:
    """The conventions that count a Graph or an Int8Net: BN folded away."""
    convs = [op for op in net.ops if hasattr(op, "weight")]
    weights, biases = sum(op.weight.size for op in convs), sum(op.bias.size for op in convs)
    return {
        "dcase_2022": weights + biases,
        "deployed_float_bytes": 4 * (weights + biases),
        "dcase_2023_bytes": weights + 4 * biases,
    }


def random_net(widths, decomposed, n_classes: int = 10, n_frames: int = 128, n_bands: int = 128) -> int8.Int8Net:
    """An untrained CNN-7 for patches of n_frames x n_bands: as long a file as a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CNN7(n_classes, widths, decomposed, order="deploy").eval()
        for block in model.blocks:
            nn.init.normal_(block.after.bias, std=0.1)  # equal biases would be stored once
    graph = graph_of(model, (N_PLANES, n_frames, n_bands))
    patches = np.random.default_rng(0).standard_normal((1, *graph.in_shape), np.float32)
    return int8.quantize(graph, int8.calibrate(graph, patches))


class _Deployed(TorchDispatchMode):
    """Notes what runs of a net once its BN is folded and its ReLU fused: convolutions, and how many other operators."""

    def __init__(self):
        super().__init__()
        self.convs, self.n_others = [], 0  # (weights of an output channel, output channels, cells of its map)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name == "convolution":
            weight, stride = args[1], args[3]
            self.convs.append((weight[0].numel(), len(weight), out[0, 0].numel()))
            self.n_others += max(stride) > 1 and weight[0, 0].numel() > 1  # PAD: torch pads both sides, SAME the end
        elif name == "addmm":
            self.convs.append((len(args[2]), out.shape[1], 1))
        elif name in OTHERS:
            self.n_others += out.shape != args[0].shape if name == "slice" else 1
        return out


def estimated_counts(model: nn.Module, in_shape: tuple[int, int, int] = (N_PLANES, 128, 128)) -> dict[str, int | float]:
    """`deployed_counts` of any net of convolutions, and an estimate of its int8 .tflite file.

    in_shape: (planes, frames, bands). Bytes of the file: one for each weight; eight for each channel, a bias and a scale,
    where the net has no bias too; zero points of eight each, a list for every number of channels; and what operators
    take. Within 3 % of the files of all NETS.
    """
    noted = _Deployed()
    with torch.no_grad(), noted:
        model.eval()(torch.zeros(1, *in_shape))
    weights = sum(n * n_out for n, n_out, _ in noted.convs)
    channels = [n_out for _, n_out, _ in noted.convs]
    operators = CONV_BYTES * len(noted.convs) + OTHER_BYTES * noted.n_others + EMPTY_BYTES
    return {
        "dcase_2022": weights + sum(channels),
        "deployed_float_bytes": 4 * (weights + sum(channels)),
        "dcase_2023_bytes": weights + 4 * sum(channels),
        "estimated_bytes": weights + 8 * sum(channels) + 8 * sum(set(channels)) + operators,
        "mmacs": round(sum(n * n_out * cells for n, n_out, cells in noted.convs) / 1e6, 1),
    }


def size_row(name: str, n_classes: int = 10) -> dict:
    """Every count of one net of NETS, its files with random numbers in them."""
    widths, decomposed, published_kb = NETS[name]
    paper = CNN7(n_classes, widths, decomposed, order="paper")
    net = random_net(widths, decomposed, n_classes)
    return {
        "net": name,
        **trained_counts(paper),
        "paper_kb": round(paper_parameters(paper) * 4 / 1024, 2),
        "published_kb": published_kb,
        **deployed_counts(net),
        "tflite_bytes": len(tflite_bytes(net)),
        "onnx_bytes": len(onnx_bytes(net)),
        "estimated_bytes": estimated_counts(CNN7(n_classes, widths, decomposed))["estimated_bytes"],
        "mmacs": round(macs(net) / 1e6, 1),
    }


def family_row(name: str, shape: str, n_classes: int = 10) -> dict:
    """What can be counted of a net that no writer of ours takes, see train.systems."""
    model = MODELS[name](n_classes=n_classes, **SYSTEMS[name].shapes[shape])
    n_parameters = sum(p.numel() for p in model.parameters())
    return {"net": f"{name} {shape}", "dcase_2021": n_parameters, **estimated_counts(model)}


def table(rows: list[dict]) -> str:
    """Rows of `size_row` and `family_row` -> the printed table and its legend."""
    heads = ["net"] + [heading for heading, _ in COLUMNS.values()]
    cells = [heads] + [[_cell(row.get(key)) for key in ("net", *COLUMNS)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells]
    return "\n".join([*lines, "", *(f"{heading:>8}  {meaning}" for heading, meaning in COLUMNS.values())])


def _cell(value) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, (int, float)) else value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m compress.size", description=__doc__.split("  ")[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    arguments = parser.parse_args()
    rows = [size_row(name) for name in NETS] + [family_row(*family) for family in FAMILIES]
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))


if __name__ == "__main__":
    command.run(main)
