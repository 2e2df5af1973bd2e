"""How alike two poses are, and one skeleton a person: of near-duplicates, the surer one stays.

A detector gives one person two boxes now and then, and the pose model then draws the same person twice. Boxes of two
people who hug overlap as much as those of a duplicate, so the poses decide, by COCO's object keypoint similarity (OKS;
Lin et al. 2014). The same idea as MMPose's `oks_nms`, on the joints that are detected in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lposekit.keypoints import KeypointFormat
from lposekit.records import Person

MIN_SHARED_JOINTS = 3
"""Fewer joints say little: any two people whose noses are close to each other would be one."""


def oks_matrix(
    a_AK3: npt.NDArray[np.float32],
    b_BK3: npt.NDArray[np.float32],
    areas_A: npt.NDArray[np.floating],
    areas_B: npt.NDArray[np.floating],
    score_threshold: float,
    keypoint_format: KeypointFormat,
) -> npt.NDArray[np.float64]:
    """OKS [A, B], 0..1, over the body joints whose score reaches the threshold in both; NaN with too few of them.

    Two or one say something only if one of the two poses has no other joints.

    `areas`: of the boxes, in square pixels; the scale of a pair is the larger one: of one person seen twice, one box
    often holds only a part.
    """
    body, sigmas_J = list(keypoint_format.body17), 2 * np.array(keypoint_format.sigmas)
    a_AJ3, b_BJ3 = a_AK3[:, body].astype(np.float64), b_BK3[:, body].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        squared_ABJ = ((a_AJ3[:, None, :, :2] - b_BJ3[None, :, :, :2]) ** 2).sum(-1)
        detected_AJ, detected_BJ = a_AJ3[..., 2] >= score_threshold, b_BJ3[..., 2] >= score_threshold
        shared_ABJ = detected_AJ[:, None] & detected_BJ[None] & np.isfinite(squared_ABJ)
        areas_AB = np.maximum(np.asarray(areas_A)[:, None], np.asarray(areas_B)[None])
        alike_ABJ = np.exp(-squared_ABJ / (2 * sigmas_J**2 * np.maximum(areas_AB, 1e-9)[..., None]))
    count_AB = shared_ABJ.sum(-1)
    total_AB = np.where(shared_ABJ, alike_ABJ, 0).sum(-1)
    fewest_AB = np.minimum(detected_AJ.sum(-1)[:, None], detected_BJ.sum(-1)[None])
    enough_AB = (count_AB >= np.minimum(fewest_AB, MIN_SHARED_JOINTS)) & (count_AB > 0)
    return np.where(enough_AB, total_AB / np.maximum(count_AB, 1), np.nan)


def box_area(person: Person) -> float:
    """In square pixels."""
    left, top, right, bottom = (float(v) for v in person.bbox_xyxy)
    return max(0.0, right - left) * max(0.0, bottom - top)


def sureness(person: Person, score_threshold: float, keypoint_format: KeypointFormat) -> tuple[int, float]:
    """How sure the models are of a person, to be compared: the number of detected body joints, then the box's score.

    MMPose multiplies the box's score by the mean of the joints' scores, and so may prefer the pose with fewer joints.
    With the most joints staying, no image falls below the keep rule because of the choice.
    """
    scores_J = person.keypoints_K3[list(keypoint_format.body17), 2]
    return int((scores_J >= score_threshold).sum()), person.bbox_score


def one_skeleton_each(
    persons: Sequence[Person], oks_threshold: float, score_threshold: float, keypoint_format: KeypointFormat
) -> list[Person]:
    """The persons without near-duplicates (OKS above the threshold with a surer one), in their order."""
    if len(persons) < 2:
        return list(persons)
    sure_P = [sureness(person, score_threshold, keypoint_format) for person in persons]
    surest_first = sorted(range(len(persons)), key=lambda i: sure_P[i], reverse=True)
    keypoints_PK3 = np.stack([person.keypoints_K3 for person in persons])
    areas_P = np.array([box_area(person) for person in persons])
    with np.errstate(invalid="ignore"):
        same_PP = (
            oks_matrix(keypoints_PK3, keypoints_PK3, areas_P, areas_P, score_threshold, keypoint_format) > oks_threshold
        )
    kept: list[int] = []
    for i in surest_first:
        if not same_PP[i, kept].any():
            kept.append(i)
    return [persons[i] for i in sorted(kept)]
