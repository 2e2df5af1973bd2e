"""From images to model inputs, with the same pixels as MMDet's and MMPose's own test pipelines.

Legend: B images or crops, S side of the detector's square, H W height and width, N persons; `rgb_HWC` is uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange

PAD_VALUE = 114


@dataclass(frozen=True)
class Letterboxed:
    """Images fitted into squares.

    `pixels_BSSC`: uint8 in the detector's channel order. `scale_B2`: float32, square pixels per image pixel in x
    and y (they differ a little, for sizes are whole pixels).
    """

    pixels_BSSC: npt.NDArray[np.uint8]
    scale_B2: npt.NDArray[np.float32]


def letterbox(images_rgb: Sequence[npt.NDArray[np.uint8]], size_px: int, bgr: bool) -> Letterboxed:
    """Fit images into the top left of grey squares: ratio kept, bilinear, as MMDet's `Resize` and `Pad` do."""
    pixels = np.full((len(images_rgb), size_px, size_px, 3), PAD_VALUE, np.uint8)
    scale = np.empty((len(images_rgb), 2), np.float32)
    for i, image in enumerate(images_rgb):
        height, width = image.shape[:2]
        factor = min(size_px / max(height, width), size_px / min(height, width))
        # rounded as mmcv.rescale_size does; at least one pixel of a very long image
        new_width, new_height = max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))
        target = pixels[i, :new_height, :new_width]
        cv2.resize(image, (new_width, new_height), dst=target, interpolation=cv2.INTER_LINEAR)
        if bgr:
            cv2.cvtColor(target, cv2.COLOR_RGB2BGR, dst=target)
        scale[i] = new_width / width, new_height / height
    return Letterboxed(pixels, scale)


@dataclass(frozen=True)
class Crops:
    """Persons cut out: `pixels_NHWC` uint8; centre and size of each cut, float32 [N, 2], in image pixels."""

    pixels_NHWC: npt.NDArray[np.uint8]
    center_N2: npt.NDArray[np.float32]
    size_N2: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cutter:
    """Cuts persons out of images as MMPose's `GetBBoxCenterScale` and `TopdownAffine` do, with its functions.

    `padding` enlarges the box (1.25); `use_udp` chooses between its two warp matrices.
    """

    input_size_wh: tuple[int, int]
    padding: float
    use_udp: bool
    bgr: bool

    @classmethod
    def from_pipeline(cls, pipeline: Sequence[Any], input_size_wh: tuple[int, int], bgr: bool) -> Cutter:
        """The cutter that does what an MMPose config's test pipeline says."""
        steps = {step["type"]: step for step in pipeline}
        affine = steps["TopdownAffine"]
        assert tuple(affine["input_size"]) == input_size_wh, "zoo entry and config disagree about the input size"
        padding = float(steps["GetBBoxCenterScale"].get("padding", 1.25))
        return cls(input_size_wh, padding, bool(affine.get("use_udp", False)), bgr)

    def cut(self, persons: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]) -> Crops:
        """Cut out persons, each given as (rgb_HWC, bbox_xyxy float32 [4])."""
        from mmpose.datasets.transforms import TopdownAffine
        from mmpose.structures.bbox import bbox_xyxy2cs, get_udp_warp_matrix, get_warp_matrix

        width, height = self.input_size_wh
        warp_matrix = get_udp_warp_matrix if self.use_udp else get_warp_matrix
        center, size = bbox_xyxy2cs(np.stack([bbox for _, bbox in persons]), padding=self.padding)
        size = TopdownAffine._fix_aspect_ratio(size, aspect_ratio=width / height)
        pixels = np.empty((len(persons), height, width, 3), np.uint8)
        for i, (image, _) in enumerate(persons):
            matrix = warp_matrix(center[i], size[i], 0.0, output_size=(width, height))
            cv2.warpAffine(image, matrix, (width, height), dst=pixels[i], flags=cv2.INTER_LINEAR)
            if self.bgr:
                cv2.cvtColor(pixels[i], cv2.COLOR_RGB2BGR, dst=pixels[i])
        return Crops(pixels, center, size)


@dataclass(frozen=True)
class Normalizer:
    """Subtracts the mean and divides by the deviation of each channel, on the model's device and in its precision."""

    mean_C: torch.Tensor
    std_C: torch.Tensor
    dtype: torch.dtype

    def __call__(self, pixels_BHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Float [B, C, H, W] in `channels_last` layout."""
        width = pixels_BHWC.shape[2]
        # Rows of W * C values: an inner loop over 3 channels alone is four times slower on a CPU.
        pixels = torch.from_numpy(pixels_BHWC).to(self.mean_C.device, non_blocking=True)
        rows = rearrange(pixels, "b h w c -> b h (w c)").to(torch.float32)
        rows.sub_(self.mean_C.repeat(width)).div_(self.std_C.repeat(width))
        return rearrange(rows, "b h (w c) -> b c h w", w=width).to(self.dtype)
