"""BC-ResNet: most of its work on vectors along time, broadcast back over the bands: patch -> logits.

Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting", Interspeech 2021.
"""

import torch.nn.functional as F
from torch import nn

from train.cnn7 import N_PLANES
from train.depthwise import Depthwise, fours, normalised, pointwise

STEM_WIDTH, HEAD_WIDTH = 128, 256
# channels, blocks, stride along the bands of the first one; stage k dilates time by 2 ** k. BC-ResNet-8.
STAGES = ((64, 2, 1), (96, 2, 2), (128, 4, 2), (160, 4, 1))


class Block(nn.Module):
    """(batch, cin, frames, bands) -> (batch, cout, frames, bands / stride): x + f2(x) + broadcast f1(mean f2(x)), ReLU.

    f2 looks along the bands, f1 along the frames of what it averages over all bands. In a transition block f2 begins with
    a 1x1 convolution and x itself is not added. The paper has a sub-spectral norm behind f2's convolution and swish in
    f1: BN and ReLU here, since a norm that differs by band does not fold into a convolution, and swish is no one operator
    of int8.
    """

    def __init__(self, cin, cout, stride, dilation, is_transition):
        super().__init__()
        self.is_transition = is_transition
        self.across_bands = nn.Sequential(
            pointwise(cin, cout) if is_transition else nn.Identity(),
            normalised(Depthwise(cout, (1, 3), (1, stride)), relu=False),
        )
        self.along_time = nn.Sequential(
            normalised(Depthwise(cout, (3, 1), dilation=(dilation, 1))), nn.Conv2d(cout, cout, 1, bias=False)
        )

    def forward(self, x):
        y = self.across_bands(x)
        z = y + self.along_time(F.adaptive_avg_pool2d(y, (y.shape[2], 1)))
        return (z if self.is_transition else z + x).relu()


class BCResNet(nn.Module):
    """(batch, 3 planes, frames, bands) normalised patches -> (batch, n_classes) logits.

    width: factor on the channels of BC-ResNet-8, the paper's largest; 1/4 is its BC-ResNet-2. band_stride: of the first
    convolution, 2 or 4. The paper goes on with 101 frames of 10 ms and 20 of its 40 bands, by a stride of 1 x 2. We take
    2 x 4, to 64 frames of 51 ms and 32 rows: 2 x 2 takes 1.6 times as long to train. Raises ValueError.
    """

    def __init__(self, n_classes, width=1.0, band_stride=4):
        super().__init__()
        if type(band_stride) is not int or band_stride not in (2, 4):
            raise ValueError(f"band_stride {band_stride!r}: choose 2 or 4")
        self.kwargs = dict(n_classes=n_classes, width=width, band_stride=band_stride)
        cin, n_head = fours([STEM_WIDTH, HEAD_WIDTH], width)
        layers = [normalised(nn.Conv2d(N_PLANES, cin, 5, (2, band_stride), padding=2, bias=False))]
        for k, (cout, (_, n_blocks, stride)) in enumerate(zip(fours([c for c, _, _ in STAGES], width), STAGES)):
            for i in range(n_blocks):
                layers.append(Block(cin, cout, stride if i == 0 else 1, 2**k, is_transition=i == 0))
                cin = cout
        self.maps = nn.Sequential(*layers, Depthwise(cin, (5, 5)), pointwise(cin, n_head))
        self.fc = nn.Linear(n_head, n_classes)

    def pool(self, maps):
        return F.adaptive_avg_pool2d(maps, 1).flatten(1)  # (batch, channels)

    def head(self, vectors):
        return self.fc(vectors)

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))
