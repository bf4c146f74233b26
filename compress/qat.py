"""Quantization-aware training: a few epochs with the deployed net's own rounding in the forward pass.

The scales and zero points are those of the exported file, literally: `FakeQuantized` takes them from export.int8 and
`deployed` goes back through it. BN is folded before it starts, so what is trained is what is deployed.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from compress.recipe import NO_AUGMENTATION, NOISE_SHARE
from export import int8
from export.equalize import fit_for_int8
from export.graph import Concat, Pool, Slice, graph_of, groups_of, shapes
from train.loop import fit
from train.recipe import Recipe
from train.trainer import made_noises

LR = 1e-4  # a thirtieth of the training's: the net is trained, it only learns to live on its grid


class FakeQuantized(nn.Module):
    """(batch, planes, frames, bands) -> (batch, n_classes) logits as an int8 engine computes them, up to rounding.

    graph: an export.graph.Graph without Shift. ranges: (low, high) per tensor, as int8.calibrate gives them; they stay.
    Weights and biases are parameters, quantized anew at each call; gradients pass the rounding straight through and
    stop where a value was clipped.
    """

    def __init__(self, graph, ranges):
        super().__init__()
        net = int8.quantize(graph, ranges)
        self.graph, self.ranges = graph, [(float(low), float(high)) for low, high in ranges]
        self.scales, self.zero_points = net.scales, net.zero_points
        self.channels = [channels for channels, _, _ in shapes(graph)]
        convs = {str(i): op for i, op in enumerate(graph.ops, 1) if hasattr(op, "weight")}
        self.weights = nn.ParameterDict(
            {i: nn.Parameter(torch.from_numpy(op.weight.copy())) for i, op in convs.items()}
        )
        self.biases = nn.ParameterDict({i: nn.Parameter(torch.from_numpy(op.bias.copy())) for i, op in convs.items()})
        self.kwargs = {"ranges": self.ranges}  # what a checkpoint is recognised by

    def forward(self, x):
        tensors = [self._on_grid(x, 0)]
        for number, op in enumerate(self.graph.ops, 1):
            if isinstance(op, Concat):
                y = torch.cat([tensors[src] for src in op.srcs], dim=1)
            elif isinstance(op, Slice):
                y = tensors[op.src][:, op.start : op.stop]
            elif isinstance(op, Pool):
                y = self._pool(tensors[op.src], op.kernel, number)
            else:
                y = self._on_grid(self._conv(tensors[op.src], op, number), number)
            tensors.append(y)
        return tensors[-1].flatten(1)

    def _on_grid(self, x, number):
        """Behind a ReLU the zero point is -128: the clamp is the ReLU."""
        scale, zero_point = float(self.scales[number]), int(self.zero_points[number])
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)

    def _conv(self, x, op, number):
        weight, bias = self.weights[str(number)], self.biases[str(number)]
        in_scale = self.scales[op.src]
        scale = torch.from_numpy(int8.weight_scales(_array(weight), _array(bias), in_scale, self.scales[number]))
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)
        unit = scale * float(in_scale)
        bias = bias + (torch.round(bias / unit) * unit - bias).detach()
        padding = op.weight.shape[2] // 2, op.weight.shape[3] // 2
        return F.conv2d(x, weight, bias, padding=padding, groups=groups_of(self.channels[op.src], op.weight))

    def _pool(self, x, kernel, number):
        """Engines average raw int8 numbers and round halves away from zero: export.int8."""
        y, count = F.avg_pool2d(x, kernel), kernel[0] * kernel[1]
        scale, zero_point = float(self.scales[number]), int(self.zero_points[number])
        sums = torch.round((y.detach() / scale + zero_point) * count)  # whole numbers, whatever float made of them
        raw = torch.sign(sums) * torch.div(sums.abs() + count // 2, count, rounding_mode="floor")
        return y + ((raw - zero_point) * scale - y).detach()

    def deployed(self) -> int8.Int8Net:
        """The net as numbers, ready for the writers."""
        ops = [
            dataclasses.replace(op, weight=_array(self.weights[str(i)]), bias=_array(self.biases[str(i)]))
            if hasattr(op, "weight")
            else op
            for i, op in enumerate(self.graph.ops, 1)
        ]
        return int8.quantize(dataclasses.replace(self.graph, ops=tuple(ops)), self.ranges)


def _array(parameter) -> np.ndarray:
    return parameter.detach().numpy()


def recipe(epochs, seed=0, augmented=True, noise_share=NOISE_SHARE):
    """How to train on: slowly, after the float net's opinion alone. The rest as compress.recipe.recipe says."""
    full = Recipe(epochs=epochs, lr=LR, distill=1.0, weight_decay=0.0, seed=seed, noise_share=noise_share)
    return full if augmented else dataclasses.replace(full, **NO_AUGMENTATION)


def finetune(run, statics, targets, calibration, recipe, folder, *, say=print):
    """Train on with fake quantization -> the Run whose model is FakeQuantized, for export.assemble and for scoring.

    statics, targets, folder: as of train.loop.fit, resumable like it. calibration: normalised patches
    (n, planes, frames, bands) of training clips. The float net is the teacher, and with recipe.distill 1 the only one:
    the labels alone, on so small a learning rate, lead the net away from where its long training left it (LOG.md).
    """
    model = FakeQuantized(*fit_for_int8(graph_of(run.model, calibration.shape[1:]), calibration))
    tuned = dataclasses.replace(run, model=model, meta={**run.meta, "qat": dataclasses.asdict(recipe)})

    mean, std = (torch.from_numpy(table)[:, None] for table in (run.mean, run.std))  # (planes, 1, bands)

    @torch.no_grad()
    def in_float(raw):
        return run.model((raw - mean) / std)

    fit(
        tuned, statics, targets, recipe, folder, teacher=in_float, say=say,
        noises=lambda: made_noises(run.frontend, recipe, len(targets)),
    )  # fmt: skip
    return tuned
