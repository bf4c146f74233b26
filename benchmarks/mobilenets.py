"""MobileNetV1 and V2 at width 1.0, 224 x 224, as skeletons: XNNPACK's own benchmark builds them in code, as no file.

Layers as in Howard et al. 2017, table 1, and Sandler et al. 2018, table 2.
"""

from pathlib import Path

import numpy as np

from devices.graph import Graph, Node, Tensor
from devices.size import ModelSize, measure_graph


class _Builder:
    """Chains int8 layers over one tensor of `size` x `size` x `channels`."""

    def __init__(self) -> None:
        self.tensors, self.nodes, self.size, self.channels = {"x": Tensor((1, 224, 224, 3), "int8", 8)}, [], 224, 3
        self.last = "x"

    def layer(self, op: str, weight: tuple[int, ...], out: tuple[int, ...]) -> None:
        name = f"{len(self.nodes)}"
        self.tensors["w" + name] = Tensor(weight, "int8", 8, np.broadcast_to(np.int8(1), weight))
        self.tensors[name] = Tensor(out, "int8", 8)
        self.nodes.append(Node(op, (self.last, "w" + name), (name,)))
        self.last = name

    def conv(self, out: int, kernel: int = 1, stride: int = 1) -> None:
        self.size //= stride
        self.layer("CONV_2D", (out, kernel, kernel, self.channels), (1, self.size, self.size, out))
        self.channels = out

    def depthwise(self, stride: int) -> None:
        self.size //= stride
        self.layer("DEPTHWISE_CONV_2D", (1, 3, 3, self.channels), (1, self.size, self.size, self.channels))

    def model(self, name: str) -> ModelSize:
        self.layer("FULLY_CONNECTED", (1000, self.channels), (1, 1000))
        return measure_graph(Path(name), 0, Graph(tuple(self.nodes), self.tensors, ("x",), (self.last,)))


def models() -> dict[str, ModelSize]:
    """File name as in benchmarks/data/xnnpack.csv -> size."""
    v1, v2 = _Builder(), _Builder()
    v1.conv(32, 3, 2)
    for out, stride in [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]:
        v1.depthwise(stride)
        v1.conv(out)
    v2.conv(32, 3, 2)
    for expand, out, n, stride in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                   (6, 160, 3, 2), (6, 320, 1, 1)]:  # fmt: skip
        for i in range(n):
            if expand > 1:
                v2.conv(v2.channels * expand)
            v2.depthwise(stride if i == 0 else 1)
            v2.conv(out)
    v2.conv(1280)
    names = ("mobilenet_v1_1.0_224_int8.tflite", "mobilenet_v2_1.0_224_int8.tflite")
    return {names[0]: v1.model(names[0]), names[1]: v2.model(names[1])}
