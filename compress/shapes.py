"""Which CNN-7 shape a byte budget can hold: the largest whose int8 files, written and weighed, fit in every format."""

import dataclasses
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from compress.size import fits, random_net
from devices.graph import read_tflite
from devices.size import measure_graph
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime.frontend import PRESETS, Frontend
from train.cnn7 import WIDTHS_DEPLOYED, WIDTHS_FULL
from train.features import PatchShape

N_MEMBERS = 3
SLACK_BYTES = 256  # a trained net's file can be this much longer than a random one's: fewer equal numbers to share
HOP_LENGTH = 1120  # P3's "2 s": patches of 3.3 s
N_BANDS = 64  # half of P3's: as accurate (LOG.md), half of the RAM, half of the time
# Mel hears four times as fine a time as the others, in patches of 1.8 s: their errors are then less alike (LOG.md).
HEARD = {"mel": {"hop_length": 620, "win_length": 1024}}
# Of relative patches: white noise of -58, -54 and -52 dB of full scale; half of ESC-10's patches lie 30 dB above (LOG.md).
# Of the windows that ship: one twice as long hears noise 3 to 6 dB higher.
QUIETEST_DB = {"mel": -42.0, "gam": -63.0, "cqt": -50.0}
CERTAINTY = 4.0  # 2 to 8 are as good: LOG.md
STEP = 16  # the ladder goes in sixteenths of the deployed widths
FINE_STEP = 64  # a proposed net is scaled in 64ths


