"""A walking figure, drawn by code: the fixed pose video of the validation images, the same for every run and
dataset."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lposekit.keypoints import COCO17_NAMES
from lposekit.skeleton import draw_skeleton
from lposekit.skeleton_styles import StyleName

STEP_FRAMES = 16
"""Frames of one walk cycle."""


def walker_keypoints(phase: float, size: int) -> npt.NDArray[np.float32]:
    """Keypoints [17, 3] at `phase` (0..1) of a walk cycle, seen from the side, in pixels of a size x size image."""
    swing = math.sin(2 * math.pi * phase)
    bob = 0.01 * math.cos(4 * math.pi * phase)
    points = {
        "nose": (0.54, 0.16),
        "eye": (0.53, 0.14),
        "ear": (0.49, 0.15),
        "shoulder": (0.5, 0.27),
        "hip": (0.5, 0.54),
    }
    found: dict[str, tuple[float, float]] = {"nose": points["nose"]}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for part in ("eye", "ear", "shoulder", "hip"):
            x, y = points[part]
            found[f"{side}_{part}"] = (x + 0.015 * sign, y)
        found[f"{side}_elbow"], found[f"{side}_wrist"] = _limb(
            found[f"{side}_shoulder"], -0.6 * sign * swing, 0.35, 0.14
        )
        found[f"{side}_knee"], found[f"{side}_ankle"] = _limb(found[f"{side}_hip"], 0.5 * sign * swing, -0.45, 0.19)
    keypoints_K3 = np.ones((len(COCO17_NAMES), 3), np.float32)
    for i, name in enumerate(COCO17_NAMES):
        keypoints_K3[i, :2] = np.array([found[name][0], found[name][1] + bob]) * size
    return keypoints_K3


def _limb(start: tuple[float, float], angle: float, bend: float, length: float) -> tuple[tuple[float, float], ...]:
    """Middle joint and end of a limb that hangs down, turned by `angle` and bent in its middle joint."""
    middle = (start[0] + length * math.sin(angle), start[1] + length * math.cos(angle))
    lower = angle + bend * (1 + math.sin(angle)) / 2
    return middle, (middle[0] + length * math.sin(lower), middle[1] + length * math.cos(lower))


def walker_skeletons(
    frames: int, size: int, style: StyleName, line_width: float | None = None
) -> npt.NDArray[np.uint8]:
    """The walk as skeleton images, uint8 RGB [frames, size, size, 3]. `line_width`: as `draw_skeleton` takes it."""

    def draw(keypoints_K3: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        return draw_skeleton(keypoints_K3[None], size, size, style=style, score_threshold=0.5, line_width=line_width)

    return np.stack([draw(walker_keypoints(f / STEP_FRAMES, size)) for f in range(frames)])
