"""From images to the pixels that networks take, the same as those of MMDet's and MMPose's own test pipelines. Free of
torch.

Legend: B images or crops, S side of the detector's square, H W height and width, N persons; `rgb_HWC` is uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

PAD_VALUE = 114
Pixels: TypeAlias = Any
"""uint8, a numpy array on the host or a torch tensor on a device."""


@dataclass(frozen=True)
class Letterboxed:
    """Images fitted into squares.

    `pixels_BSSC`: uint8 in the detector's channel order; an array here, a tensor on a device. `scale_B2`: float32,
    square pixels per image pixel in x and y (they differ a little, for sizes are whole pixels).
    """

    pixels_BSSC: Pixels
    scale_B2: npt.NDArray[np.float32]


def letterbox(images_rgb: Sequence[npt.NDArray[np.uint8]], size_px: int, bgr: bool) -> Letterboxed:
    """Fit images into the top left of grey squares: ratio kept, bilinear, as MMDet's `Resize` and `Pad` do."""
    pixels = np.full((len(images_rgb), size_px, size_px, 3), PAD_VALUE, np.uint8)
    scale = np.empty((len(images_rgb), 2), np.float32)
    for i, image in enumerate(images_rgb):
        height, width = image.shape[:2]
        new_width, new_height = fitted_size(height, width, size_px)
        target = pixels[i, :new_height, :new_width]
        cv2.resize(image, (new_width, new_height), dst=target, interpolation=cv2.INTER_LINEAR)
        if bgr:
            cv2.cvtColor(target, cv2.COLOR_RGB2BGR, dst=target)
        scale[i] = new_width / width, new_height / height
    return Letterboxed(pixels, scale)


def fitted_size(height: int, width: int, size_px: int) -> tuple[int, int]:
    """Width and height of an image fitted into a square, rounded as mmcv.rescale_size does; at least one pixel."""
    factor = min(size_px / max(height, width), size_px / min(height, width))
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


@dataclass(frozen=True)
class Crops:
    """Persons cut out: `pixels_NHWC` uint8, an array or a tensor; centre and size of each cut, float32 [N, 2], in image
    pixels."""

    pixels_NHWC: Pixels
    center_N2: npt.NDArray[np.float32]
    size_N2: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cutter:
    """Cuts persons out of images as MMPose's `GetBBoxCenterScale` and `TopdownAffine` do.

    `padding` enlarges the box (1.25); `use_udp` chooses between MMPose's two warp matrices.
    """

    input_size_wh: tuple[int, int]
    padding: float
    use_udp: bool
    bgr: bool

    def cut(self, persons: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]) -> Crops:
        """Cut out persons, each given as (rgb_HWC, bbox_xyxy float32 [4])."""
        width, height = self.input_size_wh
        center_N2, size_N2 = centers_and_sizes(np.stack([bbox for _, bbox in persons]), self.padding, width / height)
        warp_matrix = udp_warp_matrix if self.use_udp else warp_matrix_of_box
        pixels = np.empty((len(persons), height, width, 3), np.uint8)
        for i, (image, _) in enumerate(persons):
            matrix = warp_matrix(center_N2[i], size_N2[i], self.input_size_wh)
            cv2.warpAffine(image, matrix, self.input_size_wh, dst=pixels[i], flags=cv2.INTER_LINEAR)
            if self.bgr:
                cv2.cvtColor(pixels[i], cv2.COLOR_RGB2BGR, dst=pixels[i])
        return Crops(pixels, center_N2, size_N2)


def centers_and_sizes(
    bbox_xyxy_N4: npt.NDArray[np.float32], padding: float, aspect_ratio: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Centre and size [N, 2] of the cuts around boxes: enlarged, then made wider or higher to the aspect ratio."""
    size_N2 = (bbox_xyxy_N4[:, 2:] - bbox_xyxy_N4[:, :2]) * padding
    center_N2 = (bbox_xyxy_N4[:, 2:] + bbox_xyxy_N4[:, :2]) * 0.5
    width_N, height_N = size_N2.T
    is_wide_N = width_N > height_N * aspect_ratio
    size_N2 = np.stack(
        [np.where(is_wide_N, width_N, height_N * aspect_ratio), np.where(is_wide_N, width_N / aspect_ratio, height_N)],
        axis=1,
    )
    return center_N2, size_N2


def warp_matrix_of_box(
    center_2: npt.NDArray[np.float32], size_2: npt.NDArray[np.float32], output_wh: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """The matrix [2, 3] from image to crop: MMPose's `get_warp_matrix` without a rotation, to the last bit."""
    left_2 = center_2 + np.array([size_2[0] * -0.5, 0], np.float32)
    width, height = output_wh
    target_center_2, target_left_2 = np.array([[width * 0.5, height * 0.5], [0, height * 0.5]], np.float32)
    source_32 = np.stack([center_2, left_2, _third_point(center_2, left_2)])
    target_32 = np.stack([target_center_2, target_left_2, _third_point(target_center_2, target_left_2)])
    return np.asarray(cv2.getAffineTransform(source_32, target_32), np.float64)


def _third_point(a_2: npt.NDArray[np.float32], b_2: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """b, moved by the way from b to a turned by 90 degrees."""
    x, y = a_2 - b_2
    return b_2 + np.array([-y, x], np.float32)


def udp_warp_matrix(
    center_2: npt.NDArray[np.float32], size_2: npt.NDArray[np.float32], output_wh: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """The matrix [2, 3] from image to crop: MMPose's `get_udp_warp_matrix` without a rotation."""
    scale_2 = np.array([output_wh[0] - 1, output_wh[1] - 1], np.float32) / size_2
    matrix_23 = np.zeros((2, 3), np.float32)
    matrix_23[0, 0], matrix_23[1, 1] = scale_2
    matrix_23[:, 2] = scale_2 * (-0.5 * (center_2 * 2) + 0.5 * size_2)
    return matrix_23
