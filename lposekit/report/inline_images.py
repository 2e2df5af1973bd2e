"""Images inside a page: small, as data URIs, re-encoded so that no metadata of the source comes along.

`HWC` = RGB uint8 [height, width, 3].
"""

from __future__ import annotations

import base64

import cv2
import numpy as np
import numpy.typing as npt

from lposekit.skeleton import draw_skeleton, drop_outside, scale_keypoints

Rgb = npt.NDArray[np.uint8]
JPEG_QUALITY = 82


def fit_within(height: int, width: int, side_px: int) -> tuple[int, int]:
    """The size (height, width) with the same ratio whose longer side is at most `side_px`."""
    scale = min(1.0, side_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def photo_uri(rgb_HWC: Rgb, side_px: int) -> str:
    """A photo as a JPEG data URI, longer side at most `side_px`."""
    height, width = fit_within(rgb_HWC.shape[0], rgb_HWC.shape[1], side_px)
    small_HWC = cv2.resize(rgb_HWC, (width, height), interpolation=cv2.INTER_AREA)
    encoded, jpeg = cv2.imencode(".jpg", small_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")


def skeleton_image(
    keypoints_PK3: npt.NDArray[np.float32], stored_size_hw: tuple[int, int], side_px: int, score_threshold: float
) -> Rgb:
    """The persons on black, longer side at most `side_px`, as the trainer draws them (style `followyourpose`)."""
    height, width = fit_within(*stored_size_hw, side_px)
    inside_PK3 = drop_outside(keypoints_PK3, *stored_size_hw)
    small_PK3 = scale_keypoints(inside_PK3, width / stored_size_hw[1], height / stored_size_hw[0])
    return draw_skeleton(small_PK3, height, width, score_threshold=score_threshold)


def skeleton_uri(
    keypoints_PK3: npt.NDArray[np.float32], stored_size_hw: tuple[int, int], side_px: int, score_threshold: float
) -> str:
    """The persons as a PNG data URI, transparent around the lines: it lies over a photo and stands on black alike.

    Drawn as the trainer draws it (style `followyourpose`), from keypoints in pixels of the stored image.
    """
    drawn_HWC = skeleton_image(keypoints_PK3, stored_size_hw, side_px, score_threshold)
    alpha_HW1 = drawn_HWC.max(axis=2, keepdims=True)
    # lines are drawn on black: what antialiasing darkened becomes transparency
    color_HWC = np.where(alpha_HW1 > 0, drawn_HWC.astype(np.float32) * 255 / np.maximum(alpha_HW1, 1), 0)
    bgra_HWC = np.concatenate([color_HWC[..., ::-1].round().astype(np.uint8), alpha_HW1], axis=2)
    encoded, png = cv2.imencode(".png", bgra_HWC, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert encoded
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode("ascii")
