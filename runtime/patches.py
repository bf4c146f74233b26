"""What a net sees of a spectrogram: planes, cut into patches. Training, export and device make them here alone."""

import dataclasses
from typing import Any

import numpy as np

from runtime.values import number

DELTA_FRAMES = 8  # two valid 5-tap deltas take four frames from either end
# What a net sees of a spectrogram -> how many of its frames that costs at both ends together.
PLANES = {"deltas": DELTA_FRAMES, "static": 0, "stacked": 2, "frames": 0}
QUIETEST_DB = -90.0, 100.0  # the front ends end at -100: digital silence must not become a loud sound
RANGE_DB = 50.0
MAX_CERTAINTY = 16.0  # the surest patch alone, all but


@dataclasses.dataclass(frozen=True)
class PatchShape:
    """A net's input: `n_frames` frames, one patch every `stride` frames, and in them `planes`:

    deltas    the spectrogram, its delta and its delta-delta, a plane each (P3)
    static    the spectrogram alone (P1, P2)
    stacked   the spectrogram and, as further bands, its delta over one frame either way: P1's MFCC, eq. (9)
    frames    raw frames, samples in place of bands, for nets that learn their filters and take deltas themselves (P4)

    quietest_db: None, or dB are relative to the patch's loudest frame (the mean of its bands), or to this level where that
    frame is quieter still: a sound is the same near and far, and a room's own noise is not made as loud as a sound. What
    lies more than RANGE_DB below is raised to there: it is the recording's noise, or its digital silence. For the planes
    deltas and static of levels in dB.

    certainty: how much more a patch counts that is sure, where the opinions on several become one: runtime.fusion.weights.
    """

    n_frames: int = 128
    stride: int = 32
    planes: str = "deltas"
    quietest_db: float | None = None
    certainty: float = 0.0

    def __post_init__(self) -> None:
        if self.planes not in PLANES:
            raise ValueError(f"planes {self.planes!r}: choose {', '.join(PLANES)}")
        if not 8 <= self.n_frames <= 4096 or not 1 <= self.stride <= 4096:
            raise ValueError(
                f"patches of {self.n_frames} frames every {self.stride}: choose 8 to 4096, every 1 to 4096"
            )
        number("certainty", self.certainty, 0.0, MAX_CERTAINTY)
        if self.quietest_db is not None:
            number("quietest_db", self.quietest_db, *QUIETEST_DB)
            if self.planes not in ("deltas", "static"):
                raise ValueError(f"planes {self.planes!r} are no levels in dB: leave quietest_db out")

    @property
    def n_static(self) -> int:
        """Static frames that one patch needs."""
        return self.n_frames + PLANES[self.planes]

    def in_shape(self, n_bands: int) -> tuple[int, int, int]:
        """Bands of the spectrogram -> (planes, n_frames, bands') of a patch."""
        return 3 if self.planes == "deltas" else 1, self.n_frames, n_bands * (2 if self.planes == "stacked" else 1)

    def planes_of(self, static: np.ndarray) -> np.ndarray:
        """(bands, frames) -> (planes, bands', fewer frames)."""
        if self.planes == "deltas":
            return deltas(static)
        return (with_delta(static) if self.planes == "stacked" else static)[None]

    def whole(self, static: np.ndarray) -> np.ndarray:
        """(bands, frames) -> (n, planes, n_frames, bands'): the patches that are in it, perhaps none."""
        if self.quietest_db is None:
            return patches(self.planes_of(static), self.n_frames, self.stride)
        starts = range(0, static.shape[1] - self.n_static + 1, self.stride)
        cut = [patches(self.planes_of(self.relative(static[:, s : s + self.n_static])), self.n_frames) for s in starts]
        return np.concatenate(cut) if cut else np.zeros((0, *self.in_shape(len(static))), np.float32)

    def cut(self, static: np.ndarray) -> np.ndarray:
        """The same, at least one: a clip too short is repeated."""
        return self.whole(looped(static, self.n_static))

    def reference_db(self, static: np.ndarray) -> float:
        """What the dB of (bands, frames), a patch or a recording taken for one, are relative to."""
        assert self.quietest_db is not None
        return max(float(np.ascontiguousarray(static).mean(axis=0).max()), self.quietest_db)

    def relative(self, static: np.ndarray, reference_db: float | None = None) -> np.ndarray:
        """(bands, frames) as the front end gives them -> as a net hears them, relative to their own reference by default."""
        if self.quietest_db is None:
            return static
        reference_db = self.reference_db(static) if reference_db is None else reference_db
        return np.maximum(static - np.float32(reference_db), np.float32(-RANGE_DB))

    def to_json(self) -> dict[str, Any]:
        """What trained runs are known by; what came later is left out at its default."""
        later = {"planes": "deltas", "quietest_db": None, "certainty": 0.0}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in later or v != later[k]}


def deltas(static: np.ndarray) -> np.ndarray:
    """(bands, frames) -> (3, bands, frames - 8): static, delta, delta-delta; frame t of the result is frame t + 4.

    Delta: 5 taps (-2, -1, 0, 1, 2) / 10, no padding, applied twice, as P3's 712 -> 704 frames ask.
    """
    if static.shape[1] <= DELTA_FRAMES:
        return np.zeros((3, static.shape[0], 0), np.float32)
    first = delta(static)
    return np.stack([static[:, 4:-4], first[:, 2:-2], delta(first)])


def delta(x: np.ndarray, reach: int = 2) -> np.ndarray:
    """(..., frames) -> (..., frames - 2 reach): slope per frame of the line through 2 reach + 1 frames, no padding.

    reach 2 is P3's, reach 1 is P1's (x[t + 1] - x[t - 1]) / 2, its eq. (9).
    """
    n = x.shape[-1] - 2 * reach
    slopes = sum(k * (x[..., reach + k :][..., :n] - x[..., reach - k :][..., :n]) for k in range(reach, 0, -1))
    return (slopes / (2 * sum(k * k for k in range(1, reach + 1)))).astype(np.float32)


def with_delta(static: np.ndarray, reach: int = 1) -> np.ndarray:
    """(bands, frames) -> (2 bands, frames - 2 reach): P1's MFCC, 64 coefficients above their 64 deltas."""
    return np.concatenate([static[:, reach:-reach], delta(static, reach)])


def patches(planes: np.ndarray, n_frames: int = 128, stride: int = 64) -> np.ndarray:
    """(planes, bands, frames) -> (n, planes, n_frames, bands): the net's inputs, every `stride` frames; time is the row.

    Rows are time so that a small device can run a net whose patches are not relative row by row while the sound comes in.
    """
    n = max(0, (planes.shape[2] - n_frames) // stride + 1)
    cut = [planes[:, :, i * stride : i * stride + n_frames].transpose(0, 2, 1) for i in range(n)]
    return np.stack(cut) if cut else np.zeros((0, planes.shape[0], n_frames, planes.shape[1]), np.float32)


def looped(static: np.ndarray, n_frames: int) -> np.ndarray:
    """(bands, frames) -> (bands, at least n_frames): a short clip is repeated, never padded with silence."""
    repeats = -(-n_frames // static.shape[1])
    return np.tile(static, (1, repeats)) if repeats > 1 else static
