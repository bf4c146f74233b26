"""Structured pruning: a trained CNN-7 loses its least important channels and is trained on. The files really shrink.

Importance is the Taylor criterion of Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
Inference (ICLR 2017): by how much a training patch's loss would change if a channel fell silent. To first order that is
|sum over the map of activation x gradient|, here averaged over patches.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from compress.recipe import NOISE_SHARE, plain_recipe
from compress.shapes import Shape, widest_within
from train import scores
from train.cnn7 import CNN7, N_PLANES, layers_decomposed
from train.data import check_heard, split
from train.features import features
from train.loop import clip_log_probabilities, fit
from train.run import load_run, weights_digest
from train.trainer import data_facts, made_noises

LR = 1e-3  # a third of the training's: most of what is left has been learned
BATCH = 16  # patches at once, while importance is measured


def importance(model, patches, targets):
    """Normalised patches (n, planes, frames, bands) and their class indices -> per convolution (channels,), 0 or more."""
    model.eval()
    sums = [torch.zeros(width) for width in model.kwargs["widths"]]
    for x, target in zip(torch.as_tensor(patches).split(BATCH), torch.as_tensor(targets).split(BATCH)):
        maps = []
        for block in model.blocks:
            maps.append(block.maps(x))
            x = block.dropout(block.pool(maps[-1]))
        loss = F.cross_entropy(model.head(x.flatten(1)), target, reduction="sum")  # a gradient per patch
        for total, y, gradient in zip(sums, maps, torch.autograd.grad(loss, maps)):
            total += (y * gradient).detach().sum((2, 3)).abs().sum(0)
    return [(total / len(patches)).numpy() for total in sums]


def strongest(importances, widths, decomposed):
    """Per convolution (channels,) -> ascending indices of the `widths` channels that are kept.

    Where a layer or the one behind it is decomposed, each quarter of the channels loses equally many: a DC layer's quarters
    are its branches, and a DC layer behind looks at the first quarter, the first half and the second half of its input.
    """
    dc = (*layers_decomposed(decomposed), False)
    kept = []
    for i, (values, width) in enumerate(zip(importances, widths)):
        n_parts = 4 if dc[i] or dc[i + 1] else 1
        parts = np.split(np.asarray(values), n_parts)
        size = len(values) // n_parts
        # stable and from the back, so that of equal channels the first stay
        chosen = [
            k * size + np.sort(np.argsort(-part, kind="stable")[: width // n_parts]) for k, part in enumerate(parts)
        ]
        kept.append(np.concatenate(chosen))
    return kept


def without(model, kept):
    """A CNN7 of order "deploy" and, per convolution, the channels to keep -> a smaller CNN7 in eval mode.

    It computes what the large one, in eval mode, computes with the other channels silent, zero behind their ReLU: nothing
    changes if they were. Raises ValueError for other orders, and for channels that a DC layer cannot lose.
    """
    if model.kwargs["order"] != "deploy":
        raise ValueError("a net of order 'paper' cannot be pruned: its BN makes a removed channel heard, take 'deploy'")
    widths = [len(channels) for channels in kept]
    small = CNN7(**model.kwargs | {"widths": widths}).eval()
    inputs = np.arange(N_PLANES)
    for new, old, channels in zip(small.blocks, model.blocks, kept):
        _cut_conv(new.conv, old.conv, inputs, channels)
        _cut_norm(new.after, old.after, channels)
        inputs = channels
    _cut_norm(small.tail, model.tail, inputs)
    silent = np.setdiff1d(np.arange(model.kwargs["widths"][-1]), inputs)
    with torch.no_grad():
        small.fc.weight.copy_(model.fc.weight[:, inputs])
        # what the BN behind the global pool makes of silence goes on being said
        said = (
            model.tail.bias
            - model.tail.running_mean * model.tail.weight / (model.tail.running_var + model.tail.eps).sqrt()
        )
        small.fc.bias.copy_(model.fc.bias + model.fc.weight[:, silent] @ said[silent])
    return small


def _cut_conv(new, old, inputs, outputs):
    """Weights of a convolution, or of each branch of a DC layer, for fewer input and output channels."""
    branches, ranges = getattr(old, "branches", [old]), getattr(old, "ranges", [(0, max(inputs) + 1)])
    done = 0  # output channels of the branches before this one
    for small, large, (start, stop) in zip(getattr(new, "branches", [new]), branches, ranges):
        rows = outputs[(outputs >= done) & (outputs < done + len(large.weight))] - done
        columns = inputs[(inputs >= start) & (inputs < stop)] - start
        if small.weight.shape[:2] != (len(rows), len(columns)):
            raise ValueError("a decomposed convolution must lose equally many channels in each quarter")
        with torch.no_grad():
            small.weight.copy_(large.weight[rows][:, columns])
        done += len(large.weight)


def _cut_norm(new, old, channels):
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(new, name).copy_(getattr(old, name)[channels])


def smaller_shape(run, name, limits):
    """-> the Shape, of a trained run's proportions, that the limits hold. ValueError for a run that cannot be pruned."""
    if run.name != "cnn7" or run.model.kwargs["order"] != "deploy":
        raise ValueError(f"{name}: only CNN-7 of order 'deploy' is pruned, such as compress.cnn7 trains")
    kwargs = run.model.kwargs
    dc = kwargs["decomposed"]
    shape = Shape(
        tuple(kwargs["widths"]), dc if isinstance(dc, bool) else tuple(dc),
        run.frontend.n_bands, run.patch.n_frames, run.frontend.hop_length, run.frontend.win_length, run.patch.quietest_db,
    )  # fmt: skip
    cut = dataclasses.replace(run.patch, certainty=shape.patch.certainty)  # no weight depends on it
    if shape.frontend(name) != run.frontend or shape.patch != cut:
        raise ValueError(f"{name}: its front end or patches are none that compress.cnn7 makes")
    if limits.hold(shape, len(run.labels)):
        raise ValueError(f"{name}: its {shape} fits already: prune nets of a larger budget")
    small = widest_within(limits, shape, len(run.labels))
    if small is None:
        raise ValueError(f"{name}: not even its narrowest form fits {limits.file_bytes:,} bytes: give a larger budget")
    return dataclasses.replace(small, widths=tuple(map(min, small.widths, shape.widths)))


