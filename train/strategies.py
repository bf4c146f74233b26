"""P2's spectrogram processing strategies, options over any net: SPSMF over sub-bands, SPSMT over frames.

The third, SPSMR, has a net per representation and averages their scores: that is the Mean of runs, python -m train.fuse.
"""

import math

import torch
from torch import nn


class Strategies(nn.Module):
    """(batch, planes, frames, bands) normalised patches -> (batch, n_classes) log of the mean probability.

    n_sub_bands   SPSMF: the bands are cut into as many equal parts, lowest first, each with a net of its own
    frame_decisions   SPSMT: the net's own classifier is applied to every frame behind its convolutions (the mean over
        frequency) instead of to the whole patch; it has no parameters of its own

    Scores are averaged as probabilities, where the paper does not say: the mean of a linear classifier's logits over
    frames would be its logits of the mean, and SPSMT would change nothing. A log of probabilities is as good as logits
    to a softmax, so training, fusion and scoring are those of every other net. nets: name -> class; net, kwargs: which of
    them, and its arguments apart from n_classes. Raises ValueError.
    """

    def __init__(self, nets, n_classes, net, kwargs, n_sub_bands=1, frame_decisions=False):
        super().__init__()
        if net not in nets:
            raise ValueError(f"net {net!r}: choose one of {', '.join(nets)}")
        if type(n_sub_bands) is not int or not 1 <= n_sub_bands <= 64:
            raise ValueError(f"n_sub_bands {n_sub_bands!r}: choose 1 to 64")
        if frame_decisions not in (True, False):
            raise ValueError(f"frame_decisions {frame_decisions!r}: choose True or False")
        self.kwargs = dict(
            n_classes=n_classes, net=net, kwargs=kwargs, n_sub_bands=n_sub_bands, frame_decisions=frame_decisions
        )
        self.nets = nn.ModuleList(nets[net](n_classes=n_classes, **kwargs) for _ in range(n_sub_bands))

    def decisions(self, x):
        """-> list of (batch, n_classes, any): logits of each decision, one list item per sub-band."""
        if x.shape[3] < len(self.nets):
            raise ValueError(f"{x.shape[3]} bands cannot be cut into {len(self.nets)}: choose fewer sub-bands")
        parts = x.tensor_split(len(self.nets), dim=3)
        return [self._frames(net, part) if self.kwargs["frame_decisions"] else net(part)[..., None]
                for net, part in zip(self.nets, parts)]  # fmt: skip

    def _frames(self, net, x):
        vectors = net.maps(x).mean(3).transpose(1, 2)  # (batch, frames', channels)
        return net.head(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2]).transpose(1, 2)

    def forward(self, x):
        log_p = torch.cat(
            [logits.log_softmax(1) for logits in self.decisions(x)], dim=2
        )  # (batch, n_classes, decisions)
        return log_p.logsumexp(2) - math.log(log_p.shape[2])
