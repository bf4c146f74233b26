"""CNN-7, Table I of P3: six 3x3 convolutions and one fully connected layer, patch -> logits."""

from torch import nn

from runtime.values import is_number, is_whole
from train.decomposed import DecomposedConv2d

WIDTHS_FULL = (32, 32, 64, 64, 128, 128)
WIDTHS_CR = (16, 32, 32, 32, 64, 64)  # channel restriction of P3
WIDTHS_WIDE = (32, 48, 64, 64, 96, 128)  # with DC: three int8 nets fill 128 KB
# What we deploy with DC: fewer channels than Table I where the maps are large (time and RAM go there), so that the bytes
# go to the deep layers; three int8 nets fill 128 KB.
WIDTHS_DEPLOYED = (16, 32, 64, 64, 112, 128)
N_PLANES = 3  # static, delta, delta-delta
POOLED = (False, True, False, True, True)  # 2x2 after convolutions 2, 4 and 5; the sixth is pooled globally


class Block(nn.Module):
    """(batch, cin, frames, bands) -> (batch, cout, frames', bands'), one row of Table I.

    order "paper":  BN - convolution - ReLU - BN - pool - dropout, as printed.
    order "deploy": convolution - BN - ReLU - pool - dropout: the BN folds into the convolution exactly, borders
    included, so nothing but convolutions and pools is left in the exported graph.
    """

    def __init__(self, cin, cout, pool, decomposed, order, dropout):
        super().__init__()
        self.order = order
        bias = order == "paper"  # behind a convolution, BN's own shift makes a bias redundant
        self.before = nn.BatchNorm2d(cin) if order == "paper" else nn.Identity()
        self.conv = DecomposedConv2d(cin, cout, bias) if decomposed else nn.Conv2d(cin, cout, 3, padding=1, bias=bias)
        self.after = nn.BatchNorm2d(cout)
        self.pool = pool
        self.dropout = nn.Dropout(dropout)

    def maps(self, x):
        x = self.conv(self.before(x))
        return self.after(x.relu()) if self.order == "paper" else self.after(x).relu()

    def forward(self, x):
        return self.dropout(self.pool(self.maps(x)))


class CNN7(nn.Module):
    """(batch, 3 planes, frames, bands) normalised patches -> (batch, n_classes) logits.

    widths: output channels of the six convolutions. decomposed: DC layers in place of convolutions 2 to 6 (the first
    has three input channels and stays), all or none of them, or one bool for each of the five. Order "deploy" has one
    more BN, between the global pool and the FC layer, which folds into the FC layer: without it the last layer learns
    slowly (LOG.md). `kwargs` rebuilds the net: CNN7(**model.kwargs).
    """

    def __init__(self, n_classes, widths=WIDTHS_FULL, decomposed=False, order="deploy", dropout=0.1):
        super().__init__()
        _check(n_classes, widths, decomposed, order, dropout)
        dc = layers_decomposed(decomposed)
        self.kwargs = dict(
            n_classes=n_classes,
            widths=list(widths),
            decomposed=dc[-1] if len(set(dc[1:])) == 1 else list(dc[1:]),  # the bool that older runs are known by
            order=order,
            dropout=dropout,
        )
        pools = [nn.AvgPool2d(2) if pooled else nn.Identity() for pooled in POOLED] + [nn.AdaptiveAvgPool2d(1)]
        self.blocks = nn.Sequential(
            *(
                Block(cin, cout, pool, is_decomposed, order, dropout)
                for cin, cout, pool, is_decomposed in zip((N_PLANES, *widths), widths, pools, dc)
            )
        )
        self.tail = nn.BatchNorm1d(widths[-1]) if order == "deploy" else nn.Identity()
        self.fc = nn.Linear(widths[-1], n_classes)

    def maps(self, x):
        """-> (batch, widths[5], frames / 8, bands / 8): what the global pool is given."""
        return self.blocks[-1].maps(self.blocks[:-1](x))

    def pool(self, maps):
        return maps.mean((2, 3))  # (batch, widths[5])

    def head(self, vectors):
        """(n, widths[5]) -> (n, n_classes) logits."""
        return self.fc(self.tail(self.blocks[-1].dropout(vectors)))

    def forward(self, x):
        x = self.blocks(x)  # (batch, widths[5], 1, 1)
        return self.fc(self.tail(x.flatten(1)))


def layers_decomposed(decomposed):
    """The argument of CNN7, one bool or five -> six bools, one per convolution; the first is never decomposed."""
    return (False, *([decomposed] * 5 if isinstance(decomposed, bool) else decomposed))


def _check(n_classes, widths, decomposed, order, dropout):
    if not is_whole(n_classes, 1):
        raise ValueError(f"n_classes is {n_classes!r}, want a whole number of at least 1")
    if not isinstance(widths, (tuple, list)) or len(widths) != 6:
        raise ValueError(f"widths is {widths!r}, want the channels of six convolutions")
    if not all(is_whole(w, 1) for w in widths):
        raise ValueError(f"widths is {widths!r}, want whole numbers of at least 1")
    several = isinstance(decomposed, (tuple, list)) and len(decomposed) == 5
    if not all(isinstance(dc, bool) for dc in (decomposed if several else [decomposed])):
        raise ValueError(f"decomposed is {decomposed!r}, want True or False, or five of them for convolutions 2 to 6")
    around = [(a, b) for a, b, dc in zip(widths, widths[1:], layers_decomposed(decomposed)[1:]) if dc]
    if any(a % 4 or b % 4 for a, b in around):
        raise ValueError(
            f"widths is {list(widths)}, a decomposed net needs every width divisible by 4 around its DC layers"
        )
    if order not in ("paper", "deploy"):
        raise ValueError(f"order is {order!r}, want 'paper' or 'deploy'")
    if not is_number(dropout, 0) or dropout >= 1:
        raise ValueError(f"dropout is {dropout!r}, want a probability in [0, 1)")
