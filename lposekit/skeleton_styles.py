"""The skeleton styles: palettes, limbs, widths. Colours are RGB as the network sees them; sizes in px at 512.

- `followyourpose`: MMPose 0.x with HRNet on COCO-17, as in the skeleton videos that the authors of Follow-Your-Pose
  publish (orange trunk, green left, blue right; about 6 px at 512, no joint dots). MMPose 0.x painted on BGR images.
- `mmpose1`: the visualizer of MMPose 1.x. The same palette triples painted on RGB, so red and blue are swapped
  against `followyourpose`: a released pose encoder does not understand it. Links 1 px, joints of radius 3.
- `openpose18`: ControlNet's OpenPose annotator (18 rainbow joints, then ellipses blended with weight 0.6).
- `dwpose133`: DWPose's (rainbow ellipses at 60 % brightness, then joints; hands as hue-coloured lines with blue
  joints, face as white points). Needs 133 keypoints.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Literal

from lposekit.keypoints import COCO17_LIMBS, COCO17_NAMES

Rgb = tuple[int, int, int]
Limbs = tuple[tuple[tuple[int, int], Rgb], ...]
StyleName = Literal["followyourpose", "openpose18", "dwpose133", "mmpose1"]

ORANGE: Rgb = (255, 153, 51)
GREEN: Rgb = (0, 255, 0)
BLUE: Rgb = (0, 128, 255)
WHITE: Rgb = (255, 255, 255)

OPENPOSE_COLORS: tuple[Rgb, ...] = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
OPENPOSE_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),  # neck to shoulders, arms (right, left)
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),  # neck to hips, legs
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),  # head
)
HAND_LIMBS = tuple(
    (0 if joint == 1 else 4 * finger + joint - 1, 4 * finger + joint) for finger in range(5) for joint in range(1, 5)
)


@dataclass(frozen=True, slots=True)
class PartStyle:
    """How a body, a hand or a face is drawn. Sizes in px at a shorter side of 512.

    `limb_blend`: weight of a limb laid over what is there; None: opaque. `person_by_person`: whole persons one
    after the other; else limb by limb, each of all persons.
    """

    limbs: Limbs = ()
    limb_width_px: float = 0
    joints: tuple[Rgb, ...] = ()
    joint_radius_px: float = 0
    joints_first: bool = False
    ellipses: bool = False
    limb_blend: float | None = None
    person_by_person: bool = True


@dataclass(frozen=True, slots=True)
class SkeletonStyle:
    """One style. `num_keypoints`: the K it takes; `openpose_body`: its body is OpenPose-18's, not COCO-17's."""

    num_keypoints: tuple[int, ...]
    body: PartStyle
    openpose_body: bool = False
    hand: PartStyle | None = None
    face: PartStyle | None = None

    def parts(self) -> dict[str, PartStyle]:
        """The parts it draws, in order, by name."""
        parts = {"body": self.body, "hand": self.hand, "face": self.face}
        return {name: part for name, part in parts.items() if part is not None}


def _coco_color(name: str, trunk: Rgb, left: Rgb, right: Rgb) -> Rgb:
    """Colour of a COCO joint: the head is the trunk's, the rest goes by its side."""
    if COCO17_NAMES.index(name) < 5:
        return trunk
    return left if name.startswith("left") else right


def _coco_limbs(trunk: Rgb, left: Rgb, right: Rgb) -> Limbs:
    """COCO's 19 limbs in drawing order. Arms and legs go by their side, everything else is trunk."""
    trunk_joints = {i for i, name in enumerate(COCO17_NAMES) if name.endswith(("shoulder", "hip"))}

    def color(a: int, b: int) -> Rgb:
        if min(a, b) < 5 or trunk_joints.issuperset({a, b}):
            return trunk
        return _coco_color(COCO17_NAMES[a], trunk, left, right)

    return tuple(((a, b), color(a, b)) for a, b in COCO17_LIMBS)


def _hue(fraction: float) -> Rgb:
    red, green, blue = (int(255 * value) for value in colorsys.hsv_to_rgb(fraction, 1, 1))
    return red, green, blue


def _dimmed(color: Rgb) -> Rgb:
    red, green, blue = (int(0.6 * value) for value in color)
    return red, green, blue


_MMPOSE1: tuple[Rgb, Rgb, Rgb] = ((51, 153, 255), GREEN, (255, 128, 0))

_OPENPOSE_BODY = PartStyle(
    tuple(zip(OPENPOSE_LIMBS, OPENPOSE_COLORS, strict=False)),
    limb_width_px=8,
    joints=OPENPOSE_COLORS,
    joint_radius_px=4,
    joints_first=True,
    ellipses=True,
    limb_blend=0.6,
    person_by_person=False,
)
_DWPOSE_BODY = replace(
    _OPENPOSE_BODY,
    limbs=tuple((limb, _dimmed(color)) for limb, color in _OPENPOSE_BODY.limbs),
    joints_first=False,
    limb_blend=None,
)
_DWPOSE_HAND = PartStyle(
    tuple((limb, _hue(i / len(HAND_LIMBS))) for i, limb in enumerate(HAND_LIMBS)),
    limb_width_px=2,
    joints=((0, 0, 255),) * 21,
    joint_radius_px=4,
)

STYLES: dict[str, SkeletonStyle] = {
    "followyourpose": SkeletonStyle((17, 133), PartStyle(_coco_limbs(ORANGE, GREEN, BLUE), limb_width_px=6)),
    "openpose18": SkeletonStyle((17, 133), _OPENPOSE_BODY, openpose_body=True),
    "dwpose133": SkeletonStyle(
        (133,),
        _DWPOSE_BODY,
        openpose_body=True,
        hand=_DWPOSE_HAND,
        face=PartStyle(joints=(WHITE,) * 68, joint_radius_px=3),
    ),
    "mmpose1": SkeletonStyle(
        (17, 133),
        PartStyle(
            _coco_limbs(*_MMPOSE1),
            limb_width_px=1,
            joints=tuple(_coco_color(name, *_MMPOSE1) for name in COCO17_NAMES),
            joint_radius_px=3,
        ),
    ),
}
