"""A training run on disk: model.safetensors and meta.json. Nothing in it can run code."""

import dataclasses
import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file

from runtime.files import write_atomic
from runtime.frontend import Frontend
from train.features import PatchShape, Stack, frontend_from_json
from train.models import MODELS


def write_tensors(path, tensors, header=None):
    """Atomic; header: {str: str}. Raises OSError, which safetensors' own error on a full disk is not."""

    def write(partial):
        try:
            save_file(tensors, partial, header)
        except safetensors.SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(partial)) from error

    write_atomic(path, write)


@dataclasses.dataclass
class Run:
    """A trained net and all that its input needs. `meta` holds scores, seed, recipe, versions: what was measured, how."""

    name: str
    model: torch.nn.Module  # normalised patches (n, planes, frames, bands) -> logits (n, classes)
    frontend: Frontend | Stack
    patch: PatchShape
    labels: tuple[str, ...]
    mean: np.ndarray  # (planes, bands)
    std: np.ndarray
    meta: dict

    def normalise(self, patches):
        """(n, planes, frames, bands) in dB -> the same, mean 0 and variance 1 per plane and band of the training set."""
        return (patches - self.mean[:, None]) / self.std[:, None]

    def save_weights(self, folder, name="model.safetensors"):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"net.{key}": value.contiguous() for key, value in self.model.state_dict().items()}
        tensors |= {"normalise.mean": torch.from_numpy(self.mean), "normalise.std": torch.from_numpy(self.std)}
        write_tensors(folder / name, tensors)

    def save(self, folder):
        self.save_weights(folder)
        meta = {
            "model": self.name,
            "kwargs": self.model.kwargs,
            "frontend": self.frontend.to_json(),
            "patch": self.patch.to_json(),
            "labels": list(self.labels),
            **self.meta,
        }
        write_atomic(Path(folder) / "meta.json", lambda path: path.write_text(json.dumps(meta, indent=1) + "\n"))


def load_run(folder, weights="model.safetensors"):
    """-> the Run saved in `folder`, its model in eval mode. Raises ValueError that names the file and what is wrong."""
    folder = Path(folder)
    meta_path, weights_path = folder / "meta.json", folder / weights
    for path in (meta_path, weights_path):
        if not path.is_file():
            raise ValueError(f"{folder} is not a finished training run: {path.name} is missing")
    try:
        meta = json.loads(meta_path.read_text())
        name, kwargs = meta.pop("model"), meta.pop("kwargs")
        frontend, patch = frontend_from_json(meta.pop("frontend")), PatchShape(**meta.pop("patch"))
        labels = tuple(meta.pop("labels"))
        if not isinstance(meta.get("data", {}), dict):
            raise ValueError(f"data is {meta['data']!r}")
        model = MODELS[name](**kwargs)
        tensors = load_file(weights_path)
        model.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("net.")})
        mean, std = tensors["normalise.mean"].numpy(), tensors["normalise.std"].numpy()
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder}: {meta_path.name} or {weights_path.name} is damaged: {error}") from error
    return Run(name, model.eval(), frontend, patch, labels, mean, std, meta)


def weights_digest(folder):
    """-> sha256 of a run's weights: what another net learns from it depends on them. Raises ValueError without them."""
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} is not a finished training run: {path.name} is missing")
    return hashlib.sha256(path.read_bytes()).hexdigest()
