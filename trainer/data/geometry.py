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

Crop = Literal["center", "random"]


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
    source_height: int, source_width: int, size: int, crop: Crop, flip: float, random: SampleRandom
) -> Geometry:
    """The shorter side becomes `size`; the crop is centred or drawn, the flip is drawn."""
    scale = size / min(source_height, source_width)
    height, width = max(size, round(source_height * scale)), max(size, round(source_width * scale))
    if crop == "center":
        top, left = (height - size) // 2, (width - size) // 2
    else:
        stream = random.stream("crop")
        top, left = int(stream.integers(height - size + 1)), int(stream.integers(width - size + 1))
    flipped = flip > 0 and bool(random.stream("flip").random() < flip)
    return Geometry(source_height, source_width, height, width, top, left, size, flipped)
