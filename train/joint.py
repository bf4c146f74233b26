"""The joint network of P1: its C-DNN's convolutions beside its C-RNN on the same patch, patch -> logits."""

import torch
import torch.nn.functional as F
from torch import nn

from train import cdnn, crnn
from train.cdnn import convolutions, fully_connected, scaled

FC_WIDTHS = (2048, 1024)


class Joint(nn.Module):
    """(batch, 1, frames, bands) normalised patches -> (batch, n_classes) logits: 256 + 128 = 384 numbers, FC 2048, 1024.

    width: factor on all widths.
    """

    def __init__(self, n_classes, width=1.0):
        super().__init__()
        self.kwargs = dict(n_classes=n_classes, width=width)
        self.spatial = convolutions(width)
        self.spatial_dropout = nn.Dropout(cdnn.DROPOUTS[-1])
        self.temporal = crnn.Recurrent(width)
        self.n_spatial = scaled(cdnn.WIDTHS, width)[-1]
        self.fc = fully_connected(self.n_spatial + self.temporal.n_out, scaled(FC_WIDTHS, width), n_classes)

    def maps(self, x):
        """-> (batch, 384, frames / 8, 1): the recurrent half is averaged down to the frames of the convolutions."""
        spatial = self.spatial(x).mean(3, keepdim=True)
        temporal = F.adaptive_avg_pool2d(self.temporal(x), (spatial.shape[2], 1))
        return torch.cat([spatial, temporal], dim=1)

    def pool(self, maps):
        return maps.mean((2, 3))  # equal spans: the mean of both halves over all of the patch

    def head(self, vectors):
        spatial, temporal = vectors[:, : self.n_spatial], vectors[:, self.n_spatial :]
        return self.fc(torch.cat([self.spatial_dropout(spatial), temporal], dim=1))

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))