@dataclasses.dataclass(frozen=True)
class Shape:
    """A CNN-7 and what it hears of a spectrogram.

    widths: of the six convolutions. decomposed: whether convolutions 2 to 6 are DC, one bool or five. Patches of n_frames
    frames, hop_length samples apart, of n_bands bands; a patch every quarter of its length. win_length: samples of a frame's
    window, which a CQT does not have. quietest_db: of runtime.patches.PatchShape.
    """

    widths: tuple[int, ...]
    decomposed: bool | tuple[bool, ...]
    n_bands: int = N_BANDS
    n_frames: int = 128
    hop_length: int = HOP_LENGTH
    win_length: int = Frontend.win_length
    quietest_db: float | None = None

    @property
    def kwargs(self):
        dc = self.decomposed if isinstance(self.decomposed, bool) else list(self.decomposed)
        return {"widths": list(self.widths), "decomposed": dc, "order": "deploy", "dropout": 0.0}

    @property
    def patch(self):
        return PatchShape(self.n_frames, self.n_frames // 4, quietest_db=self.quietest_db, certainty=CERTAINTY)

    def frontend(self, name):
        """-> the preset "mel", "gam" or "cqt" with this shape's bands and hop. The CQT keeps its octaves: fewer bins."""
        preset = PRESETS[name]
        values = {"hop_length": self.hop_length, "n_bands": self.n_bands}
        if preset.kind == "cqt":  # rounded up, or the top band would pass sr / 2
            values["bins_per_octave"] = -(-preset.bins_per_octave * self.n_bands // preset.n_bands)
        else:  # an FFT of 4096 still has three bins in the narrowest of 128 mel bands
            values |= {"win_length": self.win_length, "n_fft": max(4096, 2 * self.win_length)}
        return dataclasses.replace(preset, **values)

    @property
    def digest(self):
        """A name for folders: equal for equal shapes."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:12]

    @classmethod
    def from_json(cls, values):
        """Inverse of dataclasses.asdict, through JSON."""
        dc = values["decomposed"]
        dc = dc if isinstance(dc, bool) else tuple(dc)
        return cls(**values | {"widths": tuple(values["widths"]), "decomposed": dc})

    def __str__(self):
        dc = [self.decomposed] * 5 if isinstance(self.decomposed, bool) else self.decomposed
        names = {(True,) * 5: " with DC", (False,) * 5: ""}
        layers = " with DC in " + "/".join(str(i) for i, is_dc in enumerate(dc, 2) if is_dc)
        text = "/".join(map(str, self.widths)) + names.get(tuple(dc), layers)
        if (self.n_bands, self.n_frames, self.hop_length) != (N_BANDS, 128, HOP_LENGTH):
            text += f", {self.n_frames} frames of {self.n_bands} bands at hop {self.hop_length}"
        if self.win_length != Frontend.win_length:
            text += f", window {self.win_length}"
        if self.quietest_db is not None:
            text += f", relative down to {self.quietest_db:g} dB"
        return text


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one net may take: bytes of its file in the larger format, bytes of its tensor arena, MACs of one patch."""

    file_bytes: int
    ram_bytes: int | None = None
    macs: int | None = None

    def hold(self, shape, n_classes):
        cost = costs(shape, n_classes)
        file_bytes = max(cost["tflite"], cost["onnx"]) + SLACK_BYTES
        within_ram = self.ram_bytes is None or cost["ram_bytes"] <= self.ram_bytes
        return file_bytes <= self.file_bytes and within_ram and (self.macs is None or cost["macs"] <= self.macs)


def ladder():
    """-> shapes from the smallest to the largest: DC from 1/16 to three times the deployed widths, then Table I's own."""
    return [Shape(_scaled(WIDTHS_DEPLOYED, k / STEP), True) for k in range(1, 3 * STEP + 1)] + [
        Shape(WIDTHS_FULL, False)
    ]


def _scaled(widths, factor):
    """DC needs multiples of 4."""
    return tuple(max(4, round(w * factor / 4) * 4) for w in widths)


@lru_cache(maxsize=256)
def costs(shape, n_classes):
    """-> {"tflite": bytes, "onnx": bytes, "ram_bytes", "macs"} of one net with random numbers in it.

    ram_bytes: the arena that TFLM would lay out for the TFLite file (devices.arena); the nets of a bundle run in turn
    in one. macs: multiply-accumulates of one patch (devices.size).
    """
    net = random_net(shape.widths, shape.decomposed, n_classes, shape.n_frames, shape.n_bands)
    tflite = tflite_bytes(net)
    size = measure_graph(Path("net.tflite"), len(tflite), read_tflite(tflite))
    return {"tflite": len(tflite), "onnx": len(onnx_bytes(net)), "ram_bytes": size.arena_bytes, "macs": size.macs}


def file_bytes(shape, n_classes):
    """-> {"tflite": bytes, "onnx": bytes} of one net with random numbers in it."""
    return {fmt: n for fmt, n in costs(shape, n_classes).items() if fmt in ("tflite", "onnx")}


def largest_fitting(budget_bytes, n_classes):
    """-> the largest Shape whose three nets fit the budget, by file. Raises ValueError that names the smallest budget."""
    shapes = ladder()
    best = None
    for shape in shapes:  # ascending: the first that does not fit ends it
        sizes = file_bytes(shape, n_classes)
        if not all(fits([size + SLACK_BYTES] * N_MEMBERS, budget_bytes) for size in sizes.values()):
            break
        best = shape
    if best is None:
        least = N_MEMBERS * (max(file_bytes(shapes[0], n_classes).values()) + SLACK_BYTES)
        raise ValueError(
            f"no CNN-7 for {n_classes} classes fits {budget_bytes:,} bytes: the smallest three nets take {least:,}"
        )
    return best


def heard_by(shape, relative=True):
    """-> {spectrogram: its Shape as the shipped net hears}; relative: dB of a patch's loudest frame, not of full scale."""
    shapes = {name: dataclasses.replace(shape, **HEARD.get(name, {})) for name in PRESETS}
    return {n: dataclasses.replace(s, quietest_db=QUIETEST_DB[n]) for n, s in shapes.items()} if relative else shapes


def widest_within(limits, shape, n_classes):
    """-> `shape` with its widths scaled, in 64ths, as far as the limits hold; None where not even 1/64 does."""

    def at(k):
        return dataclasses.replace(shape, widths=_scaled(shape.widths, k / FINE_STEP))

    low, high = 0, 1
    while limits.hold(at(high), n_classes):  # by doubling, never far beyond the limit: wide nets take long to write
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if limits.hold(at(middle), n_classes) else (low, middle)
    return at(low) if low else None
