"""Which frames of a long clip run through the UNet together: a plan of windows for each denoising step.

Two methods (docs/decisions/2026-11-28-long-video.md):

- `average`: windows overlap, and a frame's noise prediction is the mean over all windows that hold it. The windows move
  with the step, so that their borders fall on other frames each time.
- `reuse`: the paper's. Windows advance by half their length, and the latents of the last half of one are the first half
  of the next at every step. So a frame's prediction is that of the first window that holds it.

Every window has the full length, and the last one ends with the clip: the norms take their statistics over all frames
of a window, so a short one would be normalised otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["average", "reuse"]


@dataclass(frozen=True, slots=True)
class DenoisingWindow:
    """Frames `start` to `stop` (exclusive) of the clip; predictions count for those from `counts_from` on."""

    start: int
    stop: int
    counts_from: int


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The windows of a clip of `num_frames` at every step.

    length: frames of a window; a clip that is no longer runs as one window. overlap: frames that two windows share at
    least (`average`); `reuse` shares half a window.
    """

    num_frames: int
    length: int
    overlap: int = 0
    method: Method = "average"

    def windows(self, step: int) -> list[DenoisingWindow]:
        """The windows of a step (from 0), by start. Each frame's prediction counts in at least one of them."""
        if self.num_frames <= self.length:
            return [DenoisingWindow(0, self.num_frames, 0)]
        if self.method == "reuse":
            return self._reusing(window_starts(self.num_frames, self.length, self.length - self.length // 2))
        advance = self.length - self.overlap
        starts = window_starts(self.num_frames, self.length, advance, round(bit_reversed(step) * advance))
        return [DenoisingWindow(start, start + self.length, start) for start in starts]

    def _reusing(self, starts: Sequence[int]) -> list[DenoisingWindow]:
        windows, known = [], 0
        for start in starts:
            windows.append(DenoisingWindow(start, start + self.length, known))
            known = start + self.length
        return windows


def window_starts(num_frames: int, length: int, advance: int, offset: int = 0) -> list[int]:
    """First frames of windows of full length that cover a longer clip: 0, then every `advance` frames from
    `offset` on, and a last one that ends with the clip."""
    last = num_frames - length
    return sorted({0, last, *range(offset, last, advance)})


def bit_reversed(step: int) -> float:
    """The binary digits of the step mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput). Offsets by it
    visit all places evenly, however many steps there are."""
    value, place = 0.0, 0.5
    while step:
        value += place * (step & 1)
        step, place = step >> 1, place / 2
    return value
