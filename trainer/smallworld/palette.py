"""Colours off an image: which of a list of colours each pixel is nearest to.

HWC = RGB uint8. Images come from a sampler, so their colours are near those of the world and not equal to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.smallworld.words import Rgb

NEAR = 90.0
"""Distance in RGB up to which a pixel is taken for a colour at all; black is 442 from white."""


def distances(rgb_HWC: npt.NDArray[np.uint8], colours: Sequence[Rgb]) -> npt.NDArray[np.float32]:
    """Euclidean distance in RGB of every pixel to every colour: [H, W, len(colours)]."""
    differences = rgb_HWC[..., None, :].astype(np.float32) - np.array(colours, np.float32)
    return np.sqrt((differences**2).sum(-1))


def nearest(rgb_HWC: npt.NDArray[np.uint8], colours: Sequence[Rgb]) -> npt.NDArray[np.int64]:
    """Index of the colour that each pixel is nearest to, -1 where none is `NEAR`: [H, W]."""
    away = distances(rgb_HWC, colours)
    return np.where(away.min(-1) <= NEAR, away.argmin(-1), -1)
