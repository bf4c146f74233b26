"""Nets with random numbers everywhere, BN statistics included: an untrained BN is the identity and would hide errors."""

import numpy as np
import torch

from export import int8
from export.graph import graph_of
from train.cnn7 import CNN7

N_CLASSES = 10


def random_model(widths, decomposed=False, order="deploy", seed=0) -> CNN7:
    """A CNN7 in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CNN7(N_CLASSES, widths, decomposed, order).eval()
        for bn in (m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))):
            torch.nn.init.normal_(bn.weight, 1, 0.4)
            torch.nn.init.normal_(bn.bias, 0, 0.5)
            bn.running_mean.normal_(0, 0.5)
            bn.running_var.uniform_(0.5, 1.5)
    return model


def random_patches(n, frames, bands, seed=0) -> np.ndarray:
    """(n, 3, frames, bands) float32, zero mean and unit variance."""
    return np.random.default_rng(seed).standard_normal((n, 3, frames, bands)).astype(np.float32)


def torch_logits(model, patches) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(patches)).numpy()


def random_int8(widths, decomposed, frames=128, bands=128, seed=0, n_patches=2) -> int8.Int8Net:
    """A random deploy-order net, calibrated on random patches."""
    graph = graph_of(random_model(widths, decomposed, seed=seed), (3, frames, bands))
    return int8.quantize(graph, int8.calibrate(graph, random_patches(n_patches, frames, bands, seed)))
