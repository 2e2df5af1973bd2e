"""How a stored image becomes a training image: resized, cropped, flipped; its keypoints alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from lposekit.keypoints import KeypointFormat, flip_keypoints
from lposekit.skeleton import crop_keypoints, drop_outside, scale_keypoints
from trainer.data.random import SampleRandom

Crop = Literal["center", "random", "person"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """From an image of source_height x source_width pixels to size x size ones.

    The image is resized to height x width, then cut at (top, left), then flipped.
    """

    source_height: int
    source_width: int
    height: int
    width: int
    top: int
    left: int
    size: int
    flipped: bool

    def image(self, rgb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [size, size, 3] of the source image, at whatever scale that was decoded."""
        if rgb_HWC.shape[:2] != (self.height, self.width):
            shrinks = rgb_HWC.shape[0] > self.height
            how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            rgb_HWC = cv2.resize(rgb_HWC, (self.width, self.height), interpolation=how)  # pyright: ignore
        return self.cut(rgb_HWC)

    def cut(self, rgb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [size, size, 3] of an image that is already height x width."""
        cropped = rgb_HWC[self.top : self.top + self.size, self.left : self.left + self.size]
        return cropped[:, ::-1] if self.flipped else cropped

    def keypoints(self, keypoints_PK3: npt.NDArray[np.float32], points: KeypointFormat) -> npt.NDArray[np.float32]:
        """The same for keypoints in pixels of the source image; those outside of it are dropped."""
        inside = drop_outside(keypoints_PK3, self.source_height, self.source_width)
        scaled = scale_keypoints(inside, self.width / self.source_width, self.height / self.source_height)
        cropped = crop_keypoints(scaled, self.left, self.top)
        return flip_keypoints(cropped, self.size, points) if self.flipped else cropped


def choose_geometry(
    source_height: int,
    source_width: int,
    size: int,
    crop: Crop,
    flip: float,
    random: SampleRandom,
    detected_N2: npt.NDArray[np.float32] | None = None,
) -> Geometry:
    """The shorter side becomes `size`; the crop is centred, drawn, or laid over the persons; the flip is drawn.

    Args:
        detected_N2: the detected keypoints of all persons, for the crop `person`: x and y in pixels of the source.
    """
    scale = size / min(source_height, source_width)
    height, width = max(size, round(source_height * scale)), max(size, round(source_width * scale))
    top, left = (height - size) // 2, (width - size) // 2
    if crop == "random":
        stream = random.stream("crop")
        top, left = int(stream.integers(height - size + 1)), int(stream.integers(width - size + 1))
    elif crop == "person":
        assert detected_N2 is not None, "the crop `person` goes by keypoints"
        left = window_over(detected_N2[:, 0] * (width / source_width), size, width)
        top = window_over(detected_N2[:, 1] * (height / source_height), size, height)
    flipped = flip > 0 and bool(random.stream("flip").random() < flip)
    return Geometry(source_height, source_width, height, width, top, left, size, flipped)


def window_over(points_N: npt.NDArray[np.floating], size: int, length: int) -> int:
    """Where a window of `size` pixels begins on a side of `length`: over as many points as possible.

    Of several such places, those next to the middle of the side; among these, the one that has the points in its own
    middle, for a head reaches beyond its keypoints, and so do feet.
    """
    starts = np.arange(length - size + 1)
    middle = (length - size) // 2
    points = np.sort(points_N[(points_N >= 0) & (points_N < length)])
    first, behind = np.searchsorted(points, starts), np.searchsorted(points, starts + size)
    best = np.flatnonzero(behind - first == (behind - first).max())
    nearest = int(best[np.argmin(np.abs(best - middle))])
    if first[nearest] == behind[nearest]:
        return middle
    held = points[first[nearest]], points[behind[nearest] - 1]
    same = best[(first[best] == first[nearest]) & (behind[best] == behind[nearest])]
    return int(same[np.argmin(np.abs(same + size / 2 - (held[0] + held[1]) / 2))])
