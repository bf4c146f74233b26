"""P4: a learned filterbank, multi-head relevance weighting, and a net behind them; raw frames -> logits."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from runtime.frontend import Frontend
from runtime.values import whole
from train.augment import planes_of, spec_augment
from train.learned import BANKS

N_HIDDEN = 50  # unstated; with 21 frames of context it is the 1.1k parameters that a head costs
N_KERNELS = 8  # of the relevance by convolution, each 1 x 3
# 9 convolutions of 3x3, about 12 M parameters: the paper gives these by reference only; widths and pools are ours
VGG_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 1024)
VGG_POOLED = (0, 2, 4, 7)  # 2x2 behind these
SPLITS = ("blocks", "even-odd")

# "small" is ours, for a CPU: frames at 16 kHz, half the filters, a narrow LSTM.
SMALL_FRAMES = Frontend("frames", sr=16000, hop_length=500, n_bands=512, n_fft=512, win_length=512)
SHAPES = {
    "full": {"net": "vgg"},
    "urban8k": {"net": "lstm"},
    "small": {"net": "lstm", "n_filters": 40, "n_lstm": 48, "n_channels": 12, "pool": 4},
}


class Relevance(nn.Module):
    """(batch, 1, bands, frames) -> the same, a weight in 0..1 per cell from `context` frames on either side of its band.

    "dense": two fully connected layers, sigmoid behind each, shared by the bands. "conv": the first one is 8 kernels of
    1 x 3. Beyond either end the outermost frame is repeated.
    """

    def __init__(self, context, form):
        super().__init__()
        self.context = context
        n, width = (N_HIDDEN, 2 * context + 1) if form == "dense" else (N_KERNELS, 3)
        self.hidden = nn.Conv2d(1, n, (1, width))
        self.out = nn.Conv2d(n, 1, (1, 2 * context + 2 - width))

    def forward(self, x):
        x = F.pad(x, (self.context, self.context, 0, 0), mode="replicate")
        return self.out(self.hidden(x).sigmoid()).sigmoid()


class Weighting(nn.Module):
    """(batch, 1, bands, frames) -> the same: head i weighs its share of the bands; with `skip` the input is added.

    `split`: "blocks" gives each head neighbouring bands (40-40), "even-odd" every heads-th one; as many heads as bands is
    one per band. No heads: nothing is weighed.
    """

    def __init__(self, n_bands, heads=2, split="blocks", context=10, form="dense", skip=True):
        super().__init__()
        self.skip, self.split = skip, split
        self.bands = head_bands(n_bands, heads, split)
        self.heads = nn.ModuleList(Relevance(context, form) for _ in range(heads))

    def forward(self, x):
        if not self.heads:
            return x
        parts = [self._weighed(x[:, :, bands], head) for bands, head in zip(self.bands, self.heads)]
        return torch.cat(parts, 2)[:, :, _inverse(self.bands)]

    def _weighed(self, x, head):
        weighed = head(x) * x
        return weighed + x if self.skip else weighed


def head_bands(n_bands, heads, split):
    """-> which bands each head has, a list of lists; without heads one list of all."""
    every = list(range(n_bands))
    if heads <= 1:
        return [every]
    if split == "even-odd":
        return [every[i::heads] for i in range(heads)]
    edges = [round(i * n_bands / heads) for i in range(heads + 1)]
    return [every[a:b] for a, b in itertools.pairwise(edges)]


def _inverse(groups):
    """Where each band went when the groups were put one behind the other."""
    order = [band for group in groups for band in group]
    return sorted(range(len(order)), key=order.__getitem__)


class Vgg(nn.Module):
    """(batch, 3, frames, bands) -> maps by 3x3 convolutions with BN and ReLU; their mean -> logits by one FC layer."""

    def __init__(self, n_classes, widths=VGG_WIDTHS):
        super().__init__()
        layers = []
        for i, (cin, cout) in enumerate(zip((3, *widths), widths)):
            layers += [nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
            layers += [nn.AvgPool2d(2)] if i in VGG_POOLED else []
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(widths[-1], n_classes)

    def maps(self, x):
        return self.layers(x)

    def head(self, vectors):
        return self.fc(vectors)


class CnnLstm(nn.Module):
    """(batch, 3, frames, bands) -> maps (batch, n_lstm, frames, 1) by a 5x5 convolution and two LSTM layers over the
    frames; their mean -> logits by two FC layers.

    `pool`: bands that become one behind the convolution, 1 in the paper. The paper does not say how frames become one
    decision: we take their mean.
    """

    def __init__(self, n_classes, n_bands, n_channels=40, n_lstm=256, pool=1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, n_channels, 5, padding=2, bias=False), nn.BatchNorm2d(n_channels)
        self.pool = nn.AvgPool2d((1, pool))
        self.lstm = nn.LSTM(n_channels * (n_bands // pool), n_lstm, num_layers=2, batch_first=True)
        self.hidden, self.fc = nn.Linear(n_lstm, n_lstm), nn.Linear(n_lstm, n_classes)

    def maps(self, x):
        x = self.pool(self.bn(self.conv(x)).relu())  # (batch, channels, frames, bands / pool)
        x, _ = self.lstm(x.transpose(1, 2).flatten(2))
        return x.transpose(1, 2)[..., None]

    def head(self, vectors):
        return self.fc(self.hidden(vectors).relu())


class LearnedNet(nn.Module):
    """(batch, 1, frames, samples) raw frames -> (batch, n_classes) logits. Its deltas take eight of the frames.

    bank: "cosgauss", "sinc" or "mel". heads, split, context, relevance ("dense" or "conv"), skip: see Weighting. aligned:
    whether SpecAugment and a random crop, `crop` frames shorter, hit all heads alike or each by itself.
    net: "vgg" or "lstm". `kwargs` rebuilds the net.
    """

    def __init__(
        self, n_classes, bank="cosgauss", n_filters=80, sr=44100, heads=2, split="blocks", context=10, relevance="dense",
        skip=True, aligned=True, mask_frames=16, mask_bands=12, crop=0, net="vgg", n_channels=40, n_lstm=256, pool=1,
    ):  # fmt: skip
        super().__init__()
        kwargs = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        _check(**kwargs)
        self.kwargs = kwargs
        self.bank = BANKS[bank](n_filters, sr)
        self.level = nn.BatchNorm2d(1)
        self.weighting = Weighting(n_filters, heads, split, context, relevance, skip)
        self.planes = nn.BatchNorm2d(3)
        self.net = Vgg(n_classes) if net == "vgg" else CnnLstm(n_classes, n_filters, n_channels, n_lstm, pool)

    def maps(self, x):
        """-> (batch, channels, frames', bands')."""
        x = self.level(self.bank(x)).transpose(2, 3)  # (batch, 1, filters, frames)
        x = self.planes(planes_of(self.weighting(x)[:, 0]))  # (batch, 3, frames - 8, filters)
        return self.net.maps(self._augmented(x) if self.training else x)

    def pool(self, maps):
        return maps.mean((2, 3))

    def head(self, vectors):
        return self.net.head(vectors)

    def forward(self, x):
        return self.head(self.pool(self.maps(x)))

    def _augmented(self, x):
        """SpecAugment and a random crop, drawn once for all heads or once for each."""
        k = self.kwargs
        groups = [list(range(x.shape[3]))] if k["aligned"] else self.weighting.bands
        n_frames, parts = x.shape[2] - k["crop"], []
        for bands in groups:
            first = int(torch.randint(k["crop"] + 1, ()))
            part = x[:, :, first : first + n_frames, bands]
            parts.append(spec_augment(part, min(k["mask_frames"], n_frames), min(k["mask_bands"], len(bands))))
        return torch.cat(parts, 3)[..., _inverse(groups)]


def _check(n_filters, heads, context, sr, crop, pool, bank, split, relevance, net, skip, aligned, **numbers):
    for name, value, low, high in (
        ("n_filters", n_filters, 2, 1024), ("heads", heads, 0, n_filters), ("context", context, 1, 1000),
        ("sr", sr, 4000, 384000), ("crop", crop, 0, 1000), ("pool", pool, 1, n_filters),
        *((name, value, 0 if "mask" in name else 1, 4096) for name, value in numbers.items()),
    ):  # fmt: skip
        whole(name, value, low, high)
    for name, value, known in (
        ("bank", bank, (*BANKS,)), ("split", split, SPLITS), ("relevance", relevance, ("dense", "conv")),
        ("net", net, ("vgg", "lstm")), ("skip", skip, (True, False)), ("aligned", aligned, (True, False)),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} is {value!r}, want one of {', '.join(map(str, known))}")
