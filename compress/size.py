"""How big CNN-7 is, by every convention.  python -m compress.size [--json]

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

from export import int8
from export.graph import graph_of, macs
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime import command
from train.cnn7 import CNN7, N_PLANES, WIDTHS_CR, WIDTHS_DEPLOYED, WIDTHS_FULL, WIDTHS_WIDE

MAX_BYTES = 2**30
UNITS = {"": 1, "b": 1, "kb": 1024, "kib": 1024, "mb": 1024**2, "mib": 1024**2}
NETS = {  # name: widths, decomposed, KB at 32 bit as published in P3
    "CNN-7": (WIDTHS_FULL, False, 1129.0),
    "CNN-7 CR": (WIDTHS_CR, False, 313.0),
    "CNN-7 CR+DC": (WIDTHS_CR, True, 42.6),
    "wide DC": (WIDTHS_WIDE, True, None),
    "full DC": (WIDTHS_FULL, True, None),
    "deployed": (WIDTHS_DEPLOYED, True, None),
}
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
        "mmacs": round(macs(net) / 1e6, 1),
    }


def table(rows: list[dict]) -> str:
    """Rows of `size_row` -> the printed table and its legend."""
    heads = ["net"] + [heading for heading, _ in COLUMNS.values()]
    cells = [heads] + [[_cell(row[key]) for key in ("net", *COLUMNS)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells]
    return "\n".join([*lines, "", *(f"{heading:>8}  {meaning}" for heading, meaning in COLUMNS.values())])


def _cell(value) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, (int, float)) else value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m compress.size", description=__doc__.split("  ")[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    arguments = parser.parse_args()
    rows = [size_row(name) for name in NETS]
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))


if __name__ == "__main__":
    command.run(main)
