"""Augmentation of batches of patches. Random numbers come from torch's global generator: seed it, and they repeat.

They are drawn on the processor, whatever device the patches are on: the same ones everywhere.
"""

import torch

from runtime.patches import RANGE_DB


def random_crops(statics, n_static, raw=False):
    """list of (bands, frames) tensors -> (batch, bands, n_static): a random stretch of each clip that holds some sound.

    Half of ESC-10's clips are a short sound and then silence; a crop of the silence teaches a label that nobody hears.
    So each crop holds a frame that is at least as loud as its clip's average. raw: samples in place of bands in dB.
    """
    return torch.stack([_crop_with_sound(static, n_static, raw) for static in statics])


def _crop_with_sound(static, n_static, raw):
    level = static.square().mean(0) if raw else static.mean(0)  # power, or dB
    # a flat clip's mean can be rounded above all of its frames
    loud = torch.nonzero(level >= torch.minimum(level.mean(), level.max()))[:, 0]
    frame = int(loud[torch.randint(len(loud), ())])
    first, last = max(0, frame - n_static + 1), min(frame, static.shape[1] - n_static)
    start = int(torch.randint(first, last + 1, ()))
    return static[:, start : start + n_static]


def planes_of(static, planes="deltas"):
    """(batch, bands, frames) -> (batch, planes, fewer frames, bands'): train.features.PatchShape.planes_of, for a batch."""
    if planes in ("static", "frames"):
        return static[:, None].transpose(2, 3)
    if planes == "stacked":
        slope = (static[..., 2:] - static[..., :-2]) / 2
        return torch.cat([static[..., 1:-1], slope], dim=1)[:, None].transpose(2, 3)

    def delta(x):
        return (2 * (x[..., 4:] - x[..., :-4]) + (x[..., 3:-1] - x[..., 1:-3])) / 10

    first = delta(static)
    return torch.stack([static[..., 4:-4], first[..., 2:-2], delta(first)], dim=1).transpose(2, 3)


def relative(static, quietest_db):
    """(batch, bands, frames) in dB -> the same, each relative to its loudest frame: runtime.patches.PatchShape.relative."""
    loudest = static.mean(1).amax(1).clamp(min=quietest_db)
    return (static - loudest[:, None, None]).clamp(min=-RANGE_DB)


def random_gain(static, range_db, raw=False):
    """(batch, bands, frames) in dB, or samples, each clip louder or quieter by up to range_db: microphones differ."""
    gain_db = ((torch.rand(len(static), 1, 1) * 2 - 1) * range_db).to(static.device)
    return static * 10 ** (gain_db / 20) if raw else static + gain_db


def random_roll(static):
    """(batch, bands, frames), each begun at a random frame of it, what stood before appended behind its end."""
    n_frames = static.shape[2]
    at = (torch.arange(n_frames) + torch.randint(n_frames, (len(static), 1))) % n_frames  # (batch, frames)
    return static.gather(2, at.to(static.device)[:, None].expand_as(static))


def freq_mixstyle(x, alpha=0.3):
    """(batch, planes, frames, bands) -> each with mean and deviation per plane and band mixed with another's. Kim 2022.

    Recordings of one microphone share them: mixed, they make microphones that nobody recorded with.
    """
    mean, std = x.mean(2, keepdim=True), x.std(2, keepdim=True) + 1e-5
    order = torch.randperm(len(x))
    share = torch.distributions.Beta(alpha, alpha).sample((len(x),)).view(-1, 1, 1, 1).to(x.device)
    mixed_mean, mixed_std = (share * own + (1 - share) * own[order] for own in (mean, std))
    return (x - mean) / std * mixed_std + mixed_mean


def mixup(x, target, alpha, shares="beta"):
    """(batch, ...), (batch, classes) -> the same, each mixed with another; the larger share is its own. P3, P1.

    shares: "beta" draws them from Beta(alpha, alpha), "uniform" from 0 to 1, "both" either way for half of the batch each.
    """
    order = torch.randperm(len(x))
    share = torch.distributions.Beta(alpha, alpha).sample((len(x),))
    if shares != "beta":
        uniform = torch.rand(len(x))
        share = uniform if shares == "uniform" else torch.where(torch.arange(len(x)) % 2 == 0, share, uniform)
    share = torch.maximum(share, 1 - share).to(x.device)
    mix = share.view(-1, *[1] * (x.dim() - 1))
    return mix * x + (1 - mix) * x[order], share[:, None] * target + (1 - share[:, None]) * target[order]


def between_class(static, target, raw=False):
    """(batch, bands, frames) in dB, or samples, (batch, classes) -> both sounds heard at once. Tokozume 2018, eq. (2), (3).

    The shares are uniform on 0 to 1, and what a share says is how loud a sound is beside the other: the louder one is turned
    down first. In dB the powers add, as those of sounds with nothing in common do.
    """
    order, share = torch.randperm(len(static)), torch.rand(len(static)).to(static.device)
    power = static.square() if raw else 10 ** (static / 10)
    level = power.mean(1).amax(1).clamp(min=1e-10).sqrt()  # amplitude of the loudest frame, or sample
    own = 1 / (1 + level / level[order] * (1 - share) / share.clamp(min=1e-6))[:, None, None]
    scale = (own**2 + (1 - own) ** 2).sqrt()
    if raw:
        mixed = (own * static + (1 - own) * static[order]) / scale
    else:
        mixed = 10 * torch.log10((own / scale) ** 2 * power + ((1 - own) / scale) ** 2 * power[order])
    return mixed, share[:, None] * target + (1 - share[:, None]) * target[order]


def oversampled(targets):
    """(n,) class indices -> indices in random order in which every class stands as often as the most frequent one. P1."""
    largest = int(torch.bincount(targets).max())
    rows = []
    for label in torch.unique(targets):
        members = torch.nonzero(targets == label)[:, 0]
        rounds = [members[torch.randperm(len(members))] for _ in range(-(-largest // len(members)))]
        rows.append(torch.cat(rounds)[:largest])
    order = torch.cat(rows)
    return order[torch.randperm(len(order))]


def spec_augment(x, max_frames, max_bands):
    """(batch, planes, frames, bands): a stretch of frames and one of bands of each patch become 0, the mean. SpecAugment."""
    for dim, widest in ((2, max_frames), (3, max_bands)):
        n = x.shape[dim]
        widths = torch.randint(0, widest + 1, (len(x),))
        starts = (torch.rand(len(x)) * (n - widths)).long()
        at = torch.arange(n)
        masked = ((at >= starts[:, None]) & (at < (starts + widths)[:, None])).to(x.device)  # (batch, n)
        x = x.masked_fill(masked[:, None, :, None] if dim == 2 else masked[:, None, None, :], 0.0)
    return x
