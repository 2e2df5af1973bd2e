"""Where one shot ends and the next begins, found while the frames go by.

PySceneDetect's detectors, fed with small images of the frames that the clips use. Its minimum scene length is off:
with it, a cut soon after another one is swallowed, and a clip would run across it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from pipelines.video.clips.probe import SourceFrame
from pipelines.video.clips.settings import ShotSettings

_CLOCK_FPS = 1000.0  # the detectors see frame numbers only; the value has no effect while lengths are 0
_ADAPTIVE_RATIO, _CONTENT_THRESHOLD, _MIN_DIFFERENCE = 3.0, 27.0, 15.0  # PySceneDetect's own
_DARK = 24
_CHANGED = 0.5  # differences below are those of a repeated image, coded again
_WINDOW = 2  # frames on each side that the adaptive detector compares a frame with


@dataclass(frozen=True, slots=True)
class ShotFrame:
    """A source frame, and the number of the shot that it belongs to."""

    source: SourceFrame
    shot: int

    @property
    def pts(self) -> int:
        return self.source.pts


class CutFinder(Protocol):
    """Takes frames in order; tells of each, at most `latency` frames later, whether it starts a shot."""

    latency: int

    def push(self, thumb_HWC: npt.NDArray[np.uint8]) -> list[int]:
        """Numbers, counted from 0, of frames that start a shot."""
        ...

    def finish(self) -> list[int]:
        """The same for what is left at the end."""
        ...


class ContentCuts:
    """Cuts where neighbouring frames differ by more than a threshold in hue, saturation and brightness."""

    latency = 0

    def __init__(self, threshold: float) -> None:
        self._detector = ContentDetector(threshold=threshold, min_scene_len=0)
        self._count = 0

    def push(self, thumb_HWC: npt.NDArray[np.uint8]) -> list[int]:
        found = self._detector.process_frame(FrameTimecode(self._count, fps=_CLOCK_FPS), without_dark_colour(thumb_HWC))
        self._count += 1
        return [cut.frame_num for cut in found]

    def finish(self) -> list[int]:
        return []


class AdaptiveCuts:
    """Cuts where a frame's difference stands out from the mean of the two frames before and after it.

    Two weaknesses of the detector are made good. It is blind to frames that lack some of these neighbours, yet a frame
    left over from another shot is common at the ends of a trimmed video. And where frames are repeated (animation "on
    threes", frames doubled to reach a higher rate) the neighbours' differences are 0, so that each new image would
    be a cut. In both places a frame is compared with those neighbours that exist and changed.
    """

    latency = _WINDOW

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._detector = AdaptiveDetector(adaptive_threshold=ratio, min_scene_len=0, window_width=_WINDOW)
        self._count = 0
        self._scores: deque[float] = deque(maxlen=2 * _WINDOW + 1)
        self._older_changes: deque[float] = deque(maxlen=_WINDOW)

    def push(self, thumb_HWC: npt.NDArray[np.uint8]) -> list[int]:
        found = self._detector.process_frame(FrameTimecode(self._count, fps=_CLOCK_FPS), without_dark_colour(thumb_HWC))
        if len(self._scores) == self._scores.maxlen and self._scores[0] >= _CHANGED:
            self._older_changes.append(self._scores[0])
        self._scores.append(self._detector._frame_score or 0.0)
        self._count += 1
        cuts = [cut.frame_num for cut in found if self._stands_out(cut.frame_num)]
        if self._count == _WINDOW + 2 and self._stands_out(1):
            cuts.append(1)
        return cuts

    def finish(self) -> list[int]:
        first = 1 if self._count < _WINDOW + 2 else max(2, self._count - _WINDOW)
        return [frame for frame in range(first, self._count) if self._stands_out(frame)]

    def _stands_out(self, frame: int) -> bool:
        scores = {self._count - len(self._scores) + place: score for place, score in enumerate(self._scores)}
        score = scores.pop(frame)
        scores.pop(0, None)  # the first frame has nothing to differ from
        near = [other for place, other in scores.items() if abs(place - frame) <= _WINDOW]
        around = [other for other in near if other >= _CHANGED]
        if len(around) < len(near) or not near:
            around += self._older_changes
            if score >= _CONTENT_THRESHOLD:  # between still images nothing else can be asked
                return True
        return bool(around) and score >= max(self._ratio * sum(around) / len(around), _MIN_DIFFERENCE)


def without_dark_colour(thumb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Nearly black pixels made black. The detectors compare hue and saturation, and those of black are coding noise."""
    blue_HW, green_HW, red_HW = cv2.split(thumb_HWC)
    brightest_HW = cv2.max(cv2.max(blue_HW, green_HW), red_HW)
    _, mask_HW = cv2.threshold(brightest_HW, _DARK - 1, 255, cv2.THRESH_BINARY)
    return np.asarray(cv2.bitwise_and(thumb_HWC, thumb_HWC, mask=mask_HW), dtype=np.uint8)


def cut_finder(settings: ShotSettings) -> CutFinder | None:
    """The detector that the settings name; None for `none`."""
    if settings.detector == "adaptive":
        return AdaptiveCuts(_ADAPTIVE_RATIO if settings.threshold is None else settings.threshold)
    if settings.detector == "content":
        return ContentCuts(_CONTENT_THRESHOLD if settings.threshold is None else settings.threshold)
    return None


class _Settler:
    """Holds frames back until the finder can no longer call them the start of a shot."""

    def __init__(self) -> None:
        self.cuts: set[int] = set()
        self._waiting: deque[SourceFrame] = deque()
        self._waiting_images = 0
        self._images = 0
        self._shot = 0

    def add(self, frame: SourceFrame) -> None:
        self._waiting.append(frame)
        if frame.thumb_HWC is not None:
            self._waiting_images += 1
            self._images += 1

    def settled(self, keep_images: int) -> Iterator[ShotFrame]:
        while self._waiting and (self._waiting_images > keep_images or self._waiting[0].thumb_HWC is None):
            frame = self._waiting.popleft()
            if frame.thumb_HWC is not None:
                number = self._images - self._waiting_images
                self._waiting_images -= 1
                if number in self.cuts:
                    self.cuts.remove(number)
                    self._shot += 1
            yield ShotFrame(frame, self._shot)


def with_found_shots(frames: Iterable[SourceFrame], finder: CutFinder) -> Iterator[ShotFrame]:
    """Each frame with its shot, as soon as that is sure. Frames without an image are passed on, unseen."""
    settler = _Settler()
    for frame in frames:
        settler.add(frame)
        if frame.thumb_HWC is not None:
            settler.cuts.update(finder.push(frame.thumb_HWC))
        yield from settler.settled(finder.latency)
    settler.cuts.update(finder.finish())
    yield from settler.settled(0)


def with_given_shots(frames: Iterable[SourceFrame], cuts_pts: Sequence[float]) -> Iterator[ShotFrame]:
    """The first frame at or after each of the sorted cuts starts a shot."""
    shot = 0
    for frame in frames:
        while shot < len(cuts_pts) and cuts_pts[shot] <= frame.pts:
            shot += 1
        yield ShotFrame(frame, shot)
