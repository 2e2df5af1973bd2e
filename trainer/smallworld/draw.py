"""The look of a figure: flat colours on a background of one colour, every limb part in a colour of its own.

Drawn four times as large and averaged down, so that edges are smooth and a shift by a fraction of a pixel shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from trainer.smallworld.body import HEAD_RADIUS, LIMB_WIDTH, Points
from trainer.smallworld.words import BACKGROUNDS, CLOTHES, KINDS, SIZES, Rgb, Words

Image = npt.NDArray[np.uint8]

SIDE = 64
"""Side length of all images, in pixels."""
_FINER = 4
_SHIFT = 4
"""Fractional bits of the coordinates given to OpenCV."""

LIMB_COLOURS: dict[tuple[int, int], Rgb] = {
    (5, 7): (255, 0, 0),
    (7, 9): (255, 140, 0),
    (6, 8): (0, 0, 255),
    (8, 10): (0, 190, 255),
    (11, 13): (255, 0, 220),
    (13, 15): (140, 0, 255),
    (12, 14): (0, 170, 0),
    (14, 16): (180, 240, 0),
}
"""Pair of COCO keypoints -> colour: upper and lower part of left arm, right arm, left leg, right leg. Bright, unlike
clothes and backgrounds."""
_ARMS = ((5, 7), (7, 9), (6, 8), (8, 10))
_LEGS = ((11, 13), (13, 15), (12, 14), (14, 16))


@dataclass(frozen=True, slots=True)
class Light:
    """What is added to the background's colour, in levels of 0..255: ``shade`` everywhere; ``across`` at our right edge
    and its opposite at the left one; ``down`` likewise, at the lower edge."""

    shade: float
    across: float
    down: float

    def on(self, colour: Rgb) -> Image:
        """The canvas without a figure."""
        ramp = np.linspace(-1, 1, SIDE * _FINER)
        added_HW = self.shade + self.across * ramp[None] + self.down * ramp[:, None]
        return np.clip(np.rint(added_HW[..., None] + colour), 0, 255).astype(np.uint8)


def draw(words: Words, joints_17x2: Points, light: Light) -> Image:
    """The image of a figure, RGB uint8 [64, 64, 3]. ``joints_17x2``: pixels of it."""
    height = SIZES[words.size]
    canvas = light.on(BACKGROUNDS[words.background])
    limb = LIMB_WIDTH * height
    for ends in _LEGS:
        _line(canvas, joints_17x2[list(ends)], LIMB_COLOURS[ends], limb)
    trunk = joints_17x2[[5, 6, 12, 11]]
    _fill(canvas, trunk, CLOTHES[words.clothes])
    for ends in ((0, 1), (1, 2), (2, 3), (3, 0)):
        _line(canvas, trunk[list(ends)], CLOTHES[words.clothes], limb)
    for ends in _ARMS:
        _line(canvas, joints_17x2[list(ends)], LIMB_COLOURS[ends], limb)
    _line(canvas, joints_17x2[[0, 0]], KINDS[words.kind], 2 * HEAD_RADIUS * height)
    return np.asarray(cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _line(canvas: Image, ends_2x2: Points, colour: Rgb, width: float) -> None:
    """A line with round ends; a dot if both ends are one."""
    across = (ends_2x2[1] - ends_2x2[0])[::-1] * (-1, 1)
    length = float(np.hypot(*across))
    if length > 0:
        across = across * width / 2 / length
        _fill(canvas, np.concatenate([ends_2x2 + across, ends_2x2[::-1] - across]), colour)
    radius = int(width / 2 * _FINER * (1 << _SHIFT))
    for end in _fixed_point(ends_2x2).tolist():
        cv2.circle(canvas, end, radius, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fill(canvas: Image, corners_Nx2: Points, colour: Rgb) -> None:
    cv2.fillConvexPoly(canvas, _fixed_point(corners_Nx2), colour, cv2.LINE_AA, _SHIFT)


def _fixed_point(points: Points) -> npt.NDArray[np.int32]:
    """Pixels of the image -> fixed-point pixels of the finer canvas."""
    return np.rint(((points + 0.5) * _FINER - 0.5) * (1 << _SHIFT)).astype(np.int32)
