"""Samples to decisions, on a stream and offline.

    live = Stream(bundle, window_s=5, hop_s=1)
    for block in microphone:  # (n,) float32 at bundle.sr, any n
        for decision in live.feed(block):
            print(decision.label, decision.p)

A patch is a net's input: 128 frames, or as many as it was trained on, on an absolute grid. The decision at time t fuses
the patches that were complete in the window (t - window, t]: a patch may reach back before the window, never past t.
Until the first one is complete there is no decision.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np

from runtime import audio
from runtime.bundle import Bundle
from runtime.frontend import SharedStream
from runtime.level import LevelWatch
from runtime.member import Member

MIN_WINDOW_S, MAX_WINDOW_S = 1.0, 10.0
PIECE_S = 1.0
SILENCE = 1e-5  # a third of a 16-bit step: what does not exceed it comes from no microphone that is on


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was heard between start_s and end_s. `scores`: label -> fused probability; `members`: name -> (label, p).

    silent: nothing but digital silence in the window; the label says nothing then. member_scores: name -> label ->
    probability, all that a member said; not in the JSON.
    """

    start_s: float
    end_s: float
    label: str
    p: float
    scores: dict[str, float]
    members: dict[str, tuple[str, float]]
    silent: bool = False
    member_scores: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def to_json(self, **more: Any) -> str:
        """One line of JSON, with what else there is to say."""
        values = dataclasses.asdict(self)
        del values["member_scores"]
        values["members"] = {name: {"label": label, "p": round(p, 6)} for name, (label, p) in self.members.items()}
        values["scores"] = {label: round(p, 6) for label, p in self.scores.items()}
        return json.dumps(values | {"p": round(self.p, 6)} | more)


class Stream:
    """Samples in, one fused decision every hop_s seconds out. Times count from the first sample fed.

    window_s 1..10 and at least a member's stride between patches, which may be longer; both default to the bundle's own.
    Raises ValueError.
    """

    def __init__(self, bundle: Bundle, window_s: float | None = None, hop_s: float | None = None) -> None:
        self.bundle = bundle
        self.window, self.hop = _window_samples(bundle, window_s, hop_s)
        self.n_bad = 0  # NaN and infinite samples, replaced by silence
        self._frontends = SharedStream(bundle.frontends)
        self._members = [_MemberPatches(member) for member in bundle.members]
        self.levels = _level_watch(bundle)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is at 0 s."""
        self.n_samples = self._decided = 0
        self._loud = 0  # the sample after the last one that was no digital silence
        self._waiting: list[np.ndarray] = []  # heard, not yet through the front ends
        self._n_waiting = 0
        self._begin(0)
        for member in self._members:
            member.ends, member.log_p = [], []

    def feed(self, samples: np.ndarray) -> list[Decision]:
        """(any,) mono float32 at bundle.sr -> the decisions that fell due."""
        samples, n_bad = audio.sanitize(samples)
        self.n_bad += n_bad
        decisions = []
        while len(samples):
            # Stop at every due time: patches that end later must not be dropped from a window that is still open.
            due = self._decided + self.hop
            now, samples = samples[: due - self.n_samples], samples[due - self.n_samples :]
            self._hear(now)
            if self.n_samples == due:
                decisions += self._decide(due)
        return decisions

    def skip(self, n_samples: int) -> None:
        """So many samples were lost: time goes on, and the next patch begins behind them. No decision falls in between."""
        self._work()
        self.n_samples += n_samples
        self._decided += (self.n_samples - self._decided) // self.hop * self.hop
        self._begin(self.n_samples)

    def flush(self) -> list[Decision]:
        """-> the decision for the rest of a recording that ended between two hops, if there is one; then starts anew."""
        decisions = self._decide(self.n_samples) if self.n_samples > self._decided else []
        self.reset()
        return decisions

    def _begin(self, at: int) -> None:
        self._frontends.reset()
        for member in self._members:
            member.begin(at)

    def _hear(self, samples: np.ndarray) -> None:
        """Gather up to PIECE_S of sound: a front end is several times faster on a second than on tenths of it."""
        loud = np.flatnonzero(np.abs(samples) > SILENCE)
        if len(loud):
            self._loud = self.n_samples + int(loud[-1]) + 1
        self._waiting.append(samples)
        self._n_waiting += len(samples)
        self.n_samples += len(samples)
        if self._n_waiting >= PIECE_S * self.bundle.sr:
            self._work()

    def _work(self) -> None:
        if self._n_waiting:
            frames = self._frontends.feed(np.concatenate(self._waiting))
            self._waiting, self._n_waiting = [], 0
            for member, new in zip(self._members, self.bundle.by_member(frames)):
                member.feed(new)
                if self.levels and member.name == self.levels.levels.member:
                    self.levels.feed(new[0])

    def _decide(self, end: int) -> list[Decision]:
        self._work()
        self._decided = end
        start = end - self.window
        log_p = [member.window(start, end) for member in self._members]
        return _decision(self.bundle, log_p, start, end, silent=self._loud <= max(0, start))


class _MemberPatches:
    """One member's frames, patches and log probabilities, no more of each than a window needs."""

    def __init__(self, member: Member) -> None:
        self._member, self.name = member, member.name
        self.ends: list[int] = []
        self.log_p: list[np.ndarray] = []

    def begin(self, at: int) -> None:
        """The next frame is the first after sample `at`."""
        self._at, self._n_patches = at, 0
        # Of each front end, from the next patch's first frame on; one that looks further ahead lags behind the others.
        self._static = [np.zeros((f.n_bands, 0), np.float32) for f in self._member.frontend.frontends]
        self._skip = [0] * len(self._static)  # frames still to come in front of the next patch's first

    def feed(self, new: list[np.ndarray]) -> None:
        """Of each front end (bands, new frames)."""
        member, n_static, stride = self._member, self._member.patch.n_static, self._member.patch.stride
        for i, frames in enumerate(new):
            skipped = min(self._skip[i], frames.shape[1])
            self._skip[i] -= skipped
            self._static[i] = np.concatenate([self._static[i], frames[:, skipped:]], axis=1)
        while min(static.shape[1] for static in self._static) >= n_static:
            patch = member.patches(np.concatenate([static[:, :n_static] for static in self._static]))
            self.ends.append(self._at + member.patch_end(self._n_patches))
            self.log_p.append(member.log_p(patch)[0])
            self._skip = [max(0, stride - static.shape[1]) for static in self._static]
            self._static = [static[:, stride:] for static in self._static]
            self._n_patches += 1

    def window(self, start: int, end: int) -> np.ndarray:
        """-> (n, classes) of the patches that ended in (start, end]; forgets those that ended before."""
        while self.ends and self.ends[0] <= start:
            del self.ends[0], self.log_p[0]
        return np.array([p for at, p in zip(self.ends, self.log_p) if at <= end])


