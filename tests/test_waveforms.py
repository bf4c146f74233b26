"""train.waveforms against runtime.frontend: the same numbers from a batch."""

import dataclasses

import numpy as np
import pytest
import torch

from runtime.frontend import CQT, GAMMATONE, MEL, spectrogram
from runtime.papers import PAPERS
from tests.conftest import SR, noise
from train.waveforms import TOLERANCE_DB, TOLERANCE_MFCC, BatchFrontend

FRONTENDS = {
    "mel": MEL,
    "gam": GAMMATONE,
    "cqt": CQT,
    "cqt deep": dataclasses.replace(CQT, hop_length=1120),
    **{name: PAPERS[name] for name in ("p0_mel", "p1_stft", "p1_mfcc", "p1_logmel", "p4_frames")},
}


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_batch_is_runtime_s_numbers(name):
    frontend = FRONTENDS[name]
    waves = np.stack([noise(1, seed=0)[:SR], noise(1, seed=1)[:SR]])
    batch = BatchFrontend(frontend)(torch.from_numpy(waves)).numpy()
    for ours, wave in zip(batch, waves):
        expected = spectrogram(wave, frontend)
        assert ours.shape == expected.shape
        if frontend.kind == "mfcc":
            assert np.abs(ours - expected).max() <= TOLERANCE_MFCC * np.abs(expected).max()
        elif frontend.kind == "frames" or not frontend.log:
            assert np.allclose(ours, expected, rtol=1e-4, atol=1e-9)
        else:
            judged = (expected > expected.max(axis=0) - 80) & (expected > -99)
            assert np.abs(ours - expected)[judged].max() <= TOLERANCE_DB


def test_gradients_reach_the_waveform():
    wave = torch.zeros(1, SR // 4, requires_grad=True)
    for name in ("mel", "gam", "cqt"):
        BatchFrontend(FRONTENDS[name])(wave + 0.1 * torch.sin(0.1 * torch.arange(SR // 4))).mean().backward()
        assert torch.isfinite(wave.grad).all() and wave.grad.abs().max() > 0
        wave.grad = None
