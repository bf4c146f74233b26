"""Filterbanks that are learned with the net, on raw frames: P4's cosine-modulated Gaussians, SincNet, mel as baseline.

The energy that a filter leaves of a frame is a sum over the frame's power spectrum (Parseval), so no filter is ever run
sample by sample: `band_energies`. After training a bank is a table of weights, as mel is.
"""

import numpy as np
import torch
from torch import nn

from runtime import filterbanks
from runtime.spectrum import FLOOR_POWER
from train.waveforms import decibels

KERNEL_S = 0.016  # 705 samples at 44.1 kHz
HIGHEST = 0.5  # cycles per sample
LOWEST_HZ = 10.0  # where SincNet's lowest band begins: its logarithm must exist


def band_energies(frames, kernels):
    """(..., samples), (filters, length) -> (..., filters): mean square of frame * kernel, in P4 a convolution, a square
    and an average pool.

    The frame stands between zeros and all samples + length - 1 values of the convolution count; divided by `samples`.
    """
    n_samples = frames.shape[-1]
    n_fft = 1 << (n_samples + kernels.shape[-1] - 2).bit_length()  # no value wraps round
    spectrum = torch.fft.rfft(frames, n_fft)
    return (spectrum.real**2 + spectrum.imag**2) @ energy_weights(kernels, n_fft).T / (n_fft * n_samples)


