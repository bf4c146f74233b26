"""C-RNN of P1: convolutions along frequency only, then a bidirectional GRU along time, patch -> logits.

P1 has it as the second half of its joint network (train.joint); standing alone it ends in the FC layers of its C-DNN.
"""

from torch import nn

from train.cdnn import FC_WIDTHS, fully_connected, scaled

KERNEL_BANDS = 4  # "4 x 1": four bands of one frame
WIDTHS = (32, 64, 128, 256)
DROPOUTS = (0.1, 0.15, 0.2, 0.25)  # unstated in our notes on the paper; those of its C-DNN
HIDDEN = 64
GRU_DROPOUT = 0.3


class Recurrent(nn.Module):
    """(batch, 1, frames, bands) -> (batch, 128 width, frames, 1): a vector per frame that knows what came before and after.

    Pools of 2, 2, 2 bands and then of all that are left, 16 of 128. P1 prints the GRU's output as 128 x 256, but two
    directions of 64 are 128, and 128 is what its next layer has; 128 it is.
    """

    def __init__(self, width):
        super().__init__()
        layers, cin = [nn.BatchNorm2d(1)], 1
        for i, cout in enumerate(scaled(WIDTHS, width)):
            # an even kernel keeps the bands with one more zero above than below, as TensorFlow's "same" does
            layers += [nn.ZeroPad2d(((KERNEL_BANDS - 1) // 2, KERNEL_BANDS // 2, 0, 0))]
            layers += [nn.Conv2d(cin, cout, (1, KERNEL_BANDS)), nn.ReLU(), nn.BatchNorm2d(cout)]
            layers += [nn.AvgPool2d((1, 2)) if i < 3 else nn.AdaptiveAvgPool2d((None, 1)), nn.Dropout(DROPOUTS[i])]
            cin = cout
        self.convolutions = nn.Sequential(*layers)
        (hidden,) = scaled([HIDDEN], width)
        self.gru = nn.GRU(cin, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(GRU_DROPOUT)
        self.n_out = 2 * hidden

    def forward(self, x):
        x = self.convolutions(x).squeeze(3).transpose(1, 2)  # (batch, frames, channels)
        x, _ = self.gru(x)  # (batch, frames, 2 hidden)
        return self.dropout(x).transpose(1, 2).unsqueeze(3)


class CRNN(nn.Module):
    """(batch, 1, frames, bands) normalised patches -> (batch, n_classes) logits. width: factor on all widths."""

    def __init__(self, n_classes, width=1.0):
        super().__init__()
        self.kwargs = dict(n_classes=n_classes, width=width)
        self.maps = Recurrent(width)
        self.head = fully_connected(self.maps.n_out, scaled(FC_WIDTHS, width), n_classes)

    def pool(self, maps):
        return maps.mean((2, 3))  # over time: 128 outputs, whatever the patch's length

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))
