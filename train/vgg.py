"""The two nets of P2: a VGG for DCASE 2020 Task 1A and a tiny one for Task 1B, patch -> logits.

P2 writes spectrograms as time x frequency, so its pools "4 x 2" take four frames and two bands, as ours do.
"""

import torch
from torch import nn

from train.cdnn import fully_connected, scaled

# (kernel, channels) of each convolution, then the pool (frames, bands) behind them
VGG_BLOCKS = (
    (((3, 64), (3, 64)), (4, 2)),
    (((3, 128), (3, 128)), (4, 2)),
    (((3, 256), (3, 256)), (2, 2)),
    (((3, 512), (3, 512)), None),
)
TINY_BLOCKS = (
    (((7, 32),), (4, 2)),
    (((7, 32),), (4, 2)),
    (((3, 64),), (2, 2)),
    (((3, 64),), None),
)
FUSIONS = {"early": 0, "middle": 2, "late": 4}  # blocks that each spectrogram has for itself: EF, MF, LF of P2
FC_DROPOUT = 0.5


class VGG(nn.Module):
    """(batch, 1, frames, sum of bands) normalised patches -> (batch, n_classes) logits. P2, Task 1A: 4,953,930 parameters.

    bands: how many each spectrogram has, in the order in which they lie beside each other; None: it is one. fusion: where
    they become one, see FUSIONS. Early and middle fusion lay maps over each other: all want equally many bands.
    Convolutions have no bias: BN, with ReLU behind it, makes one redundant. width: factor on the paper's widths.
    Raises ValueError.
    """

    blocks: tuple = VGG_BLOCKS
    fc_width = 512

    def __init__(self, n_classes, bands=None, fusion="early", width=1.0):
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion {fusion!r}: choose {', '.join(FUSIONS)}")
        self.bands = checked_bands(bands)
        if fusion != "late" and len(set(self.bands or [])) > 1:
            raise ValueError(f"bands {self.bands}: {fusion} fusion wants equally many each; take --fusion late")
        self.kwargs = dict(n_classes=n_classes, bands=self.bands, fusion=fusion, width=width)
        n_inputs, n_own = len(self.bands or [0]), FUSIONS[fusion]
        blocks = [(scaled([c for _, c in convs], width), [k for k, _ in convs], pool) for convs, pool in self.blocks]
        n_after = [1, *(channels[-1] for channels, _, _ in blocks)]  # of one spectrogram, after each block
        self.own = nn.ModuleList(_stack(1, blocks[:n_own]) for _ in range(n_inputs if n_own else 0))
        self.shared = _stack(n_inputs * n_after[n_own], blocks[n_own:])
        n_vector = n_after[-1] * (n_inputs if fusion == "late" else 1)
        self.head = fully_connected(n_vector, scaled([self.fc_width], width), n_classes, FC_DROPOUT)

    def maps(self, x):
        """-> (batch, channels, frames', bands'). In late fusion, where bands may differ, they are averaged: bands' = 1."""
        inputs = x.split(self.bands, dim=3) if self.bands else [x]
        if self.own:
            inputs = [net(part) for net, part in zip(self.own, inputs)]
        if self.kwargs["fusion"] == "late":
            inputs = [part.mean(3, keepdim=True) for part in inputs]
        return self.shared(torch.cat(inputs, dim=1))

    def pool(self, maps):
        """P2's global pooling: mean over frequency, maximum over time -> (batch, channels)."""
        return maps.mean(3).amax(2)

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))


class TinyVGG(VGG):
    """The same of P2's net for Task 1B: 121,027 parameters with one spectrogram and 3 classes, 124,163 with three, EF.

    That is 473 and 485 KB where P2 prints 468 and 491 KB: both of its figures cannot come from one way of counting, as its
    difference is 23 KB and the two more planes of a 7x7 convolution @ 32 are 12.25 KB.
    """

    blocks, fc_width = TINY_BLOCKS, 200


def _stack(cin, blocks):
    """Convolution - BN - ReLU for each convolution, average pool for each block."""
    layers = []
    for channels, kernels, pool in blocks:
        for cout, kernel in zip(channels, kernels):
            layers += [nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
            cin = cout
        layers += [nn.AvgPool2d(pool)] if pool else []
    return nn.Sequential(*layers)


def checked_bands(bands):
    """How many bands each spectrogram has -> the same as a list, or None. Raises ValueError."""
    if bands is None:
        return None
    if not isinstance(bands, (list, tuple)) or not all(type(n) is int and n >= 1 for n in bands) or not bands:
        raise ValueError(f"bands {bands!r}: give a list of whole numbers, the bands of each spectrogram")
    return list(bands)
