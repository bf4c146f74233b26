"""Which CNN-7 shape a byte budget can hold: the largest whose int8 files, written and weighed, fit in every format."""

import dataclasses
from functools import lru_cache

from compress.size import fits, random_net
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from train.cnn7 import WIDTHS_DEPLOYED, WIDTHS_FULL

N_MEMBERS = 3
SLACK_BYTES = 256  # a trained net's file can be this much longer than a random one's: fewer equal numbers to share


@dataclasses.dataclass(frozen=True)
class Shape:
    """Widths of the six convolutions, and whether the last five are decomposed (DC)."""

    widths: tuple[int, ...]
    decomposed: bool

    @property
    def kwargs(self):
        return {"widths": list(self.widths), "decomposed": self.decomposed, "order": "deploy", "dropout": 0.0}


def ladder():
    """-> shapes from the smallest to the largest: DC from 1/16 to twice the deployed widths, then Table I's own."""
    return [Shape(_scaled(WIDTHS_DEPLOYED, k / 16), True) for k in range(1, 33)] + [Shape(WIDTHS_FULL, False)]


def _scaled(widths, factor):
    """DC needs multiples of 4."""
    return tuple(max(4, round(w * factor / 4) * 4) for w in widths)


@lru_cache(maxsize=64)
def file_bytes(shape, n_classes):
    """-> {"tflite": bytes, "onnx": bytes} of one net with random numbers in it."""
    net = random_net(shape.widths, shape.decomposed, n_classes)
    return {"tflite": len(tflite_bytes(net)), "onnx": len(onnx_bytes(net))}


def largest_fitting(budget_bytes, n_classes):
    """-> the largest Shape whose three nets fit the budget, by file. Raises ValueError that names the smallest budget."""
    shapes = ladder()
    best = None
    for shape in shapes:  # ascending: the first that does not fit ends it
        sizes = file_bytes(shape, n_classes)
        if not all(fits([size + SLACK_BYTES] * N_MEMBERS, budget_bytes) for size in sizes.values()):
            break
        best = shape
    if best is None:
        least = N_MEMBERS * (max(file_bytes(shapes[0], n_classes).values()) + SLACK_BYTES)
        raise ValueError(
            f"no CNN-7 for {n_classes} classes fits {budget_bytes:,} bytes: the smallest three nets take {least:,}"
        )
    return best
