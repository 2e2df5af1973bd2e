"""What samples are judged by: the pose, the words of the caption, and stillness over frames. No other network judges.

``17x2``: keypoints in COCO's order, (x, y) in pixels; NaN where none was read. FHWC: frames of RGB uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lposekit.keypoints import COCO17_SIGMAS
from trainer.smallworld.body import Points
from trainer.smallworld.draw import Image
from trainer.smallworld.read_words import BORDER, read_words
from trainer.smallworld.words import SIZES, Words

JOINTS = slice(5, 17)
"""The twelve joints of the limbs: the face has no colours of its own."""
PCK_LIMIT = 0.1
"""Of the standing figure's height: how far from its place a joint may be read."""


def pck(read_17x2: Points, true_17x2: Points, words: Words) -> float:
    """Share of the twelve joints that are read within `PCK_LIMIT` heights of their place, 0..1; unread ones are wrong.

    ``words``: of the caption that the pose was drawn with; they say how high the figure is.
    """
    with np.errstate(invalid="ignore"):
        return float((_away(read_17x2, true_17x2) <= PCK_LIMIT * SIZES[words.size]).mean())


def oks(read_17x2: Points, true_17x2: Points) -> float:
    """COCO's object keypoint similarity over the twelve joints, 0..1; unread ones count 0. The scale is the area of the
    true joints' box."""
    joints = true_17x2[JOINTS]
    area = float(np.prod(joints.max(0) - joints.min(0)))
    sigmas = 2 * np.array(COCO17_SIGMAS)[JOINTS]
    alike = np.exp(-(_away(read_17x2, true_17x2) ** 2) / (2 * sigmas**2 * area))
    return float(np.nan_to_num(alike).mean())


def _away(read_17x2: Points, true_17x2: Points) -> npt.NDArray[np.float64]:
    return np.hypot(*(read_17x2 - true_17x2)[JOINTS].T)


def text_shares(images: Sequence[Image] | Image, words: Sequence[Words]) -> dict[str, float]:
    """Share of images in which size, clothes, background, and `all` three are those of the caption."""
    agreed = [read_words(rgb_HWC).agree(each) for rgb_HWC, each in zip(images, words, strict=True)]
    shares = {name: float(np.mean([each[name] for each in agreed])) for name in agreed[0]}
    return {**shares, "all": float(np.mean([all(each.values()) for each in agreed]))}


def flicker(frames_FHWC: Image) -> float:
    """How much the background changes from frame to frame: mean absolute difference along the border, in levels of
    0..255. Backgrounds of the world are still, so it is 0 but for coding losses."""
    differences = np.abs(np.diff(frames_FHWC.astype(np.float64), axis=0))
    edge = np.ones(frames_FHWC.shape[1:3], bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    return float(differences[:, edge].mean())


def identity(frames_FHWC: Image) -> float:
    """Share of frames whose clothes have the colour that most frames show, 0..1; 0 if none shows one."""
    seen = [found.clothes for found in map(read_words, frames_FHWC)]
    return max((seen.count(colour) for colour in set(seen) - {None}), default=0) / len(seen)
