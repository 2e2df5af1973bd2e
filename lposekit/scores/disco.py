"""The scores of pixels as DisCo's evaluation script defines them (`gen_eval.sh` and what it calls, in its form since
2024), the yardstick of papers on human animation. L1 and SSIM differ from the usual ones; PSNR is that of `frames`
(papers before 2024 subtracted uint8 values, which wrap around at 0).

FHWC: frames of RGB uint8.
"""

from __future__ import annotations

import cv2
import numpy as np

from lposekit.scores.frames import Frames

FRAMES_OF_A_CLIP = 16
"""Every run of so many consecutive frames is a clip to its FVD."""


def l1(drawn_FHWC: Frames, real_FHWC: Frames) -> float:
    """Mean absolute error in levels of 0..255, over height x width: comparable between images of one size only."""
    height, width = real_FHWC.shape[1:3]
    difference = np.abs(drawn_FHWC.astype(np.float64) - real_FHWC)
    return float(difference.mean() / (height * width))


def ssim(drawn_FHWC: Frames, real_FHWC: Frames) -> float:
    """On grey uint8 images, with scikit-image's defaults: a uniform window of 7 x 7.

    Raises:
        ValueError: frames of fewer than 7 pixels a side.
    """
    from skimage.metrics import structural_similarity

    grey = [
        (cv2.cvtColor(a, cv2.COLOR_RGB2GRAY), cv2.cvtColor(b, cv2.COLOR_RGB2GRAY))
        for a, b in zip(drawn_FHWC, real_FHWC, strict=True)
    ]
    return float(np.mean([structural_similarity(a, b) for a, b in grey]))


def runs_of_frames(num_frames: int) -> list[range]:
    """The clips of its FVD: every run of 16 consecutive frames, one frame apart; none of a shorter clip."""
    return [range(start, start + FRAMES_OF_A_CLIP) for start in range(num_frames - FRAMES_OF_A_CLIP + 1)]
