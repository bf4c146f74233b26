"""P0: one CNN whose convolutions several features share, fused early by attention, late by a bilinear score, or both."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from runtime.values import is_number, whole
from train.vgg import checked_bands

N_BANDS = 40  # the paper's mel and log-mel; whatever else comes is brought to it
SHAPES = {"full": {}, "small": {"widths": [12, 24], "n_bands": 20}}  # small is ours, for a CPU


def similarity(fi, fj):
    """(batch, frames_i, bands), (batch, frames_j, bands) -> (batch, frames_i, frames_j), in 0..1.

    Eq. (1) of P0: S[x, y] = 1 / (1 + |F_i[x] - F_j[y]|), Euclidean; 1 for equal frames.
    """
    if torch.compiler.is_exporting():  # no converter knows cdist, which has a slope at 0 and takes less memory
        return 1 / (1 + (fi[:, :, None] - fj[:, None]).square().sum(3).sqrt())
    return 1 / (1 + torch.cdist(fi, fj, compute_mode="donot_use_mm_for_euclid_dist"))


class EarlyFusion(nn.Module):
    """(batch, features, frames, bands) -> (batch, features, 2, frames, bands): each feature over its attentive map.

    Eq. (2-4) of P0: for a pair of features F_i^s = W_i S^T and F_j^s = W_j S, with a learned W (bands, frames) per feature.
    With more than two features the maps that one gets from its partners are averaged, so that the shared convolutions
    see two planes however many there are. The paper's F is (bands, frames), ours the transposed one.
    """

    def __init__(self, n_features, n_frames, n_bands):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(n_features, n_bands, n_frames) / n_frames**0.5)

    def forward(self, x):
        maps = [0.0] * x.shape[1]
        for i, j in itertools.combinations(range(x.shape[1]), 2):
            s = similarity(x[:, i], x[:, j])  # (batch, frames_i, frames_j)
            maps[i] = maps[i] + s @ self.weights[i].T
            maps[j] = maps[j] + s.transpose(1, 2) @ self.weights[j].T
        return torch.stack([x, torch.stack(maps, 1) / (x.shape[1] - 1)], 2)


class LateFusion(nn.Module):
    """(batch, features, n) -> (batch, pairs): F_i^T W F_j with one W for all pairs, eq. (5) of P0."""

    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, n) / n)

    def forward(self, x):
        scores = x @ self.weight @ x.transpose(1, 2)  # (batch, features, features)
        pairs = itertools.combinations(range(x.shape[1]), 2)
        return torch.stack([scores[:, i, j] for i, j in pairs], 1)


class AttentiveNet(nn.Module):
    """(batch, planes, frames, sum of bands) normalised patches -> (batch, n_classes) logits, of scenes or of tags.

    bands: how many each spectrogram has, as they lie beside each other; None: it is one. Each of them in each plane is a
    feature, n_features in all: several spectrograms of one hop, or one and its deltas. `early`, `late`: which fusions;
    both is the paper's hybrid, neither its vanilla net. Convolutions as the paper's text has them, two of 3x3
    with a 2x2 pool between; its Table 1 prints depth 6, 600 neurons and (60, 3) filters, which contradict it.
    """

    def __init__(
        self,
        n_classes,
        n_features=3,
        early=True,
        late=True,
        widths=(128, 256),
        n_frames=128,
        n_bands=N_BANDS,
        dropout=0.3,
        bands=None,
    ):
        super().__init__()
        _check(n_classes, n_features, early, late, widths, n_frames, n_bands, dropout)
        bands = checked_bands(bands)
        self.kwargs = dict(
            n_classes=n_classes, n_features=n_features, early=early, late=late, widths=list(widths), n_frames=n_frames,
            n_bands=n_bands, dropout=dropout, bands=bands,
        )  # fmt: skip
        self.early = EarlyFusion(n_features, n_frames, n_bands) if early else None
        self.conv1 = nn.Conv2d(2 if early else 1, widths[0], 3, padding=1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.late = LateFusion(widths[1]) if late else None
        n_pairs = n_features * (n_features - 1) // 2 if late else 0
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(n_features * widths[1] + n_pairs, n_classes)

    def maps(self, x):
        """-> (batch, features * widths[1], frames / 2, n_bands / 2): the same convolutions for each feature."""
        size = (x.shape[2], self.kwargs["n_bands"])
        spectrograms = x.split(self.kwargs["bands"], dim=3) if self.kwargs["bands"] else [x]
        x = torch.cat([F.adaptive_avg_pool2d(part, size) for part in spectrograms], dim=1)
        x = self.early(x) if self.early else x[:, :, None]  # (batch, features, 2 or 1, frames, n_bands)
        maps = self.conv2(F.max_pool2d(self.conv1(x.flatten(0, 1)).relu(), 2)).relu()
        return maps.unflatten(0, x.shape[:2]).flatten(1, 2)

    def pool(self, maps):
        return maps.mean((2, 3))

    def head(self, vectors):
        pooled = vectors.unflatten(1, (self.kwargs["n_features"], -1))
        parts = [vectors, self.late(pooled)] if self.late else [vectors]
        return self.fc(self.dropout(torch.cat(parts, 1)))

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))


def _check(n_classes, n_features, early, late, widths, n_frames, n_bands, dropout):
    if not isinstance(widths, (tuple, list)) or len(widths) != 2:
        raise ValueError(f"widths is {widths!r}, want the channels of two convolutions")
    numbers = {"n_classes": n_classes, "n_features": n_features, "n_frames": n_frames, "n_bands": n_bands}
    lowest = {"n_features": 2, "n_frames": 2, "n_bands": 2}
    for name, value in [*numbers.items(), *(("widths", width) for width in widths)]:
        if name == "n_features" and value == 1:
            raise ValueError("n_features is 1, want 2 or more to fuse: repeat --frontend, or take --planes deltas")
        whole(name, value, lowest.get(name, 1), 4096)
    for name, value in (("early", early), ("late", late)):
        if value not in (True, False):
            raise ValueError(f"{name} is {value!r}, want True or False")
    if not is_number(dropout, 0) or dropout >= 1:
        raise ValueError(f"dropout is {dropout!r}, want a probability in [0, 1)")
