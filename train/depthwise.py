"""Convolutions of one channel alone, and what separable nets are made of: convolution - BN - ReLU."""

import torch
import torch.nn.functional as F
from torch import nn

from train.cdnn import scaled


class Depthwise(nn.Conv2d):
    """(batch, channels, frames, bands) -> (batch, channels, frames / stride, bands / stride), zero padded, no bias.

    kernel: odd; kernel, stride and dilation as (frames, bands).
    """

    def __init__(self, n_channels, kernel, stride=(1, 1), dilation=(1, 1)):
        padding = tuple(size // 2 * step for size, step in zip(kernel, dilation))
        super().__init__(
            n_channels, n_channels, kernel, stride, padding, dilation, groups=n_channels, bias=False
        )  # fmt: skip
        self.is_slow = stride != (1, 1) or dilation != (1, 1) or max(kernel) > 3

    def forward(self, x):
        if self.training and self.is_slow:  # dense is 3 to 5 times as fast in bfloat16: only plain 3x3 have a kernel
            return F.conv2d(x, self.dense_weight(), None, self.stride, self.padding, self.dilation)
        return super().forward(x)

    def dense_weight(self):
        """-> (channels, channels, kernel frames, bands): the ordinary convolution that this is, zero between channels."""
        return torch.diag_embed(self.weight.permute(1, 2, 3, 0))[0].permute(2, 3, 0, 1)


def normalised(conv, relu=True):
    """Convolution - BN - ReLU: the BN folds into the convolution exactly, borders included."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), *([nn.ReLU()] if relu else []))


def pointwise(cin, cout, relu=True):
    """1x1 convolution - BN - ReLU."""
    return normalised(nn.Conv2d(cin, cout, 1, bias=False), relu)


def fours(widths, width):
    """Channels of a net `width` times as wide, in fours: what int8 kernels multiply at once. Raises ValueError as scaled."""
    return [4 * max(1, round(n / 4)) for n in scaled(widths, width)]
