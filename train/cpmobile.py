"""CP-Mobile, the strongest net of DCASE 2023 Task 1, without the one layer that leaves int8: patch -> logits.

Schmid et al., "Distilling the Knowledge of Transformers and CNNs with CP-Mobile", DCASE workshop 2023.
"""

from torch import nn

from train.cnn7 import N_PLANES
from train.depthwise import Depthwise, fours, normalised, pointwise

STEM_WIDTHS = (8, 32)
EXPANSION = 3
# (channels, stride) of each block: one stage of three blocks, one of two, one of one
BLOCKS = ((32, (1, 1)), (32, (2, 2)), (32, (1, 1)), (72, (1, 2)), (72, (1, 1)), (168, (1, 1)))


class Block(nn.Module):
    """(batch, cin, frames, bands) -> (batch, cout, frames / stride, bands / stride): an inverted bottleneck, then ReLU.

    1x1 to EXPANSION times the channels, 3x3 of each channel alone, 1x1 back; the input is added where the channels agree,
    averaged where the block strides. The paper normalises the sum by GRN, which divides by a norm over the map: no
    integer operator does that.
    """

    def __init__(self, cin, cout, stride):
        super().__init__()
        n = EXPANSION * cin
        self.body = nn.Sequential(
            pointwise(cin, n), normalised(Depthwise(n, (3, 3), stride)), pointwise(n, cout, relu=False)
        )
        self.adds = cin == cout
        self.shortcut = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(3, stride, padding=1)

    def forward(self, x):
        y = self.body(x)
        return (y + self.shortcut(x) if self.adds else y).relu()


class CPMobile(nn.Module):
    """(batch, 3 planes, frames, bands) normalised patches -> (batch, n_classes) logits.

    width: factor on the paper's channels (its largest net). Raises ValueError.
    """

    def __init__(self, n_classes, width=1.0):
        super().__init__()
        self.kwargs = dict(n_classes=n_classes, width=width)
        first, cin = fours(STEM_WIDTHS, width)
        layers = [
            normalised(nn.Conv2d(a, b, 3, 2, padding=1, bias=False)) for a, b in ((N_PLANES, first), (first, cin))
        ]
        for cout, (_, stride) in zip(fours([c for c, _ in BLOCKS], width), BLOCKS):
            layers.append(Block(cin, cout, stride))
            cin = cout
        self.maps = nn.Sequential(*layers)
        self.classifier = pointwise(cin, n_classes, relu=False)

    def pool(self, maps):
        return maps.mean((2, 3))  # (batch, channels)

    def head(self, vectors):
        return self.classifier(vectors[:, :, None, None]).flatten(1)

    def forward(self, x):
        return self.classifier(self.maps(x)).mean((2, 3))
