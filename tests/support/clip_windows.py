"""The clip windows of a video whose cuts are known: the plain statement of the rules, for comparison with the build."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from pipelines.video.clips.settings import ClipSettings
from pipelines.video.clips.windows import CUT, MAX_CLIPS, TOO_SHORT, Window, WindowFrames


def clip_windows(boundaries: Sequence[int], fps: Fraction, settings: ClipSettings) -> list[Window]:
    """All candidate windows of a video whose shots are [boundaries[i], boundaries[i + 1])."""
    frames = WindowFrames.at(fps, settings)
    windows: list[Window] = []
    last = len(boundaries) - 2
    for shot, (begin, end) in enumerate(pairwise(boundaries)):
        first_usable = begin if shot == 0 else begin + frames.margin
        past_usable = end if shot == last else end - frames.margin
        windows += _shot_windows(first_usable, past_usable, TOO_SHORT if shot == last else CUT, frames)
    return _limited(windows, settings.max_clips)


def _shot_windows(begin: int, end: int, ended_by: str, frames: WindowFrames) -> list[Window]:
    if end <= begin:
        return [Window(begin, begin, ended_by)]
    windows = []
    for start in range(begin, end, frames.stride):
        stop = min(start + frames.length, end)
        windows.append(Window(start, stop, None if stop - start >= frames.min_length else ended_by))
        if stop == end:
            break
    return windows


def _limited(windows: list[Window], max_clips: int | None) -> list[Window]:
    if max_clips is None:
        return windows
    limited, left = [], max_clips
    for window in windows:
        if window.reason is None and left == 0:
            window = Window(window.start, window.stop, MAX_CLIPS)
        left -= window.reason is None
        limited.append(window)
    return limited
