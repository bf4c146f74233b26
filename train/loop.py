"""The only training loop. Resumable: every epoch draws its random numbers from (seed, epoch) alone."""

import copy
import ctypes
import hashlib
import json
import logging
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open

from runtime.fusion import over_patches
from train import augment
from train.items import Items
from train.run import write_tensors

STEP_DECAY, STEP_BATCHES = 0.91, 200
FIRST_RESTART_EPOCHS, RESTART_DECAY = 10, 1e-4
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # Fabric's words


class Diverged(ValueError):
    """A training whose loss is no longer a number."""


def fabric_of(recipe, accelerator="cpu", devices=1):
    """-> Lightning's Fabric: precision, GPUs, several processes. accelerator: "cpu", "cuda", "auto". Raises ValueError."""
    from lightning_fabric import Fabric  # takes a second to import: only where something is trained
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=PRECISIONS[recipe.precision])
    except (MisconfigurationException, RuntimeError, TypeError) as error:
        raise ValueError(f"{devices} devices of {accelerator}: {error}") from error


def fastest_precision():
    """-> bfloat16 where the processor multiplies it: 2.6 times as fast in tiles (AMX), 1.7 in AVX-512. Else float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return "float32"
    return "bfloat16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "float32"


def fit(
    run, statics, targets, recipe, folder, *, identity=None, teacher=None, opinions=None, evaluate=None, varied=None,
    noises=None, fabric=None, say=print,
):  # fmt: skip
    """Train run.model on (bands, frames) spectrograms and their class indices; checkpoints into `folder`.

    Targets may also be (clips, labels) of 0 and 1, several labels at once: the loss is then binary cross entropy, as P0's.
    `identity`: JSON-able, what else the result depends on; a checkpoint of another one, or of other statistics, is not
    resumed: recordings that were replaced under their names are learned anew. `teacher`: a
    function of raw patches (n, planes, frames, bands) in dB -> logits; or `opinions`: (clips, classes) logits, what teachers
    said of each whole clip before, whatever spectrogram they hear. `evaluate`: history so far -> accuracy, called on
    some epochs. `varied`: pairs of a recording's index and the number of a variation -> their spectrograms, in order, for
    recipe.vary_every; asked for an epoch before they are needed, so that others can compute them meanwhile. `noises`: a
    function that makes (bands, frames) spectrograms in which no class is heard, for recipe.noise_share to draw from.
    `fabric`: a launched Fabric of `fabric_of`, default this processor; each of its devices takes its share of every batch.
    -> history, a list of {"epoch", "loss", "lr", "accuracy"?}. A killed call goes on where it was; how long the
    epochs took, all calls together, stands in run.meta["seconds_per_epoch"]. Raises Diverged.
    """
    _keep_memory()
    run.model.to(memory_format=torch.channels_last)  # what bfloat16 is fast in
    learner = copy.deepcopy(run.model) if recipe.average else run.model  # run.model is what is kept
    fabric = fabric or fabric_of(recipe)
    optimizer = _optimizer(learner, recipe)
    on_device, optimizer = fabric.setup(learner, optimizer)
    run.model.to(fabric.device)
    checkpoint = Path(folder) / "checkpoint.safetensors"
    known_by = {
        "identity": json.dumps([recipe.to_json(), run.name, run.model.kwargs, identity], sort_keys=True),
        "statistics": hashlib.sha256(run.mean.tobytes() + run.std.tobytes()).hexdigest(),
    }
    nets = {"net": learner, "average": run.model} if recipe.average else {"net": run.model}
    history, seconds = _resume(checkpoint, nets, optimizer, known_by)
    if history:
        say(f"resumed after epoch {len(history)}")
    if remaining := range(len(history), recipe.epochs):  # a finished training makes no noises
        made = noises() if noises and recipe.noise_share else ()
        items = Items(
            statics, targets, len(run.labels), run.patch, recipe, opinions=opinions, varied=varied, noises=made
        )
    started, first = time.monotonic(), len(history)
    for epoch in remaining:
        torch.manual_seed(recipe.seed * 100_003 + epoch)
        lr, began = _set_lr(optimizer, recipe, epoch, items.n), time.monotonic()
        items.begin(epoch)
        loss = _epoch(run, on_device, items, recipe, optimizer, teacher, epoch, fabric)
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} in epoch {epoch + 1}: choose a smaller --lr than {recipe.lr}")
        seconds += time.monotonic() - began
        row = {"epoch": epoch + 1, "loss": loss, "lr": lr}
        if evaluate and (epoch + 1 == recipe.epochs or (epoch + 1) % max(1, recipe.epochs // 10) == 0):
            row["accuracy"] = evaluate(history)
        history.append(row)
        if fabric.is_global_zero:
            _save(checkpoint, nets, optimizer, known_by, history, seconds)
        left = (time.monotonic() - started) / (epoch + 1 - first) * (recipe.epochs - epoch - 1)
        score = f"  accuracy {row['accuracy']:.1%}" if "accuracy" in row else ""
        say(f"epoch {epoch + 1}/{recipe.epochs}  loss {loss:.3f}{score}  {left:.0f} s left")
    run.model.eval().cpu()
    # unknown where a checkpoint of before was resumed
    run.meta = {**run.meta, "seconds_per_epoch": None if math.isnan(seconds) else seconds / len(history)}
    return history


def _epoch(run, learner, items, recipe, optimizer, teacher, epoch, fabric):
    """One pass over the items in random order. -> mean loss."""
    learner.train()
    mean, std = (torch.from_numpy(a)[:, None].to(fabric.device) for a in (run.mean, run.std))  # (planes, 1, bands)
    order, total = items.order(), 0.0
    if fabric.world_size > 1:  # all agree on the order; each draws its own crops
        torch.manual_seed(int(torch.randint(2**31, ())) + fabric.global_rank)
    loss_of = F.binary_cross_entropy_with_logits if items.several_labels else _kl_divergence
    # The last batch takes what would be a batch of one: BatchNorm learns nothing good from it.
    n_batches = max(1, len(order) // recipe.batch_size)
    for step, batch in enumerate(torch.tensor_split(order, n_batches), epoch * n_batches + 1):
        share = batch[fabric.global_rank :: fabric.world_size]
        raw, goal = items.patches(share, fabric.device)
        target, opinion = goal[:, : len(run.labels)], goal[:, len(run.labels) :]
        if teacher:
            opinion = F.softmax(teacher(raw) / recipe.temperature, 1)
        x = (raw - mean) / std
        if recipe.mixstyle and torch.rand(()) < recipe.mixstyle:
            x = augment.freq_mixstyle(x)
        x = augment.spec_augment(x, recipe.mask_frames, recipe.mask_bands)
        logits = learner(x.contiguous(memory_format=torch.channels_last)).float()
        loss = loss_of(logits, target)
        if opinion.shape[1]:
            loss = (1 - recipe.distill) * loss + recipe.distill * _distance(logits, opinion, recipe.temperature)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        if recipe.average:
            _follow(run.model, learner, min(recipe.average, step / (step + 9)))  # at first the average is short
        total += loss.detach() * len(share)
    return float(fabric.all_reduce(total, reduce_op="sum")) / len(order)


@torch.no_grad()
def _follow(average, model, decay):
    """Moves `average`, statistics of BN included, towards `model`."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values()):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _kl_divergence(logits, target):
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean")


