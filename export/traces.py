"""What a bundle's nets say, patch by patch, of recordings and of empty rooms: the material that rules are learned from."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from runtime import fusion
from runtime.bundle import Bundle
from runtime.decide import Decision
from runtime.member import Member
from runtime.patches import looped
from train.data import Clip, load_wave
from train.soundscape import RoomNoise, faded, sounding

ROOM_KINDS, ROOM_DB = ("pink", "brown", "hum"), (-80.0, -65.0, -50.0, -35.0)  # RMS, dB of full scale
ROOM_S = 60.0  # of each kind at each level
BEFORE_S, AFTER_S = (5.0, 7.0), 9.0  # room around a recording: a patch before it, patch and window behind it
AROUND_DB = (-75.0, -50.0)  # level of that room


@dataclasses.dataclass(frozen=True)
class Trace:
    """A stretch of sound through one bundle whose nets were not trained on it.

    label: of the sound between onset_s and offset_s; "" where there is nothing but a room. ends_s: per member (patches,),
    when each was complete. log_p: per member (patches, classes), at temperature 1; clip_log_p: the same of the recording
    as it is, without a room, and empty where there is none. part: traces of one part are fitted or measured together.
    """

    label: str
    part: int
    duration_s: float
    onset_s: float
    offset_s: float
    ends_s: list[np.ndarray]
    log_p: list[np.ndarray]
    clip_log_p: list[np.ndarray]


def hear(bundle: Bundle, clips: Sequence[Clip], parts: Sequence[int], seed: int) -> list[Trace]:
    """Each clip in a room of its own, then every room of ROOM_KINDS and ROOM_DB; their parts are dealt out in turn.

    Progress on stderr beyond 2 s.
    """
    rng = np.random.default_rng(seed)
    n, out, shown = len(clips) + len(ROOM_KINDS) * len(ROOM_DB), [], time.monotonic()
    for trace in _heard(bundle, clips, parts, rng):
        out.append(trace)
        if time.monotonic() - shown > 2 or len(out) == n:
            shown = time.monotonic()
            print(f"\r{len(out)} of {n} sounds heard", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return out


def _heard(bundle: Bundle, clips: Sequence[Clip], parts: Sequence[int], rng: np.random.Generator) -> Iterator[Trace]:
    sr = bundle.sr
    for clip, part in zip(clips, parts):
        wave = load_wave(clip.path, sr)
        sound = faded(sounding(wave, sr), sr)
        before = rng.uniform(*BEFORE_S)
        around = RoomNoise(("pink", "brown")[rng.integers(2)], rng.uniform(*AROUND_DB), rng, sr)
        scene = around.feed(round((before + AFTER_S) * sr) + len(sound))
        onset = round(before * sr)
        scene[onset : onset + len(sound)] += sound
        span_s = onset / sr, (onset + len(sound)) / sr
        statics = zip(bundle.members, bundle.statics(wave))
        clip_log_p = [_log_p(member, looped(static, member.patch.n_static)) for member, static in statics]
        yield Trace(clip.label, part, len(scene) / sr, *span_s, *_patches(bundle, scene), clip_log_p)
    names = sorted(set(parts))
    for i, kind in enumerate(ROOM_KINDS):
        for k, level_db in enumerate(ROOM_DB):
            scene = RoomNoise(kind, level_db, rng, sr).feed(round(ROOM_S * sr))
            yield Trace("", names[(i + k) % len(names)], ROOM_S, 0.0, ROOM_S, *_patches(bundle, scene), [])


def _patches(bundle: Bundle, wave: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """-> per member the seconds at which its patches were complete, and (patches, classes) log probabilities."""
    log_p = [_log_p(member, static) for member, static in zip(bundle.members, bundle.statics(wave))]
    return [m.patch_end(np.arange(len(p))) / bundle.sr for m, p in zip(bundle.members, log_p)], log_p


def _log_p(member: Member, static: np.ndarray) -> np.ndarray:
    """(patches, classes) at temperature 1, whatever the member's is: softened again, it is the logits' own."""
    return fusion.log_softmax(member.log_p(member.patches(static)) * member.temperature)


def decisions(trace: Trace, bundle: Bundle, temperatures: Sequence[float], left_out: str = "") -> list[Decision]:
    """What a Stream over the trace's sound decides, at these temperatures; as if the nets had no output for `left_out`."""
    kept = [i for i, label in enumerate(bundle.labels) if label != left_out]
    log_p = [fusion.log_softmax(p[:, kept], t) for p, t in zip(trace.log_p, temperatures)]
    out, fuse = [], fusion.FUSIONS[bundle.fuse]
    for i in range(1, int(trace.duration_s / bundle.hop_s) + 1):
        end = i * bundle.hop_s
        heard = [p[(ends > end - bundle.window_s) & (ends <= end)] for p, ends in zip(log_p, trace.ends_s)]
        if all(len(p) for p in heard):
            p = np.exp(fuse(np.stack([member.over_patches(p) for member, p in zip(bundle.members, heard)])))
            scores = dict.fromkeys(bundle.labels, 0.0) | {bundle.labels[k]: float(v) for k, v in zip(kept, p)}
            best = max(scores, key=lambda label: scores[label])
            out.append(Decision(max(0.0, end - bundle.window_s), end, best, scores[best], scores, {}))
    return out
