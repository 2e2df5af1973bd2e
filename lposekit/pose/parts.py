"""Which parts of a pose are drawn: the body without the face, hands without the face, and so on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt

Part = Literal["body", "hands", "face"]
_BODY17_FACE = slice(0, 5)
_PARTS_133: dict[Part, tuple[slice, ...]] = {
    "body": (slice(5, 23),),
    "hands": (slice(91, 133),),
    "face": (_BODY17_FACE, slice(23, 91)),
}
_PARTS_17: dict[Part, tuple[slice, ...]] = {"body": (slice(5, 17),), "hands": (), "face": (_BODY17_FACE,)}


def only_parts(keypoints_PK3: npt.NDArray[np.float32], parts: Collection[Part]) -> npt.NDArray[np.float32]:
    """Poses [..., K, 3] where the score of joints of other parts is -inf: never drawn.

    `body` reaches from the shoulders to the feet; `face` is nose, eyes, ears, and the 68 points of a whole-body
    format.

    Raises:
        ValueError: a K other than 17 and 133.
    """
    num_keypoints = keypoints_PK3.shape[-2]
    if num_keypoints not in (17, 133):
        raise ValueError(f"{num_keypoints} keypoints: parts are known of 17 (COCO) and 133 (COCO-WholeBody)")
    drawn = np.array(keypoints_PK3, np.float32)
    for part, slices in _parts(num_keypoints).items():
        if part not in parts:
            for each in slices:
                drawn[..., each, 2] = -np.inf
    return drawn


def has_joints(num_keypoints: int, parts: Collection[Part]) -> bool:
    """Whether a format of 17 or 133 keypoints has any joint of these parts."""
    return any(_parts(num_keypoints)[part] for part in parts)


def _parts(num_keypoints: int) -> dict[Part, tuple[slice, ...]]:
    return _PARTS_17 if num_keypoints == 17 else _PARTS_133
