"""Augmentation of batches of patches. Random numbers come from torch's global generator: seed it, and they repeat."""

import torch


def random_crops(statics, n_static):
    """list of (bands, frames) tensors -> (batch, bands, n_static): a random stretch of each clip that holds some sound.

    Half of ESC-10's clips are a short sound and then silence; a crop of the silence teaches a label that nobody hears.
    So each crop holds a frame that is at least as loud as its clip's average.
    """
    return torch.stack([_crop_with_sound(static, n_static, static.mean(0)) for static in statics])


def random_frames(frames, n_frames, range_db):
    """list of (samples, frames) raw frames -> (batch, 1, n_frames, samples): random_crops and random_gain for those."""
    crops = torch.stack([_crop_with_sound(f, n_frames, f.square().mean(0)) for f in frames])
    gains = 10 ** ((torch.rand(len(crops), 1, 1) * 2 - 1) * range_db / 20)
    return (crops * gains).transpose(1, 2)[:, None]


def _crop_with_sound(static, n_static, level):
    # a flat clip's mean can be rounded above all of its frames
    loud = torch.nonzero(level >= torch.minimum(level.mean(), level.max()))[:, 0]
    frame = int(loud[torch.randint(len(loud), ())])
    first, last = max(0, frame - n_static + 1), min(frame, static.shape[1] - n_static)
    start = int(torch.randint(first, last + 1, ()))
    return static[:, start : start + n_static]


def planes_of(static):
    """(batch, bands, frames) -> (batch, 3, frames - 8, bands): runtime.frontend.deltas and patches, for a batch."""

    def delta(x):
        return (2 * (x[..., 4:] - x[..., :-4]) + (x[..., 3:-1] - x[..., 1:-3])) / 10

    first = delta(static)
    return torch.stack([static[..., 4:-4], first[..., 2:-2], delta(first)], dim=1).transpose(2, 3)


def random_gain(static, range_db):
    """(batch, bands, frames) in dB, each clip louder or quieter by up to range_db: rooms and microphones differ."""
    return static + (torch.rand(len(static), 1, 1) * 2 - 1) * range_db


def mixup(x, target, alpha):
    """(batch, ...), (batch, classes) -> the same, each mixed with another; the larger share is its own. P3, P1."""
    order = torch.randperm(len(x))
    share = torch.distributions.Beta(alpha, alpha).sample((len(x),))
    share = torch.maximum(share, 1 - share)
    mix = share.view(-1, *[1] * (x.dim() - 1))
    return mix * x + (1 - mix) * x[order], share[:, None] * target + (1 - share[:, None]) * target[order]


def spec_augment(x, max_frames, max_bands):
    """(batch, planes, frames, bands): a stretch of frames and one of bands of each patch become 0, the mean. SpecAugment."""
    for dim, widest in ((2, max_frames), (3, max_bands)):
        n = x.shape[dim]
        widths = torch.randint(0, widest + 1, (len(x),))
        starts = (torch.rand(len(x)) * (n - widths)).long()
        at = torch.arange(n)
        masked = (at >= starts[:, None]) & (at < (starts + widths)[:, None])  # (batch, n)
        x = x.masked_fill(masked[:, None, :, None] if dim == 2 else masked[:, None, None, :], 0.0)
    return x
