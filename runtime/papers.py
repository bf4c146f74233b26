"""The front ends of the five papers, as far as they print them; what a paper leaves open is said beside it."""

import dataclasses
from typing import Any

from runtime.frontend import CQT, CQT_SEED, GAMMATONE, MEL, Frontend

_P0: dict[str, Any] = {"n_fft": 1024, "win_length": 1024, "hop_length": 512}  # "1024 frames, hop 512", read as samples
_P1: dict[str, Any] = {"n_fft": 4096, "win_length": 1290, "hop_length": 256}  # the authors' scripts say window 1920
_P2: dict[str, Any] = {"n_fft": 2048, "win_length": 2048, "hop_length": 512}
_P4: dict[str, Any] = {"n_fft": 2048, "win_length": 2048, "hop_length": 1024}
P3_HOPS = (620, 1120, 1850, 2048)  # "1, 2, 5, 10 s"

PAPERS = {
    "p0_mel": Frontend("mel", n_bands=40, log=False, **_P0),
    "p0_logmel": Frontend("mel", n_bands=40, **_P0),
    "p0_mfcc": Frontend("mfcc", n_bands=13, n_mels=40, **_P0),
    # fmin and range are unstated: six octaves from 220 Hz, kernels of half a second
    "p0_cqt": Frontend("cqt", hop_length=512, n_bands=480, fmin=220.0, bins_per_octave=80),
    "p1_stft": Frontend("stft", **_P1),  # 2048 bins rescaled to 128
    "p1_logmel": Frontend(
        "mel", fmin=10.0, mel_scale="htk", **_P1
    ),  # as printed; the authors' scripts use Slaney's mel
    "p1_mfcc": Frontend("mfcc", n_bands=64, fmin=10.0, mel_scale="htk", **_P1),  # `with_delta` makes 128 of them
    "p1_cqt": dataclasses.replace(CQT_SEED, hop_length=256),
    "p1_gam": Frontend("gammatone", fmin=10.0, **_P1),
    "p2_logmel": Frontend("mel", n_bands=40, **_P2),
    # fmin and bins per octave are unstated: from C1 to 16.7 kHz
    "p2_cqt": Frontend("cqt", hop_length=512, n_bands=64, fmin=32.703, bins_per_octave=7),
    "p2_gam": Frontend("gammatone", n_bands=64, fmin=50.0, **_P2),
    "p2_mfcc": Frontend("mfcc", n_bands=40, **_P2),
    "p2_logmel64": Frontend("mel", n_bands=64, **_P2),  # of the tiny net for task 1B
    "p3_cqt_seed": CQT_SEED,
    "p4_frames": Frontend("frames", n_bands=2048, **_P4),
    "p4_logmel": Frontend("mel", n_bands=80, **_P4),
    "p4_frames_urban8k": Frontend("frames", n_bands=1102, n_fft=2048, win_length=1102, hop_length=441),
    **{
        f"p3_{name}_{hop}": dataclasses.replace(frontend, hop_length=hop)
        for name, frontend in {"mel": MEL, "gam": GAMMATONE, "cqt": CQT}.items()
        for hop in P3_HOPS
    },
}
