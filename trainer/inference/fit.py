"""Fits a pose to the size of the output: the output is covered, and what sticks out is cut off evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch.nn import functional

from lposekit.skeleton import crop_keypoints, drop_outside, scale_keypoints

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Fit:
    """From images of any size to `height` x `width`."""

    height: int
    width: int
    resize: Literal["area", "official"] = "area"

    def image(self, rgb_HWC: Image) -> Image:
        """Resized and cut, uint8 [height, width, 3]."""
        height, width = self._covering(*rgb_HWC.shape[:2])
        resized = without_antialiasing(rgb_HWC, height, width) if self.resize == "official" else rgb_HWC
        if resized.shape[:2] != (height, width):
            how = cv2.INTER_AREA if height < rgb_HWC.shape[0] else cv2.INTER_LINEAR
            resized = cv2.resize(rgb_HWC, (width, height), interpolation=how)
        top, left = self._corner(height, width)
        return np.ascontiguousarray(resized[top : top + self.height, left : left + self.width], dtype=np.uint8)

    def keypoints(self, keypoints_PK3: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
        """The same for keypoints [P, K, 3] of a `height` x `width` image; those outside of it are dropped."""
        fitted_height, fitted_width = self._covering(height, width)
        inside = drop_outside(keypoints_PK3, height, width)
        scaled = scale_keypoints(inside, fitted_width / width, fitted_height / height)
        top, left = self._corner(fitted_height, fitted_width)
        return crop_keypoints(scaled, left, top)

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """The size of the resized image: at least the output's on both sides, ratio kept."""
        scale = max(self.height / height, self.width / width)
        # the released sampler cuts the longer side down to a whole number, so to the same image for its square output
        return max(self.height, int(height * scale + 1e-6)), max(self.width, int(width * scale + 1e-6))

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Top and left of the cut, rounded as torchvision's centre crop does."""
        return round((height - self.height) / 2), round((width - self.width) / 2)


def without_antialiasing(rgb_HWC: Image, height: int, width: int) -> Image:
    """Bilinear, at the pixels' centres alone: what torchvision 0.14's `Resize` does to tensors."""
    image = rearrange(torch.from_numpy(rgb_HWC), "h w c -> 1 c h w").float()
    resized = functional.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=False)
    return rearrange(resized.round().clamp(0, 255).to(torch.uint8), "1 c h w -> h w c").numpy()
