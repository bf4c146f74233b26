"""What a bundle needs beside its nets: what its front ends compute, keep and cost, per second of audio.

Operations are counted from the front ends' own tables. Milliseconds on a board are a wide guess from operations (no
published row measures these front ends); on this machine they are measured.
"""

import time
from dataclasses import dataclass
from math import log2

import numpy as np

from runtime import filterbanks
from runtime.cqt import CqtPlan
from runtime.frontend import Frontend, FrontendStream, spectrogram, table_bytes
from runtime.member import Member
from runtime.spectrum import band_weights

# Cycles per floating-point operation in such loops, [low, high]: loads, stores and waiting included. From the cores'
# instruction timings; a core without a floating-point unit calls a routine for each.
_CYCLES_PER_FLOP = {
    "Cortex-M0+": (30.0, 100.0),
    "RISC-V": (30.0, 100.0),
    "Cortex-M4": (2.0, 6.0),
    "Cortex-M33": (2.0, 6.0),
    "Cortex-M7": (1.2, 4.0),
    "Cortex-M55": (0.6, 4.0),
    "Cortex-M85": (0.5, 3.0),
    "Xtensa LX6": (2.5, 8.0),
    "Xtensa LX7": (2.0, 8.0),
}
_DEFAULT_CYCLES_PER_FLOP = (0.25, 4.0)  # application processors, with or without numpy's vector code
_LOG_FLOPS = 25  # of a logarithm in single precision
_BYTES = 4  # float32, as the runtime keeps samples and frames


@dataclass(frozen=True)
class FrontendCost:
    """One front end of a member. flops: per second of audio. Bytes: constants, and what a stream keeps between frames.

    table_bytes: as the Python runtime keeps them, float32. lean_bytes: as a microcontroller would: mel weights
    sparse, gammatone weights down to -60 dB in int8, one octave of CQT kernels in int16 for all octaves.
    """

    name: str
    kind: str
    flops_per_s: float
    table_bytes: int
    lean_bytes: int
    sample_bytes: int
    frame_bytes: int
    work_bytes: int
    measured_ms_per_s: float | None

    @property
    def ram_bytes(self) -> int:
        """Ring buffers of samples and frames, and the work area of one frame."""
        return self.sample_bytes + self.frame_bytes + self.work_bytes


def of_member(member: Member, measured: bool) -> list[FrontendCost]:
    """Of each front end that the member hears. measured: time it here, a second of noise, median of three."""
    frontends = member.frontend.frontends
    names = [member.name] if len(frontends) == 1 else [f"{member.name}: {f.kind} {f.n_bands}" for f in frontends]
    return [_cost(name, f, member.patch.n_static, measured) for name, f in zip(names, frontends)]


def _cost(name: str, frontend: Frontend, n_static: int, measured: bool) -> FrontendCost:
    stream = FrontendStream(frontend)
    frames = n_static * frontend.n_bands * _BYTES
    work = (frontend.n_fft + 2) * _BYTES if frontend.kind not in ("cqt", "frames") else 0  # the spectrum, in place
    return FrontendCost(
        name=name,
        kind=frontend.kind,
        flops_per_s=frontend.sr * (_flops_per_frame(frontend) / frontend.hop_length + _flops_per_sample(frontend)),
        table_bytes=table_bytes(frontend),
        lean_bytes=_lean_bytes(frontend),
        sample_bytes=(stream.lookback + stream.lookahead + 1) * _BYTES,
        frame_bytes=frames,
        work_bytes=work,
        measured_ms_per_s=_measured(frontend) if measured else None,
    )


def _lean_bytes(frontend: Frontend) -> int:
    if frontend.kind == "cqt":
        kernels = max(kernels.size for _, kernels in CqtPlan((frontend,)).octaves)
        return (kernels + len(filterbanks.halving_filter())) * 2
    if frontend.kind == "frames":
        return 0
    weights = _weights(frontend)
    half_window = frontend.win_length // 2 * 2  # int16, symmetric
    if frontend.kind == "gammatone":
        return int(np.count_nonzero(weights > 1e-3 * weights.max(axis=1, keepdims=True))) + half_window
    return int(np.count_nonzero(weights)) * _BYTES + half_window


def _weights(frontend: Frontend) -> np.ndarray:
    """(bands, bins) that a spectrum is multiplied with; none for stft and frames."""
    return np.zeros((0, 1)) if frontend.kind in ("stft", "frames") else np.abs(band_weights(frontend))


def _flops_per_frame(frontend: Frontend) -> float:
    if frontend.kind == "frames":
        return 0.0
    logs = frontend.n_bands * _LOG_FLOPS
    if frontend.kind == "cqt":  # a product with a complex kernel per band, and its magnitude
        return logs + sum(2.0 * kernels.size for _, kernels in CqtPlan((frontend,)).octaves) + 3 * frontend.n_bands
    n, weights = frontend.n_fft, _weights(frontend)
    bands = 2.0 * np.count_nonzero(weights > 1e-7 * weights.max(initial=0))
    dct = 2.0 * frontend.n_bands * frontend.n_mels if frontend.kind == "mfcc" else 0.0
    return logs + frontend.win_length + 2.5 * n * log2(n) + 1.5 * n + float(bands) + dct


def _flops_per_sample(frontend: Frontend) -> float:
    """Halving the rate, octave by octave: each output sample is a product with the filter, half as many each time."""
    if frontend.kind != "cqt":
        return 0.0
    levels = max(level for level, _ in CqtPlan((frontend,)).octaves)
    return sum(2.0 * len(filterbanks.halving_filter()) / 2**level for level in range(1, levels + 1))


def _measured(frontend: Frontend) -> float:
    seconds = 4.0
    wave = np.random.default_rng(0).standard_normal(int(seconds * frontend.sr)).astype(np.float32)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        spectrogram(wave, frontend)
        times.append((time.perf_counter() - start) * 1e3 / seconds)
    return float(np.median(times[1:]))  # the first one builds the tables


def frontend_ms_per_s(flops: float, core: str, clock_mhz: float) -> tuple[float, float]:
    """flops of all front ends per second of audio -> [low, high] ms a second on a core; wide, from counts alone."""
    low, high = _CYCLES_PER_FLOP.get(core, _DEFAULT_CYCLES_PER_FLOP)
    return flops * low / (clock_mhz * 1e3), flops * high / (clock_mhz * 1e3)
