"""Scenes: words and a pose, or a walk, each a pure function of (seed, split, number).

The splits share nothing: ``train`` draws from the training combinations of words, ``held_out`` from those that training
never sees, and their poses come from random streams of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from trainer.smallworld.body import ANGLE_NAMES, RANGES, Angles, Points, draw_angles, joints
from trainer.smallworld.draw import SIDE, Image, Light, draw
from trainer.smallworld.words import HELD_OUT_WORDS, SIZES, TRAINING_WORDS, Words

Split = Literal["train", "held_out"]
Use = Literal["image", "clip"]
MARGIN = 3.0
"""Least distance of a joint from the image's border, in pixels."""
SWING = 0.35
"""Of each angle in a walk, as a share of its range, to either side."""
PACES = (0.04, 0.08)
"""Slowest and fastest walk, in swings a frame."""
DRIFT_PX = 0.25
"""Fastest sideways movement of a walk, a frame."""
FROM_BEHIND = 0.5
"""Share of figures that turn their back to the viewer: their left is our left. Only the pose says it."""
DARKEST, TILT = -20.0, 6.0
"""Of the light on the background, in levels of 0..255. No caption says it either, but it stays over a walk."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A figure over one frame or more. ``joints_F17x2``: pixels, COCO's order."""

    words: Words
    joints_F17x2: Points
    light: Light

    def frames(self) -> Image:
        """RGB uint8 [F, 64, 64, 3]."""
        return np.stack([draw(self.words, joints_17x2, self.light) for joints_17x2 in self.joints_F17x2])


def still(seed: int, split: Split, number: int) -> Scene:
    """A scene of one frame."""
    random = _random(seed, split, "image", number)
    words = _words(random, split)
    joints_F17x2 = joints(draw_angles(random), SIZES[words.size])[None]
    return _scene(words, joints_F17x2, random)


def walk(seed: int, split: Split, number: int, frames: int) -> Scene:
    """A scene of a figure in smooth motion: every angle swings within its range, and the figure drifts sideways."""
    random = _random(seed, split, "clip", number)
    words = _words(random, split)
    pace = random.uniform(*PACES)
    phases = {name: random.uniform(0, 2 * np.pi) for name in ANGLE_NAMES}
    phases["right_leg"], phases["right_knee"] = phases["left_leg"] + np.pi, phases["left_knee"] + np.pi
    middles = {name: random.uniform(*_inner(name)) for name in ANGLE_NAMES}
    poses = [_swung(middles, phases, 2 * np.pi * pace * frame) for frame in range(frames)]
    height = SIZES[words.size]
    joints_F17x2 = np.stack([joints(pose, height) for pose in poses])
    drift = random.uniform(-DRIFT_PX, DRIFT_PX) * np.arange(frames)
    joints_F17x2[..., 0] += drift[:, None]
    return _scene(words, joints_F17x2, random)


def _scene(words: Words, joints_F17x2: Points, random: np.random.Generator) -> Scene:
    """Seen from the front or from behind, at a place of its own, in a light of its own."""
    if random.random() < FROM_BEHIND:
        joints_F17x2 = joints_F17x2 * (-1, 1)
    placed_F17x2 = _placed(joints_F17x2, random)
    return Scene(words, placed_F17x2, Light(random.uniform(DARKEST, 0), *random.uniform(-TILT, TILT, 2)))


def _inner(name: str) -> tuple[float, float]:
    low, high = RANGES[name]
    return low + SWING * (high - low), high - SWING * (high - low)


def _swung(middles: dict[str, float], phases: dict[str, float], time: float) -> Angles:
    return Angles(
        *(middles[n] + SWING * (RANGES[n][1] - RANGES[n][0]) * float(np.sin(time + phases[n])) for n in ANGLE_NAMES)
    )


def _words(random: np.random.Generator, split: Split) -> Words:
    choices = TRAINING_WORDS if split == "train" else HELD_OUT_WORDS
    return choices[int(random.integers(len(choices)))]


def _placed(joints_F17x2: Points, random: np.random.Generator) -> Points:
    """Moved so that all joints of all frames lie inside the image, at a place drawn from what is left; in the middle,
    where nothing is."""
    least, most = MARGIN - joints_F17x2.min((0, 1)), SIDE - 1 - MARGIN - joints_F17x2.max((0, 1))
    drawn = random.uniform(np.minimum(least, most), np.maximum(least, most))
    return joints_F17x2 + np.where(least <= most, drawn, (least + most) / 2)


def _random(seed: int, split: Split, use: Use, number: int) -> np.random.Generator:
    key = [seed, get_args(Split).index(split), get_args(Use).index(use), number]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
