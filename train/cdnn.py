"""C-DNN of P1: six convolutions, wide kernels first, then three fully connected layers, patch -> logits."""

from torch import nn

from runtime.values import is_number

KERNELS = (9, 7, 5, 5, 3, 3)
WIDTHS = (32, 64, 128, 128, 256, 256)
POOLED = (True, True, False, True, False, False)  # 2x2; the sixth is pooled globally
DROPOUTS = (0.1, 0.15, 0.2, 0.2, 0.25, 0.25)
FC_WIDTHS = (512, 1024)
FC_DROPOUT = 0.3


def scaled(widths, width):
    """Channels of a net that is `width` times as wide. Raises ValueError outside (0, 4]."""
    if not is_number(width, 0, 4) or width == 0:
        raise ValueError(f"width {width!r}: choose a factor above 0, at most 4 (1 is the paper's)")
    return [max(1, round(n * width)) for n in widths]


def fully_connected(n_in, widths, n_classes, dropout=FC_DROPOUT):
    """(n, n_in) -> (n, n_classes) logits: linear - ReLU - dropout for each width, then linear."""
    layers = []
    for n_out in widths:
        layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
        n_in = n_out
    return nn.Sequential(*layers, nn.Linear(n_in, n_classes))


def convolutions(width):
    """(batch, 1, frames, bands) -> (batch, 256 width, frames / 8, bands / 8): the CNN of P1's C-DNN.

    The first block is BN - convolution - ReLU - BN, the others convolution - ReLU - BN, as printed.
    """
    layers, cin = [nn.BatchNorm2d(1)], 1
    for i, (kernel, cout) in enumerate(zip(KERNELS, scaled(WIDTHS, width))):
        layers += [nn.Conv2d(cin, cout, kernel, padding=kernel // 2), nn.ReLU(), nn.BatchNorm2d(cout)]
        layers += [nn.AvgPool2d(2)] if POOLED[i] else []
        layers += [nn.Dropout(DROPOUTS[i])] if i < len(KERNELS) - 1 else []  # the last drops what was pooled
        cin = cout
    return nn.Sequential(*layers)


class CDNN(nn.Module):
    """(batch, 1, frames, bands) normalised patches -> (batch, n_classes) logits; P1 takes 128 x 128.

    width: factor on the paper's channels and FC widths. `maps`, `pool` and `head` are the stages of every net here
    that train.strategies can open: maps (batch, channels, frames', bands'), then one vector per patch, then logits.
    """

    def __init__(self, n_classes, width=1.0):
        super().__init__()
        self.kwargs = dict(n_classes=n_classes, width=width)
        self.maps = convolutions(width)
        self.dropout = nn.Dropout(DROPOUTS[-1])
        self.fc = fully_connected(scaled(WIDTHS, width)[-1], scaled(FC_WIDTHS, width), n_classes)

    def pool(self, maps):
        return maps.mean((2, 3))  # (batch, channels)

    def head(self, vectors):
        return self.fc(self.dropout(vectors))

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))