def _distance(logits, opinion, temperature):
    """KL divergence to a teacher's softened probabilities, as large as that to labels. Hinton 2015."""
    return _kl_divergence(logits / temperature, opinion) * temperature**2


def _optimizer(model, recipe):
    settings = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, **settings)
    return torch.optim.Adam(model.parameters(), **settings)


def _set_lr(optimizer, recipe, epoch, n_items):
    lr = recipe.lr
    if recipe.schedule == "cosine":
        length = recipe.epochs // recipe.cycles
        lr *= 0.2 if epoch == 0 else 0.5 * (1 + math.cos(math.pi * (epoch % length) / length))
    elif recipe.schedule == "steps":
        lr *= STEP_DECAY ** (epoch * max(1, n_items // recipe.batch_size) // STEP_BATCHES)
    elif recipe.schedule == "restarts":
        length, since = FIRST_RESTART_EPOCHS, epoch
        while since >= length:
            since, length = since - length, 2 * length
        lr *= RESTART_DECAY + (1 - RESTART_DECAY) * 0.5 * (1 + math.cos(math.pi * since / length))
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def _save(path, nets, optimizer, known_by, history, seconds):
    """Nets by name, the optimizer's moments, history: with the seeds per epoch all that a killed run needs."""
    tensors = {
        f"{name}.{key}": value.contiguous() for name, net in nets.items() for key, value in net.state_dict().items()
    }
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{key}": value.contiguous() for key, value in state.items() if value is not None}
    header = known_by | {"history": json.dumps(history), "seconds": repr(seconds)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, header)


def _resume(path, nets, optimizer, known_by):
    """Load the checkpoint, if there is one that is known by the same. -> its history and the seconds it took, or [], 0.0."""
    if not path.exists():
        return [], 0.0
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to start anew") from error
    stated = {"statistics": known_by["statistics"]} | header  # those of before state none
    if any(stated.get(key) != value for key, value in known_by.items()):
        print(f"{path} is of another recipe or other data: starting anew", file=sys.stderr)
        return [], 0.0
    try:
        for name, net in nets.items():
            start = f"{name}."
            net.load_state_dict({key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)})
        state = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                state.setdefault(int(i), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return json.loads(header["history"]), float(header.get("seconds", "nan"))  # not in those of before
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to start anew") from error


@torch.no_grad()
def clip_log_probabilities(run, statics):
    """(bands, frames) spectrograms -> (clips, classes): of a clip's patches, one opinion (runtime.fusion.over_patches)."""
    run.model.eval()
    device, out = next(run.model.parameters()).device, []
    for static in statics:
        log_p = F.log_softmax(run.model(torch.from_numpy(run.normalise(run.patch.cut(static))).to(device)), 1)
        out.append(over_patches(log_p.cpu().numpy(), run.patch.certainty))
    return np.stack(out)


@torch.no_grad()
def clip_tag_probabilities(run, statics):
    """(bands, frames) spectrograms -> (clips, labels): the mean over a clip's patches of each label's probability."""
    run.model.eval()
    device = next(run.model.parameters()).device
    patches = [torch.from_numpy(run.normalise(run.patch.cut(static))) for static in statics]
    return torch.stack([run.model(x.to(device)).sigmoid().mean(0) for x in patches]).cpu().numpy()


def _keep_memory():
    """Ask glibc to keep freed blocks: a net's activations came and went through mmap, 25 % of a step in page faults."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # not glibc: nothing to ask
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
