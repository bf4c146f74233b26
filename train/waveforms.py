"""runtime.frontend in torch, for batches and on a GPU, from the same matrices: so that augmentation can work on waveforms.

    spectrogram_of = BatchFrontend(MEL).to("cuda")
    static = spectrogram_of(waves)  # (batch, samples) -> (batch, n_bands, frames)

Equal to runtime.frontend within TOLERANCE_DB over the cells within 80 dB of their frame's maximum; MFCC within
TOLERANCE_MFCC of its largest value. Train and test nets on runtime.frontend's numbers all the same: they are the device's.
"""

import torch

from runtime import filterbanks
from runtime.cqt import CqtPlan
from runtime.spectrum import FLOOR_GAMMATONE, FLOOR_POWER, band_weights

TOLERANCE_DB = 0.01
TOLERANCE_MFCC = 1e-4


class BatchFrontend(torch.nn.Module):
    """A runtime Frontend of any kind as a module without parameters; gradients flow back to the waveform."""

    def __init__(self, frontend):
        super().__init__()
        self.frontend = frontend
        if frontend.kind == "cqt":
            self._build_cqt()
        elif frontend.kind != "frames":
            self._build_spectrum()

    def _keep(self, name, array):
        """As a buffer: it moves with .to() and is no part of a state dict."""
        self.register_buffer(name, torch.as_tensor(array, dtype=torch.float32).contiguous(), persistent=False)

    def _build_spectrum(self):
        f = self.frontend
        self._keep("window", filterbanks.hann(f.win_length))
        if f.kind != "stft":
            self._keep("weights", band_weights(f))
        if f.kind == "mfcc":
            self._keep("dct", filterbanks.dct_matrix(f.n_bands, f.n_mels))

    def _build_cqt(self):
        plan = CqtPlan([self.frontend])
        self.plan = [(level, plan.strides[level]) for level, _ in plan.octaves]
        for i, (_, kernels) in enumerate(plan.octaves):
            self._keep(f"kernels{i}", kernels.T[:, None])  # (2 * bands, 1, samples)
        self.decimations = [decimator.factor for decimator in plan.decimators]
        for i, decimator in enumerate(plan.decimators):
            self._keep(f"taps{i}", decimator.taps[None, None])
        self.first_samples = plan.first_samples

    def forward(self, waves):
        """(batch, samples) at frontend.sr -> (batch, n_bands, 1 + samples // hop_length), as runtime.frontend."""
        f = self.frontend
        if f.kind == "cqt":
            return self._cqt(waves)
        length = f.win_length
        before = length // 2 if f.kind == "frames" else f.n_fft // 2 - (f.n_fft - length) // 2
        padded = torch.nn.functional.pad(waves, (before, length))
        frames = padded.unfold(1, length, f.hop_length)[:, : f.n_frames(waves.shape[1])]  # (batch, frames, length)
        return (frames if f.kind == "frames" else self._bands(frames)).transpose(1, 2)

    def _bands(self, frames):
        f = self.frontend
        spectra = torch.fft.rfft(frames * self.window, f.n_fft)
        power = spectra.real**2 + spectra.imag**2
        if f.kind == "gammatone":
            bands = power.clamp(min=1e-30).sqrt() @ self.weights.T  # the clamp: sqrt has no slope at 0
            return decibels(bands**2, FLOOR_GAMMATONE) if f.log else bands
        if f.kind == "stft":
            n_bins = f.n_fft // 2 // f.n_bands
            bands = power[..., :-1].unflatten(-1, (f.n_bands, n_bins)).mean(-1) if n_bins else power
        else:
            bands = power @ self.weights.T
        level = decibels(bands, FLOOR_POWER) if f.log else bands
        return level @ self.dct.T if f.kind == "mfcc" else level

    def _cqt(self, waves):
        f, pad = self.frontend, torch.nn.functional.pad
        n_frames = f.n_frames(waves.shape[1])
        longest = max(getattr(self, f"kernels{i}").shape[2] * stride for i, (_, stride) in enumerate(self.plan))
        signal, signals = pad(waves, (0, longest + f.hop_length * 16))[:, None], []
        for i, factor in enumerate([*self.decimations, None]):
            signals.append(signal)
            if factor:
                taps, first, lower = getattr(self, f"taps{i}"), self.first_samples[i], self.first_samples[i + 1]
                reach = taps.shape[2] // 2
                signal = torch.nn.functional.conv1d(
                    pad(signal, (first - (factor * lower - reach), reach)), taps, stride=factor
                )
        bands = []
        for i, (level, stride) in reversed(list(enumerate(self.plan))):
            kernels = getattr(self, f"kernels{i}")
            bands.append(self._octave(signals[level], -self.first_samples[level], stride, kernels, n_frames))
        power = torch.cat(bands, dim=1)
        return decibels(power, FLOOR_POWER) if f.log else power

    def _octave(self, signal, zero, stride, kernels, n_frames):
        """(batch, 1, samples), sample 0 at `zero` -> (batch, bands, n_frames) power."""
        length, hop = kernels.shape[2], self.frontend.hop_length // stride
        signal = torch.nn.functional.pad(signal, (length, length))
        first = length + zero - length // 2
        response = torch.nn.functional.conv1d(signal[..., first:], kernels, stride=hop)[..., :n_frames]
        return response[:, ::2] ** 2 + response[:, 1::2] ** 2


def decibels(power, floor):
    return 10 * torch.log10(power.clamp(min=floor))