def _level_watch(bundle: Bundle) -> LevelWatch | None:
    """None for a bundle that does not say on which levels it was trained."""
    if not bundle.levels:
        return None
    (frontend,) = next(m.frontend.frontends for m in bundle.members if m.name == bundle.levels.member)
    return LevelWatch(bundle.levels, frontend)


def offline(
    bundle: Bundle, wave: np.ndarray, window_s: float | None = None, hop_s: float | None = None
) -> list[Decision]:
    """A whole recording, (samples,) mono at bundle.sr -> the decisions that a Stream gives: the definition, in one piece."""
    window, hop = _window_samples(bundle, window_s, hop_s)
    wave, _ = audio.sanitize(wave)
    members = []
    for member, static in zip(bundle.members, bundle.statics(wave)):
        cut = member.patches(static)
        log_p = member.log_p(cut) if len(cut) else np.zeros((0, len(bundle.labels)))
        members.append((member.patch_end(np.arange(len(log_p))), log_p))
    loud = np.flatnonzero(np.abs(wave) > SILENCE)
    decisions = []
    for end in [*range(hop, len(wave), hop), len(wave)]:
        chosen = [log_p[(ends > end - window) & (ends <= end)] for ends, log_p in members]
        silent = not ((loud >= end - window) & (loud < end)).any()
        decisions += _decision(bundle, chosen, end - window, end, silent)
    return decisions


def whole_clip(bundle: Bundle, wave: np.ndarray) -> Decision:
    """(samples,) at bundle.sr, looped if shorter than a patch -> one decision on all of it."""
    log_p = [p[None] for p in bundle.member_log_p(wave)]
    return _decision(bundle, log_p, 0, len(wave), silent=not (np.abs(wave) > SILENCE).any())[0]


def _decision(bundle: Bundle, log_p: list[np.ndarray], start: int, end: int, silent: bool) -> list[Decision]:
    """Per member (patches, classes) -> one decision, or none while a member has no complete patch."""
    if not all(len(p) for p in log_p):
        return []
    means = [member.over_patches(p) for member, p in zip(bundle.members, log_p)]
    fused = np.exp(bundle.fused(means))
    best = int(fused.argmax())
    scores = {label: float(p) for label, p in zip(bundle.labels, fused)}
    each = {m.name: {x: float(np.exp(v)) for x, v in zip(bundle.labels, p)} for m, p in zip(bundle.members, means)}
    opinions = {name: max(said.items(), key=lambda item: item[1]) for name, said in each.items()}
    span_s = max(0, start) / bundle.sr, end / bundle.sr
    return [Decision(*span_s, bundle.labels[best], float(fused[best]), scores, opinions, silent, each)]


def _window_samples(bundle: Bundle, window_s: float | None, hop_s: float | None) -> tuple[int, int]:
    window_s = bundle.window_s if window_s is None else window_s
    hop_s = bundle.hop_s if hop_s is None else hop_s
    stride_s = max(member.stride_samples for member in bundle.members) / bundle.sr
    lowest = max(MIN_WINDOW_S, stride_s)
    highest = max(MAX_WINDOW_S, math.ceil(stride_s))
    if not lowest <= window_s <= highest:
        raise ValueError(f"window {window_s} s: this bundle takes {lowest:.2f} to {highest:.0f} s")
    if not 0.02 <= hop_s <= 60:
        raise ValueError(f"hop {hop_s} s: choose 0.02 to 60 s")
    return round(window_s * bundle.sr), round(hop_s * bundle.sr)