def prune(source, widths, dataset, fold, epochs, seed, folder, *, cache, noise_share=NOISE_SHARE, say=print):
    """Prune the run in folder `source` to `widths`, train it on with the whole net as its teacher, save it in `folder`.

    Resumable as train.loop.fit. The large net must not have heard what the small one is tested on: see `check_source`.
    """
    large = load_run(source)
    train_clips, test_clips = split(dataset, fold)
    statics = features(train_clips, large.frontend, cache)
    targets = [dataset.labels.index(clip.label) for clip in train_clips]
    patches = np.concatenate([large.normalise(large.patch.cut(static)[:1]) for static in statics])
    kept = strongest(importance(large.model, patches, targets), widths, large.model.kwargs["decomposed"])
    run = dataclasses.replace(large, model=without(large.model, kept))
    recipe = dataclasses.replace(plain_recipe(epochs, seed), lr=LR, noise_share=noise_share)
    mean, std = (torch.from_numpy(table)[:, None] for table in (large.mean, large.std))  # (planes, 1, bands)

    @torch.no_grad()
    def opinion(raw):
        return large.model((raw - mean) / std)

    names = [clip.path.name for clip in train_clips]
    identity = [run.frontend.to_json(), run.patch.to_json(), names, targets, weights_digest(source)]
    history = fit(
        run, statics, targets, recipe, folder, identity=identity, teacher=opinion, say=say,
        noises=lambda: made_noises(run.frontend, recipe, len(train_clips)),
    )  # fmt: skip
    last = {}
    if test_clips:
        log_p = clip_log_probabilities(run, features(test_clips, run.frontend, cache))
        last = {"last": scores.score(log_p, test_clips, dataset.labels)}
        scores.save_predictions(folder, log_p, test_clips, dataset.labels)
    run.meta = {
        "versions": large.meta.get("versions", {}),
        "data": data_facts(dataset, fold, run.frontend.sr),
        "seconds_per_epoch": run.meta.get("seconds_per_epoch"),
        "scores": last,
        "history": history,
        "recipe": recipe.to_json(),
        "pruned": {"from": str(source), "widths": list(large.model.kwargs["widths"])},
    }
    run.save(folder)


def check_source(run, source, dataset, fold):
    """Raises ValueError for a run of other classes, or one that may have heard what the pruned net is tested on."""
    if run.labels != dataset.labels:
        raise ValueError(f"{source} knows other classes ({', '.join(run.labels)[:100]}): prune one of this data")
    check_heard(run.meta.get("data"), dataset, fold, source)
