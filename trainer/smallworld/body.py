"""The body of a figure: from joint angles to COCO's 17 keypoints. Here, figures face the viewer: their left is
our right.

Angles are in radians, 0 hangs straight down, positive turns outwards, away from the body's middle line. Lengths are in
heights of the standing figure. ``17x2``: keypoints in COCO's order, (x, y) in pixels, integers at pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import cos, radians, sin

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

TRUNK, NECK, HEAD_RADIUS = 0.30, 0.04, 0.10
HALF_SHOULDERS, HALF_HIPS = 0.13, 0.075
UPPER_ARM, LOWER_ARM = 0.17, 0.16
UPPER_LEG, LOWER_LEG = 0.22, 0.21
LIMB_WIDTH = 0.095
"""Thickness of a limb."""


@dataclass(frozen=True, slots=True)
class Angles:
    """The pose of a figure. ``lean``: of the trunk, positive to our right. Elbows and knees are counted from the
    direction of the upper part."""

    lean: float
    left_arm: float
    left_elbow: float
    right_arm: float
    right_elbow: float
    left_leg: float
    left_knee: float
    right_leg: float
    right_knee: float


RANGES: dict[str, tuple[float, float]] = {
    "lean": (radians(-15), radians(15)),
    "left_arm": (radians(10), radians(165)),
    "left_elbow": (radians(-90), radians(90)),
    "right_arm": (radians(10), radians(165)),
    "right_elbow": (radians(-90), radians(90)),
    "left_leg": (radians(2), radians(60)),
    "left_knee": (radians(-70), radians(20)),
    "right_leg": (radians(2), radians(60)),
    "right_knee": (radians(-70), radians(20)),
}
"""Each angle's lowest and highest value."""
ANGLE_NAMES = tuple(field.name for field in fields(Angles))


def draw_angles(random: np.random.Generator) -> Angles:
    """A pose, each angle drawn evenly from its range."""
    return Angles(*(float(random.uniform(*RANGES[name])) for name in ANGLE_NAMES))


def joints(angles: Angles, height: float) -> Points:
    """The keypoints 17x2 of a pose, the middle of the hips at the origin, y downwards. ``height``: in pixels."""
    up = np.array([sin(angles.lean), -cos(angles.lean)])
    across = np.array([cos(angles.lean), sin(angles.lean)])
    neck = TRUNK * up
    head = neck + (NECK + HEAD_RADIUS) * up
    points = {
        "face": head + HEAD_RADIUS * (_FACE @ np.stack([across, up])),
        "left": _side(1, neck, across, angles.left_arm, angles.left_elbow, angles.left_leg, angles.left_knee),
        "right": _side(-1, neck, across, angles.right_arm, angles.right_elbow, angles.right_leg, angles.right_knee),
    }
    body = np.stack([points["left"], points["right"]], axis=1).reshape(-1, 2)
    return np.concatenate([points["face"], body]) * height


_FACE = np.array([[0.0, 0.0], [0.4, 0.3], [-0.4, 0.3], [0.9, 0.1], [-0.9, 0.1]])
"""Nose, eyes and ears in head radii: across, up."""


def _side(side: int, neck: Points, across: Points, arm: float, elbow: float, leg: float, knee: float) -> Points:
    """Shoulder, elbow, wrist, hip, knee, ankle of one side: 6x2, in heights. ``side``: 1 for the left."""
    shoulder, hip = neck + side * HALF_SHOULDERS * across, side * HALF_HIPS * across
    bend = shoulder + UPPER_ARM * _outwards(side, arm)
    hand = bend + LOWER_ARM * _outwards(side, arm + elbow)
    kneecap = hip + UPPER_LEG * _outwards(side, leg)
    foot = kneecap + LOWER_LEG * _outwards(side, leg + knee)
    return np.stack([shoulder, bend, hand, hip, kneecap, foot])


def _outwards(side: int, angle: float) -> Points:
    return np.array([side * sin(angle), cos(angle)])
