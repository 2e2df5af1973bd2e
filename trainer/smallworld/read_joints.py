"""The joints of a figure, read off its image by the colours of its limbs: for real renders and for samples alike.

Each limb part is the largest patch of its colour; its two ends lie on the patch's long axis. Where an end is hidden
(under the trunk, or under the next part, which is drawn over it) the hidden length is known from how figures are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from trainer.smallworld.body import LIMB_WIDTH, Points
from trainer.smallworld.draw import LIMB_COLOURS, Image
from trainer.smallworld.palette import nearest
from trainer.smallworld.read_words import read_words
from trainer.smallworld.words import BACKGROUNDS, CLOTHES, KINDS, SIZES

FEWEST_PIXELS = 4
"""Of a limb part, to be seen at all."""
_OTHERS = (*BACKGROUNDS.values(), *CLOTHES.values(), *KINDS.values())
_COLOURS = (*LIMB_COLOURS.values(), *_OTHERS)
_PARTS = list(LIMB_COLOURS)
_LIMBS = (((5, 7), (7, 9)), ((6, 8), (8, 10)), ((11, 13), (13, 15)), ((12, 14), (14, 16)))
"""Upper and lower part of each limb."""


@dataclass(frozen=True, slots=True)
class _Patch:
    """The visible ends of a limb part: 2x2, (x, y) in pixels; ``along``: unit vector from the first to the second."""

    ends_2x2: Points
    along: Points

    def turned(self) -> _Patch:
        return _Patch(self.ends_2x2[::-1], -self.along)


def read_joints(rgb_HWC: Image) -> Points:
    """Keypoints 17x2 in COCO's order, (x, y) in pixels; NaN for the face's five, and for a
    limb of which a part is not seen.

    ``rgb_HWC``: RGB uint8 [64, 64, 3].
    """
    classes = nearest(rgb_HWC, _COLOURS)
    size = read_words(rgb_HWC).size
    radius = LIMB_WIDTH * (SIZES[size] if size else max(SIZES.values())) / 2
    found = np.full((17, 2), np.nan)
    for upper, lower in _LIMBS:
        patches = _patch(classes == _PARTS.index(upper)), _patch(classes == _PARTS.index(lower))
        near, bend, far = _limb(*patches, hidden=radius if upper[0] >= 11 else -radius, radius=radius)
        found[[upper[0], upper[1], lower[1]]] = near, bend, far
    return found


def _limb(upper: _Patch | None, lower: _Patch | None, hidden: float, radius: float) -> tuple[Points, Points, Points]:
    """The three joints of a limb. ``hidden``: how far its first joint lies beyond the visible end of the upper part."""
    if upper is None or lower is None:
        nothing = np.full(2, np.nan)
        return nothing, nothing, nothing
    upper, lower = min(
        ((u, low) for u in (upper, upper.turned()) for low in (lower, lower.turned())),
        key=lambda pair: float(np.hypot(*(pair[0].ends_2x2[1] - pair[1].ends_2x2[0]))),
    )
    near = upper.ends_2x2[0] - hidden * upper.along
    bend = lower.ends_2x2[0] + radius * lower.along
    far = lower.ends_2x2[1] - radius * lower.along
    return near, bend, far


def _patch(mask_HW: npt.NDArray[np.bool_]) -> _Patch | None:
    """The ends of the largest connected patch, or None if it is too small."""
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas) or areas.max() < FEWEST_PIXELS:
        return None
    y_N, x_N = np.nonzero(labels_HW == 1 + int(areas.argmax()))
    points_Nx2 = np.stack([x_N, y_N], axis=1).astype(np.float64)
    centre = points_Nx2.mean(0)
    along = np.linalg.eigh(np.cov((points_Nx2 - centre).T))[1][:, 1]
    places_N = (points_Nx2 - centre) @ along
    # pixels are as wide as they are: their outer edge is half of one further out
    ends = np.stack([centre + (places_N.min() - 0.5) * along, centre + (places_N.max() + 0.5) * along])
    return _Patch(ends, along)
