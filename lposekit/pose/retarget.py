"""Poses with the limb lengths of another person: the movement of the one, the proportions of the other.

Every limb is multiplied by one factor for the whole video: its length in the reference over its length in the video,
both measured in trunks. Setting it to one length in each frame instead would stretch an arm that points at the camera
(the long forearms that users of such tools complain of). Joints follow their parents from the hips outwards; directions
and foreshortening stay those of the video.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lposekit.keypoints import COCO17_NAMES
from lposekit.pose.tracks import PersonTrack, PoseTracks

_HIPS, _SHOULDERS = 17, 18  # two joints that are added: the middle of the hips, and of the shoulders
_JOINT = {name: i for i, name in enumerate(COCO17_NAMES)}
_CHAIN: tuple[tuple[int, int], ...] = (
    (_HIPS, _SHOULDERS),
    *((_HIPS, _JOINT[f"{side}_hip"]) for side in ("left", "right")),
    *((_SHOULDERS, _JOINT[f"{side}_shoulder"]) for side in ("left", "right")),
    (_SHOULDERS, _JOINT["nose"]),
    *((_JOINT["nose"], _JOINT[f"{side}_eye"]) for side in ("left", "right")),
    *((_JOINT[f"{side}_eye"], _JOINT[f"{side}_ear"]) for side in ("left", "right")),
    *(
        (_JOINT[f"{side}_{parent}"], _JOINT[f"{side}_{child}"])
        for parent, child in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
        for side in ("left", "right")
    ),
)
"""(parent, child), parents before their children."""
_LONGEST = 90
"""Percentile of a limb's lengths over the video that counts as its length: nearly parallel to the image plane."""
_LIMITS = (0.5, 2.0)
"""People differ by less; beyond, a joint of the reference or of the video is wrong."""


def retarget(tracks: PoseTracks, reference_K3: npt.NDArray[np.floating], score_threshold: float) -> PoseTracks:
    """The poses of every person with the proportions of a reference pose; the trunk keeps its length and place.

    `reference_K3`: one pose [K, 3] of the same keypoint format, as seen from the front, all limbs stretched where
    possible. A limb that is not detected in it, or never in the video, keeps its length. Hands, feet and face points of
    a whole-body format move along with wrist, ankle and nose, at their own size.
    """
    wanted = _lengths_in_trunks(np.asarray(reference_K3, np.float64)[None], score_threshold)
    return replace(tracks, persons=tuple(_retargeted(person, wanted, score_threshold) for person in tracks.persons))


def limb_factors(
    keypoints_FK3: npt.NDArray[np.floating], wanted_L: npt.NDArray[np.float64], score_threshold: float
) -> npt.NDArray[np.float64]:
    """The factor [L] of each limb; 1 where one of the two lengths is not known."""
    own_L = _lengths_in_trunks(np.asarray(keypoints_FK3, np.float64), score_threshold)
    with np.errstate(invalid="ignore", divide="ignore"):
        factors_L = np.clip(wanted_L / own_L, *_LIMITS)
    return np.where(np.isfinite(factors_L), factors_L, 1.0)


def _lengths_in_trunks(keypoints_FK3: npt.NDArray[np.float64], score_threshold: float) -> npt.NDArray[np.float64]:
    """Length [L] of each limb over that of the trunk, NaN where it is never detected. The trunk itself is 1."""
    joints_FN3 = _with_middles(keypoints_FK3)
    parent_L, child_L = np.array(_CHAIN).T
    with np.errstate(invalid="ignore"):
        detected_FN = (joints_FN3[..., 2] >= score_threshold) & np.isfinite(joints_FN3).all(-1)
    lengths_FL = np.linalg.norm(joints_FN3[:, child_L, :2] - joints_FN3[:, parent_L, :2], axis=-1)
    lengths_FL[~(detected_FN[:, parent_L] & detected_FN[:, child_L])] = np.nan
    known_L = np.isfinite(lengths_FL).any(0)
    lengths_L = np.full(len(_CHAIN), np.nan)
    lengths_L[known_L] = np.nanpercentile(lengths_FL[:, known_L], _LONGEST, axis=0)
    trunk = lengths_L[0]
    return lengths_L / trunk if trunk > 0 else np.full(len(_CHAIN), np.nan)


def _with_middles(keypoints_FK3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Body joints [F, 19, 3]: COCO's 17 and the middles of hips and shoulders (with the lower score of the two)."""
    middles = []
    for name in ("hip", "shoulder"):
        pair_F23 = keypoints_FK3[:, [_JOINT[f"left_{name}"], _JOINT[f"right_{name}"]]]
        middle_F3 = pair_F23.mean(1)
        middle_F3[:, 2] = pair_F23[..., 2].min(1)
        middles.append(middle_F3)
    return np.concatenate([keypoints_FK3[:, :17], np.stack(middles, 1)], axis=1)


def _retargeted(person: PersonTrack, wanted_L: npt.NDArray[np.float64], score_threshold: float) -> PersonTrack:
    factors_L = limb_factors(person.keypoints_FK3, wanted_L, score_threshold)
    old_FN3 = _with_middles(person.keypoints_FK3.astype(np.float64))
    new_FN2 = old_FN3[..., :2].copy()
    for (parent, child), factor in zip(_CHAIN, factors_L, strict=True):
        new_FN2[:, child] = new_FN2[:, parent] + factor * (old_FN3[:, child, :2] - old_FN3[:, parent, :2])
    keypoints_FK3 = person.keypoints_FK3.copy()
    keypoints_FK3[:, :17, :2] = new_FN2[:, :17]
    for anchor, points in _followers(keypoints_FK3.shape[1]).items():
        keypoints_FK3[:, points, :2] += (new_FN2[:, anchor] - old_FN3[:, anchor, :2])[:, None]
    return PersonTrack(person.id, keypoints_FK3, person.boxes_F5)


def _followers(num_keypoints: int) -> dict[int, slice]:
    """Points of a whole-body format by the body joint that they move with."""
    if num_keypoints != 133:
        return {}
    return {
        _JOINT["left_ankle"]: slice(17, 20),
        _JOINT["right_ankle"]: slice(20, 23),
        _JOINT["nose"]: slice(23, 91),
        _JOINT["left_wrist"]: slice(91, 112),
        _JOINT["right_wrist"]: slice(112, 133),
    }