def energy_weights(kernels, n_fft):
    """(filters, length), an even n_fft -> (filters, n_fft / 2 + 1): what each bin of a power spectrum counts."""
    spectrum = torch.fft.rfft(kernels, n_fft)
    gains = spectrum.real**2 + spectrum.imag**2
    both_sides = torch.full((n_fft // 2 + 1,), 2.0, dtype=gains.dtype, device=gains.device)
    both_sides[0] = both_sides[-1] = 1.0
    return gains * both_sides


class TableBank(nn.Module):
    """A bank after training: (..., samples) -> (..., filters) dB, weights times the power spectrum of a windowed frame.

    The Fourier transform is a product with two real matrices: converters know no complex numbers. window (samples,),
    weights (filters, n_fft / 2 + 1).
    """

    def __init__(self, window, n_fft, weights):
        super().__init__()
        turns = torch.outer(torch.arange(len(window)), torch.arange(n_fft // 2 + 1)) % n_fft
        angles = 2 * torch.pi * turns.double() / n_fft
        for name, table in (("cos", angles.cos()), ("sin", angles.sin())):
            self.register_buffer(name, (window.double()[:, None] * table).float())
        self.register_buffer("weights", weights.detach().T.float().contiguous())

    def forward(self, frames):
        return decibels(((frames @ self.cos) ** 2 + (frames @ self.sin) ** 2) @ self.weights, FLOOR_POWER)


def energies_table(n_samples, kernels):
    """A learned bank as a TableBank for frames of n_samples: the same energies, by the shortest even transform."""
    n_fft = (n_samples + kernels.shape[-1]) // 2 * 2  # samples + length - 1 at least: no value wraps round
    kernels = kernels.detach().double()
    return TableBank(torch.ones(n_samples), n_fft, energy_weights(kernels, n_fft) / (n_fft * n_samples))


def mel_spaced(n_filters, sr):
    """-> (n_filters,) centre frequencies in Hz, evenly spaced in mel: where the learned banks start."""
    return filterbanks.mel_centers(n_filters, 0.0, sr / 2, "slaney")


class CosineGaussian(nn.Module):
    """g_i(n) = cos(2 pi mu_i n) exp(-n^2 mu_i^2 / 2), n centred: only mu_i, in cycles per sample, is learned.

    Learned is its logarithm's distance from mel: Adam's steps are relative ones, and weight decay pulls towards mel.
    forward: (..., samples) -> (..., n_filters) dB, ordered by mu.
    """

    def __init__(self, n_filters, sr):
        super().__init__()
        self.sr = sr
        self.shift = nn.Parameter(torch.zeros(n_filters))
        self.register_buffer("start", torch.from_numpy(mel_spaced(n_filters, sr) / sr).float(), persistent=False)
        self.register_buffer("n", _centred(sr), persistent=False)

    def mu(self):
        """-> (n_filters,) cycles per sample, the lowest first."""
        return (self.start * self.shift.exp()).clamp(max=HIGHEST).sort().values

    def kernels(self):
        """-> (n_filters, length)."""
        mu = self.mu()[:, None]
        return torch.cos(2 * torch.pi * mu * self.n) * torch.exp(-((self.n * mu) ** 2) / 2)

    def forward(self, frames):
        return decibels(band_energies(frames, self.kernels()), FLOOR_POWER)

    def as_table(self, n_samples):
        return energies_table(n_samples, self.kernels())

    def centers_hz(self):
        return self.mu().detach().double().numpy() * self.sr


class Sinc(nn.Module):
    """SincNet (Ravanelli and Bengio 2018): band passes under a Hamming window, whose two edges are learned.

    g_i(n) = 2 f2 sinc(2 f2 n) - 2 f1 sinc(2 f1 n), sinc(x) = sin(pi x) / (pi x), f2 above f1. Learned are the logarithms of
    f1 and of f2 - f1, as distances from mel.
    """

    def __init__(self, n_filters, sr):
        super().__init__()
        self.sr = sr
        self.shift = nn.Parameter(torch.zeros(2, n_filters))
        edges = filterbanks.mel_edges(n_filters, 0.0, sr / 2)  # neighbours overlap by half, as mel's triangles
        start = np.stack([np.maximum(edges[:-2], LOWEST_HZ), edges[2:] - np.maximum(edges[:-2], LOWEST_HZ)])
        self.register_buffer("start", torch.from_numpy(start / sr).float(), persistent=False)
        self.register_buffer("n", _centred(sr), persistent=False)
        window = torch.hamming_window(len(self.n), periodic=False)
        self.register_buffer("window", window, persistent=False)

    def edges(self):
        """-> f1, f2, each (n_filters,) cycles per sample, ordered by their middle."""
        f1, width = self.start * self.shift.exp()
        f1, f2 = (f.clamp(max=HIGHEST) for f in (f1, f1 + width))
        order = (f1 + f2).argsort()
        return f1[order], f2[order]

    def kernels(self):
        """-> (n_filters, length)."""
        f1, f2 = (f[:, None] for f in self.edges())
        return (2 * f2 * torch.sinc(2 * f2 * self.n) - 2 * f1 * torch.sinc(2 * f1 * self.n)) * self.window

    def forward(self, frames):
        return decibels(band_energies(frames, self.kernels()), FLOOR_POWER)

    def as_table(self, n_samples):
        return energies_table(n_samples, self.kernels())

    def centers_hz(self):
        f1, f2 = (f.detach().double().numpy() for f in self.edges())
        return (f1 + f2) / 2 * self.sr


class Mel(nn.Module):
    """The baseline: mel bands of the frame's power spectrum under a Hann window, nothing learned."""

    def __init__(self, n_filters, sr):
        super().__init__()
        self.sr, self.n_filters = sr, n_filters

    def forward(self, frames):
        n_fft, window, weights = self._framing(frames.shape[-1])
        spectrum = torch.fft.rfft(frames * window.to(frames), n_fft)
        return decibels((spectrum.real**2 + spectrum.imag**2) @ weights.to(frames).T, FLOOR_POWER)

    def as_table(self, n_samples):
        n_fft, window, weights = self._framing(n_samples)
        return TableBank(window, n_fft, weights)

    def _framing(self, n_samples):
        """-> FFT length, window (n_samples,), weights (n_filters, n_fft / 2 + 1)."""
        n_fft = 1 << (n_samples - 1).bit_length()
        weights = filterbanks.mel_weights(self.sr, n_fft, self.n_filters, 0.0, self.sr / 2)
        return n_fft, torch.as_tensor(filterbanks.hann(n_samples)), torch.as_tensor(weights)

    def centers_hz(self):
        return mel_spaced(self.n_filters, self.sr)


BANKS = {"cosgauss": CosineGaussian, "sinc": Sinc, "mel": Mel}


def _centred(sr):
    """-> (length,) sample numbers around 0, an odd number of them: 705 at 44.1 kHz."""
    reach = int(sr * KERNEL_S) // 2
    return torch.arange(-reach, reach + 1, dtype=torch.float32)
