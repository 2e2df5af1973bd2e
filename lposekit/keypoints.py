"""Keypoint formats, and the rule that decides which images are kept.

Arrays: `K3` = K keypoints of (x, y, raw score), x and y in pixels of the stored image; `P` = persons.
Sources: the COCO keypoint format (Lin et al. 2014, its evaluation code for the sigmas), COCO-WholeBody
(Jin et al. 2020), OpenPose's BODY_18 output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lposekit.errors import Outcome
from lposekit.records import Person

COCO17_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
COCO17_LIMBS = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)
COCO17_SIGMAS = (
    0.026,
    0.025,
    0.025,
    0.035,
    0.035,
    0.079,
    0.079,
    0.072,
    0.072,
    0.062,
    0.062,
    0.107,
    0.107,
    0.087,
    0.087,
    0.089,
    0.089,
)
OPENPOSE18_NAMES = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)


def _pairs_by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Left-right pairs of indices, found by name."""
    index = {name: i for i, name in enumerate(names)}
    return tuple((i, index["right" + name[4:]]) for i, name in enumerate(names) if name.startswith("left"))


def _wholebody_names() -> tuple[str, ...]:
    feet = ("big_toe", "small_toe", "heel")
    hand = (
        "root",
        *(f"{finger}{joint}" for finger in ("thumb", "index", "middle", "ring", "pinky") for joint in "1234"),
    )
    return (
        *COCO17_NAMES,
        *(f"{side}_{part}" for side in ("left", "right") for part in feet),
        *(f"face_{i}" for i in range(68)),
        *(f"{side}_hand_{part}" for side in ("left", "right") for part in hand),
    )


def _face_pairs(first: int) -> tuple[tuple[int, int], ...]:
    """Left-right pairs of the 68 face points (iBUG order), offset by `first`."""
    jaw = [(i, 16 - i) for i in range(8)]
    brows = [(17 + i, 26 - i) for i in range(5)]
    nose = [(31, 35), (32, 34)]
    eyes = [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    mouth = [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    return tuple((a + first, b + first) for a, b in [*jaw, *brows, *nose, *eyes, *mouth])


@dataclass(frozen=True, slots=True)
class KeypointFormat:
    """A keypoint order. `body17` are the indices of COCO's 17 body keypoints in it, in COCO's order.

    `sigmas` are COCO's per-keypoint fall-off constants (x2 squared in OKS), for the 17 body keypoints.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    body17: tuple[int, ...]
    sigmas: tuple[float, ...] = COCO17_SIGMAS

    def __repr__(self) -> str:
        return f"KeypointFormat({self.name}: {len(self.names)} keypoints)"

    @property
    def num_keypoints(self) -> int:
        return len(self.names)

    def flip_order(self) -> npt.NDArray[np.intp]:
        """Permutation [K] that swaps left and right, for a horizontally flipped image."""
        order = np.arange(self.num_keypoints)
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order


_WHOLEBODY = _wholebody_names()
KEYPOINT_FORMATS = {
    "coco17": KeypointFormat("coco17", COCO17_NAMES, _pairs_by_name(COCO17_NAMES), COCO17_LIMBS, tuple(range(17))),
    "wholebody133": KeypointFormat(
        "wholebody133", _WHOLEBODY, (*_pairs_by_name(_WHOLEBODY), *_face_pairs(23)), COCO17_LIMBS, tuple(range(17))
    ),
}


def openpose18_from_coco17(keypoints_K3: npt.NDArray[np.float32], score_threshold: float) -> npt.NDArray[np.float32]:
    """COCO keypoints [17 or more, 3] in OpenPose's order [18, 3].

    The neck is the middle of the shoulders, and is there only if both shoulders reach `score_threshold`.
    """
    index = {name: i for i, name in enumerate(COCO17_NAMES)}
    out = np.zeros((18, 3), np.float32)
    for i, name in enumerate(OPENPOSE18_NAMES):
        if name != "neck":
            out[i] = keypoints_K3[index[name]]
    left, right = keypoints_K3[5], keypoints_K3[6]
    if min(left[2], right[2]) >= score_threshold:
        out[1] = (*((left[:2] + right[:2]) / 2), min(left[2], right[2]))
    return out


def flip_keypoints(
    keypoints_K3: npt.NDArray[np.float32], width: int, keypoint_format: KeypointFormat
) -> npt.NDArray[np.float32]:
    """Keypoints [..., K, 3] of the horizontally flipped image: x mirrored, left and right swapped."""
    flipped = keypoints_K3[..., keypoint_format.flip_order(), :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


PersonRule = Literal["any", "main", "all", "pooled"]


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which images are kept. All of it is written into the dataset card.

    A person is valid if the box score is at least `box_score_threshold`, the box covers at least
    `min_box_area_fraction` of the image and its shorter side has at least `min_box_side_px` pixels. A keypoint
    is detected if its raw score reaches `keypoint_score_threshold` (a property of the model, see the zoo) and it lies
    inside the image. `min_detected` is the share of the 17 body keypoints that must be detected.
    """

    keypoint_score_threshold: float
    min_detected: float = 0.5
    person_rule: PersonRule = "any"
    box_score_threshold: float = 0.5
    min_box_area_fraction: float = 0.01
    min_box_side_px: float = 48.0


def is_valid_person(person: Person, width: int, height: int, rule: KeepRule) -> bool:
    """Whether a person's box is sure and large enough to count (see `KeepRule`)."""
    left, top, right, bottom = (float(v) for v in person.bbox_xyxy)
    box_width, box_height = right - left, bottom - top
    return (
        person.bbox_score >= rule.box_score_threshold
        and box_width * box_height >= rule.min_box_area_fraction * width * height
        and min(box_width, box_height) >= rule.min_box_side_px
    )


def num_detected(
    keypoints_K3: npt.NDArray[np.float32], width: int, height: int, score_threshold: float, body17: Sequence[int]
) -> int:
    """How many of the 17 body keypoints are detected. Scores or places that are not finite never count."""
    x, y, score = keypoints_K3[list(body17)].T
    with np.errstate(invalid="ignore"):
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return int((inside & (score >= score_threshold)).sum())


def reaches(detected: int, total: int, min_detected: float) -> bool:
    """`detected >= min_detected * total` without a rounding surprise: at 0.5 it is `2 * detected >= total`."""
    return detected * 1000 >= round(min_detected * 1000) * total


def keep_verdict(
    persons: Sequence[Person], width: int, height: int, rule: KeepRule, keypoint_format: KeypointFormat
) -> Outcome:
    """Whether an image of `width` x `height` pixels is kept: KEPT, NO_PERSON or FEW_KEYPOINTS."""
    valid = [person for person in persons if is_valid_person(person, width, height, rule)]
    if not valid:
        return Outcome.NO_PERSON
    counts = [
        num_detected(p.keypoints_K3, width, height, rule.keypoint_score_threshold, keypoint_format.body17)
        for p in valid
    ]
    total = len(keypoint_format.body17)
    passes = [reaches(count, total, rule.min_detected) for count in counts]
    areas = [float((p.bbox_xyxy[2] - p.bbox_xyxy[0]) * (p.bbox_xyxy[3] - p.bbox_xyxy[1])) for p in valid]
    kept = {
        "any": any(passes),
        "all": all(passes),
        "main": passes[int(np.argmax(areas))],
        "pooled": reaches(sum(counts), total * len(counts), rule.min_detected),
    }[rule.person_rule]
    return Outcome.KEPT if kept else Outcome.FEW_KEYPOINTS
