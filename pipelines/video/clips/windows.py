"""Clip windows: which frames of a video become one clip. Numbers in, numbers out; no pixels here.

Frames are counted on the clip's own clock (`timeline`). A shot reaches from one boundary to the next. Rules:
- windows start at the shot's first usable frame, one stride apart, and are `length` frames long;
- frames within the margin of a cut are unusable (the start and the end of a video are no cuts);
- the last window of a shot takes what is left; shorter than the minimum it is dropped, as `cut` if a cut ended it and
  as `too_short` if the video did;
- a window that would lie wholly inside the one before it is no candidate;
- a shot that has no usable frame counts as one dropped candidate, so that every shot is in the account.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pipelines.video.clips.settings import ClipSettings

CUT, TOO_SHORT, MAX_CLIPS = "cut", "too_short", "max_clips"


@dataclass(frozen=True, slots=True)
class Window:
    """Frames [start, stop). `reason`: why it is dropped, or None."""

    start: int
    stop: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class WindowFrames:
    """The settings of windows in frames of one frame rate."""

    length: int
    stride: int
    min_length: int
    margin: int

    @staticmethod
    def at(fps: Fraction, settings: ClipSettings) -> WindowFrames:
        """Seconds become the nearest number of frames; lengths and strides at least one frame."""
        length = _frames(settings.length_frames, settings.length_s, fps, least=1)
        stride = length
        if settings.stride_frames is not None or settings.stride_s is not None:
            stride = _frames(settings.stride_frames, settings.stride_s or 0.0, fps, least=1)
        shortest = _frames(settings.min_length_frames, settings.min_length_s, fps, least=1)
        margin = _frames(settings.cut_margin_frames, settings.cut_margin_s, fps, least=0)
        return WindowFrames(length, stride, min(shortest, length), margin)


def _frames(frames: int | None, seconds: float, fps: Fraction, least: int) -> int:
    return max(frames if frames is not None else round(Fraction(seconds) * fps), least)


@dataclass(frozen=True, slots=True)
class Step:
    """What the cursor says about frames: `feed` or `skip` the oldest waiting frame; `open`, `close` or `void` a window.

    A closed window is a candidate, dropped for `window.reason` if that is not None; a void one turned out to be none.
    """

    kind: Literal["feed", "skip", "open", "close", "void"]
    window: Window | None = None
    start: int = -1


class WindowCursor:
    """The windows of frames that come one at a time, with the cuts known only when they come.

    Knows neither pixels nor the filters; `max_clips` is left to the caller, who knows what was written.
    """

    def __init__(self, frames: WindowFrames) -> None:
        self._frames = frames
        self._waiting: deque[int] = deque()
        self._open: deque[int] = deque()
        self._shot_begin = 0
        self._base = 0
        self._next_start = 0
        self._last_stop = -1
        self._candidates = 0
        self._count = 0

    def push(self, starts_shot: bool) -> list[Step]:
        """Take the next frame; returns the steps that follow from it."""
        steps: list[Step] = []
        now = self._count
        if starts_shot and now > self._shot_begin:
            steps += self._end_shot(now - self._frames.margin, CUT)
            self._begin_shot(now)
        self._count += 1
        self._waiting.append(now)
        while self._waiting and self._waiting[0] <= now - self._frames.margin:
            steps += self._release(self._waiting.popleft())
        return steps

    def finish(self) -> list[Step]:
        """The video ended: no margin there."""
        steps: list[Step] = []
        while self._waiting:
            steps += self._release(self._waiting.popleft())
        return steps + self._end_shot(self._count, TOO_SHORT)

    def _begin_shot(self, begin: int) -> None:
        self._shot_begin = begin
        self._base = self._next_start = begin + self._frames.margin
        self._candidates = 0

    def _release(self, frame: int) -> list[Step]:
        if frame < self._base:
            return [Step("skip")]
        steps: list[Step] = []
        if frame == self._next_start:
            self._open.append(frame)
            self._next_start += self._frames.stride
            steps.append(Step("open", start=frame))
        steps.append(Step("feed"))
        if self._open and frame + 1 - self._open[0] == self._frames.length:
            steps.append(self._close(frame + 1, None))
        return steps

    def _close(self, stop: int, reason: str | None) -> Step:
        start = self._open.popleft()
        self._last_stop = stop
        self._candidates += 1
        return Step("close", Window(start, stop, reason), start)

    def _end_shot(self, end: int, ended_by: str) -> list[Step]:
        steps = [Step("skip") for _ in self._waiting]
        self._waiting.clear()
        if self._open and self._last_stop != end:
            long_enough = end - self._open[0] >= self._frames.min_length
            steps.append(self._close(end, None if long_enough else ended_by))
        steps += [Step("void", start=start) for start in self._open]
        self._open.clear()
        if self._candidates == 0:
            steps.append(Step("close", Window(self._base, self._base, ended_by)))
        return steps
