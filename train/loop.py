"""The only training loop. Resumable: every epoch draws its random numbers from (seed, epoch) alone."""

import ctypes
import dataclasses
import json
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open, save_file

from runtime.files import write_atomic
from train import augment
from train.features import cut, looped


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a net is trained. Adam, one warm-up epoch, then a cosine to zero; KL divergence, as mixup makes labels soft."""

    epochs: int = 60
    batch_size: int = 8
    lr: float = 3e-3
    weight_decay: float = 1e-4
    gain_db: float = 6.0
    mixup_alpha: float = 0.3
    mask_frames: int = 16
    mask_bands: int = 12
    distill: float = 0.5  # weight of the teacher's opinion where there is a teacher
    temperature: float = 2.0
    seed: int = 0

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN too
                raise ValueError(f"{name} {value}: choose {low} to {high}")


RANGES = {
    "epochs": (1, 100_000),
    "batch_size": (2, 4096),
    "lr": (1e-8, 1.0),
    "mixup_alpha": (0, 100),
    "distill": (0, 1),
    "temperature": (0.01, 100),
    "seed": (0, 2**31 - 1),
}


def fit(run, statics, targets, recipe, folder, *, identity=None, teacher=None, evaluate=None, say=print):
    """Train run.model on (bands, frames) spectrograms and their class indices; checkpoints into `folder`.

    Targets may also be (clips, labels) of 0 and 1, several labels at once: the loss is then binary cross entropy, as P0's.
    `identity`: JSON-able, what else the result depends on; a checkpoint of another one is not resumed. `teacher`: a
    function of raw patches (n, planes, frames, bands) in dB -> logits. `evaluate`: history so far -> accuracy, called on
    some epochs. -> history, a list of {"epoch", "loss", "lr", "accuracy"?}. A killed call goes on where it was.
    """
    _keep_memory()
    optimizer = torch.optim.Adam(run.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    checkpoint = Path(folder) / "checkpoint.safetensors"
    identity = json.dumps([dataclasses.asdict(recipe), run.name, run.model.kwargs, identity], sort_keys=True)
    history = _resume(checkpoint, run.model, optimizer, identity)
    if history:
        say(f"resumed after epoch {len(history)}")
    data = [torch.from_numpy(looped(s, run.patch.n_static)) for s in statics]
    targets = torch.as_tensor(targets)
    loss_of = F.binary_cross_entropy_with_logits if targets.ndim == 2 else _kl_divergence
    targets = targets.float() if targets.ndim == 2 else F.one_hot(targets, len(run.labels)).float()
    started, first = time.monotonic(), len(history)
    for epoch in range(len(history), recipe.epochs):
        torch.manual_seed(recipe.seed * 100_003 + epoch)
        lr = _set_lr(optimizer, recipe, epoch)
        loss = _epoch(run, data, targets, recipe, optimizer, teacher, loss_of)
        if not math.isfinite(loss):
            raise ValueError(f"the loss became {loss} in epoch {epoch + 1}: choose a smaller --lr than {recipe.lr}")
        row = {"epoch": epoch + 1, "loss": loss, "lr": lr}
        if evaluate and (epoch + 1 == recipe.epochs or (epoch + 1) % max(1, recipe.epochs // 10) == 0):
            row["accuracy"] = evaluate(history)
        history.append(row)
        _save(checkpoint, run.model, optimizer, identity, history)
        left = (time.monotonic() - started) / (epoch + 1 - first) * (recipe.epochs - epoch - 1)
        score = f"  accuracy {row['accuracy']:.1%}" if "accuracy" in row else ""
        say(f"epoch {epoch + 1}/{recipe.epochs}  loss {loss:.3f}{score}  {left:.0f} s left")
    run.model.eval()
    return history


def _epoch(run, data, targets, recipe, optimizer, teacher, loss_of):
    """One pass over the clips in random order, a random crop of each. -> mean loss."""
    run.model.train()
    mean, std = (torch.from_numpy(a)[:, None] for a in (run.mean, run.std))  # (planes, 1, bands)
    order, total = torch.randperm(len(data)), 0.0
    # The last batch takes what would be a batch of one: BatchNorm learns nothing good from it.
    n_batches = max(1, len(data) // recipe.batch_size)
    for batch in torch.tensor_split(order, n_batches):
        raw, target = _patches([data[i] for i in batch], run, recipe), targets[batch]
        if recipe.mixup_alpha and len(batch) > 1:
            raw, target = augment.mixup(raw, target, recipe.mixup_alpha)
        x = (raw - mean) / std
        if run.frontend.kind != "frames":  # a net that learns its filters masks what they give
            x = augment.spec_augment(x, recipe.mask_frames, recipe.mask_bands)
        loss = _loss(run.model(x), target, recipe, loss_of, teacher and teacher(raw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(data)


def _patches(statics, run, recipe):
    """A random stretch of each clip, louder or quieter -> (batch, planes, frames, bands)."""
    if run.frontend.kind == "frames":
        return augment.random_frames(statics, run.patch.n_static, recipe.gain_db)
    return augment.planes_of(augment.random_gain(augment.random_crops(statics, run.patch.n_static), recipe.gain_db))


def _kl_divergence(logits, target):
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean")


def _loss(logits, target, recipe, loss_of, teacher_logits=None):
    """The distance to the soft labels; with a teacher, part of it to the teacher's softened opinion (Hinton 2015)."""
    hard = loss_of(logits, target)
    if teacher_logits is None:
        return hard
    t = recipe.temperature
    soft = F.kl_div(F.log_softmax(logits / t, 1), F.softmax(teacher_logits / t, 1), reduction="batchmean") * t * t
    return (1 - recipe.distill) * hard + recipe.distill * soft


def _set_lr(optimizer, recipe, epoch):
    lr = recipe.lr * (0.2 if epoch == 0 else 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs)))
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def _save(path, model, optimizer, identity, history):
    """Model, Adam's moments, history: with the per-epoch seeds all that a killed run needs to end with the same numbers."""
    tensors = {f"net.{key}": value for key, value in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{key}": value for key, value in state.items()}
    header = {"identity": identity, "history": json.dumps(history)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda partial: save_file(tensors, partial, header))


def _resume(path, model, optimizer, identity):
    """Load the checkpoint, if there is one of the same identity. -> its history, or []."""
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to start anew") from error
    if header.get("identity") != identity:
        print(f"{path} is of another recipe or other data: starting anew", file=sys.stderr)
        return []
    model.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("net.")})
    state = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(header["history"])


@torch.no_grad()
def clip_log_probabilities(run, statics):
    """(bands, frames) spectrograms -> (clips, classes): log of the mean probability over a clip's patches, eq. (1) of P3."""
    run.model.eval()
    out = []
    for static in statics:
        patches = cut(static, run.frontend, run.patch)
        log_p = F.log_softmax(run.model(torch.from_numpy(run.normalise(patches))), 1)
        out.append(torch.logsumexp(log_p, 0) - math.log(len(patches)))
    return torch.stack(out).numpy()


@torch.no_grad()
def clip_tag_probabilities(run, statics):
    """(bands, frames) spectrograms -> (clips, labels): the mean over a clip's patches of each label's probability."""
    run.model.eval()
    patches = [torch.from_numpy(run.normalise(cut(static, run.frontend, run.patch))) for static in statics]
    return torch.stack([run.model(x).sigmoid().mean(0) for x in patches]).numpy()


def _keep_memory():
    """Ask glibc to keep freed blocks: a net's activations came and went through mmap, 25 % of a step in page faults."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # not glibc: nothing to ask
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
