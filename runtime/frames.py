"""Raw windows of samples, for front ends that are learned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.tape import Tape, framed

if TYPE_CHECKING:
    from runtime.frontend import Frontend


class FramesPlan:
    """The samples themselves, win_length of them around every hop_length-th one."""

    first_samples = (0,)
    table_bytes = 0

    def __init__(self, frontends: Sequence["Frontend"]) -> None:
        (frontend,) = frontends
        self.hop, self._length = frontend.hop_length, frontend.win_length
        self.n_bands = (self._length,)
        self.lookback = self._length // 2
        self.lookahead = self._length - self.lookback - 1

    def descend(self, tapes: list[Tape]) -> None:
        """There is only the recording's own rate."""

    def forget(self, tapes: list[Tape], next_frame: int) -> None:
        tapes[0].forget(next_frame * self.hop - self.lookback)

    def block(self, tapes: list[Tape], start: int, stop: int) -> list[np.ndarray]:
        """Frames start..stop -> [(stop - start, win_length)]."""
        first = start * self.hop - self.lookback
        samples = tapes[0].read(first, first + (stop - start - 1) * self.hop + self._length)
        return [framed(samples, stop - start, self._length, self.hop).copy()]  # the tape will move
