"""The golden window: some sound and what a bundle has made of it, to be made again on every machine."""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.member import BundleError

if TYPE_CHECKING:
    from runtime.bundle import Bundle

MAX_BYTES = 32 << 20


def window(bundle: "Bundle", samples: np.ndarray) -> dict[str, np.ndarray]:
    """What golden.npz holds: the samples, each member's spectrogram and probabilities, the fused ones."""
    log_p, statics = bundle.member_log_p(samples), bundle.statics(samples)
    arrays = {"samples": samples.astype(np.float32), "p": np.exp(bundle.fused(log_p))}
    for member, p, static in zip(bundle.members, log_p, statics):
        arrays[f"p_{member.name}"] = np.exp(p)
        arrays[f"spectrogram_{member.name}"] = static.astype(np.float16)
    return arrays


def read(path: Path, n_classes: int, names: list[str]) -> dict[str, np.ndarray]:
    """What `window` made, of a bundle with these members; spectrograms left out. Raises BundleError."""
    if not path.is_file():
        raise BundleError(f"{path} is missing: copy the bundle again")
    try:
        with zipfile.ZipFile(path) as archive:  # sizes first: a small archive can unpack to a huge one
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise BundleError(f"{path} unpacks to more than {MAX_BYTES >> 20} MB")
        with np.load(path, allow_pickle=False) as file:
            golden = {key: file[key] for key in ("samples", "p", *(f"p_{name}" for name in names))}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise BundleError(f"{path} is damaged ({error}): copy the bundle again") from error
    samples = golden["samples"]
    fits = all(p.shape == (n_classes,) for name, p in golden.items() if name != "samples")
    if not fits or samples.ndim != 1 or not len(samples) or any(a.dtype.kind != "f" for a in golden.values()):
        raise BundleError(f"{path} does not belong to this bundle")
    return golden
