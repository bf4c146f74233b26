"""The decomposed convolution (DC) of P3: four thin branches with 1.0625 weights per pair of channels, not 9."""

import torch
from torch import nn


class DecomposedConv2d(nn.Module):
    """(batch, cin, frames, bands) -> (batch, cout, frames, bands), zero padded; each branch gives cout / 4 channels.

    In order of their output channels: 3x3 on the first quarter of the input channels, 1x1 on the first half,
    1x1 on the second half, 1x1 on all of them. `ranges` says which input channels each branch sees.
    """

    def __init__(self, cin: int, cout: int, bias: bool = True):
        super().__init__()
        if cin < 4 or cout < 4 or cin % 4 or cout % 4:
            raise ValueError(f"a decomposed convolution needs channels divisible by 4, got {cin} -> {cout}")
        quarter, half = cin // 4, cin // 2
        self.ranges = ((0, quarter), (0, half), (half, cin), (0, cin))
        self.branches = nn.ModuleList(
            nn.Conv2d(stop - start, cout // 4, size, padding=size // 2, bias=bias)
            for (start, stop), size in zip(self.ranges, (3, 1, 1, 1))
        )

    def forward(self, x):
        return torch.cat([conv(x[:, a:b]) for conv, (a, b) in zip(self.branches, self.ranges)], dim=1)
