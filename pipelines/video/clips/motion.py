"""What a window shows, in a few numbers a frame, and whether that is a reason to drop it.

Works on luma thumbnails of 64 pixels width: small enough to cost nothing beside the decode, and averaging over some
hundred pixels takes the noise of sensor and codec away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.video.clips.settings import ClipFilterSettings

BLACK, DARK, FROZEN, LOW_MOTION = "black", "dark", "frozen", "low_motion"
THUMB_WIDTH = 256
_METER_WIDTH = 64
_MOTION_SPACING_S = Fraction(1, 4)
_MOVED_LEVELS = 4
_STILL_SHARE = 0.0005
_BRIGHT_SHARES = (0.98, 0.998)


@dataclass(frozen=True, slots=True)
class FrameMeasure:
    """Luma levels 0..255. `change`: mean difference to the frame before; `moved`: share of the image that differs
    from the frame a quarter of a second before; None where there is no such frame."""

    luma: float
    bright_98: float
    bright_998: float
    change: float | None
    moved: float | None


class MotionMeter:
    """Measures frames that come one after the other at a constant rate."""

    def __init__(self, fps: Fraction) -> None:
        self.spacing = max(1, round(fps * _MOTION_SPACING_S))
        self._past: deque[npt.NDArray[np.int16]] = deque(maxlen=self.spacing)

    def measure(self, thumb_HWC: npt.NDArray[np.uint8]) -> FrameMeasure:
        """`thumb_HWC`: BGR image of about `THUMB_WIDTH` pixels width."""
        luma_HW = np.asarray(cv2.cvtColor(thumb_HWC, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        bright_98, bright_998 = _percentiles(luma_HW)
        small_HW = cv2.resize(luma_HW, _meter_size(luma_HW), interpolation=cv2.INTER_AREA).astype(np.int16)
        change = moved = None
        if self._past:
            change = float(np.abs(small_HW - self._past[-1]).mean())
        if len(self._past) == self.spacing:
            moved = float((np.abs(small_HW - self._past[0]) > _MOVED_LEVELS).mean())
        self._past.append(small_HW)
        return FrameMeasure(float(small_HW.mean()), bright_98, bright_998, change, moved)


def _percentiles(luma_HW: npt.NDArray[np.uint8]) -> tuple[float, float]:
    darker_256 = np.bincount(luma_HW.ravel(), minlength=256).cumsum()  # ten times faster than np.percentile
    levels = np.searchsorted(darker_256, [share * luma_HW.size for share in _BRIGHT_SHARES])
    return float(levels[0]), float(levels[1])


def _meter_size(luma_HW: npt.NDArray[np.uint8]) -> tuple[int, int]:
    height, width = luma_HW.shape
    return _METER_WIDTH, max(1, round(height * _METER_WIDTH / width))


@dataclass(frozen=True, slots=True)
class WindowMeasure:
    """Sums up the frames of one window. `motion`: None in a window shorter than a quarter of a second."""

    luma: float
    motion: float | None
    reason: str | None


def judge_window(
    frames: Sequence[FrameMeasure], fps: Fraction, spacing: int, rule: ClipFilterSettings
) -> WindowMeasure:
    """Which filter drops a window of these frames, if any: black, then dark, then frozen, then low motion."""
    luma = float(np.mean([frame.luma for frame in frames]))
    # differences to frames before the window do not count
    moved = [frame.moved for frame in frames[spacing:] if frame.moved is not None]
    motion = float(np.mean(moved)) if moved else None
    return WindowMeasure(luma, motion, _drop_reason(frames, fps, spacing, motion, rule))


def _drop_reason(
    frames: Sequence[FrameMeasure], fps: Fraction, spacing: int, motion: float | None, rule: ClipFilterSettings
) -> str | None:
    black = sum(frame.bright_998 <= rule.black_level for frame in frames)
    if black > rule.max_black_share * len(frames):
        return BLACK
    if float(np.median([frame.bright_98 for frame in frames])) <= rule.dark_level and not _has_lights(frames, rule):
        return DARK
    if _stands_still(frames[spacing:], fps, spacing, rule):
        return FROZEN
    if motion is not None and motion < rule.min_motion:
        return LOW_MOTION
    return None


def _has_lights(frames: Sequence[FrameMeasure], rule: ClipFilterSettings) -> bool:
    """Thin bright lines on black (a skeleton) cover less than two pixels in a hundred."""
    return float(np.median([frame.bright_998 for frame in frames])) > 2 * rule.dark_level


def _stands_still(frames: Sequence[FrameMeasure], fps: Fraction, spacing: int, rule: ClipFilterSettings) -> bool:
    """Whether a run of frames is still and longer than allowed (or all of the window).

    Still: nothing moved for a quarter of a second, and the usual change from frame to frame is none. The usual, not
    the largest: a codec sharpens a still image bit by bit, and codes it anew at each key frame.
    """
    longest: list[float] = []
    run: list[float] = []
    for frame in frames:
        still = frame.moved is not None and frame.moved <= _STILL_SHARE
        if still:
            run.append(frame.change or 0.0)
        else:
            run = []
        longest = run if len(run) > len(longest) else longest
    allowed = max(rule.max_frozen_s * fps - spacing, 0)
    too_long = len(longest) > allowed or len(longest) == len(frames)
    return bool(longest) and too_long and float(np.median(longest)) <= rule.frozen_difference
