"""Scores from pixels: how much a clip flickers, and how far it is from the real one.

FHWC: frames of RGB uint8. All sums are in float64: differences of uint8 would wrap around at 0.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]

MOST_PSNR_DB = 100.0
"""Of equal frames, whose PSNR is infinite."""


def flicker(frames_FHWC: Frames) -> float:
    """Mean absolute difference of neighbouring frames, in levels of 0..255. VBench's temporal flickering is
    (255 - flicker) / 255.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(frames_FHWC) < 2:
        raise ValueError("flicker needs two frames")
    return float(np.mean([_distance(a, b) for a, b in itertools.pairwise(frames_FHWC)]))


def l1(drawn_FHWC: Frames, real_FHWC: Frames) -> float:
    """Mean absolute error, 0..1."""
    return float(np.mean([_distance(a, b) for a, b in zip(drawn_FHWC, real_FHWC, strict=True)]) / 255)


def psnr(drawn_FHWC: Frames, real_FHWC: Frames) -> float:
    """Mean over the frames of the peak signal-to-noise ratio in dB, of the mean squared error over all channels; a
    frame counts `MOST_PSNR_DB` at most."""
    return float(np.mean([_psnr(a, b) for a, b in zip(drawn_FHWC, real_FHWC, strict=True)]))


def _psnr(drawn_HWC: Frames, real_HWC: Frames) -> float:
    squared = float(np.mean((drawn_HWC.astype(np.float64) - real_HWC) ** 2))
    return MOST_PSNR_DB if squared == 0 else min(MOST_PSNR_DB, 20 * float(np.log10(255 / np.sqrt(squared))))


def ssim(drawn_FHWC: Frames, real_FHWC: Frames) -> float:
    """Mean structural similarity, -1..1, with the Gaussian window of Wang et al. 2004, over the colour channels.

    Raises:
        ValueError: frames of fewer than 11 pixels a side.
    """
    from skimage.metrics import structural_similarity

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return float(
        np.mean(
            [
                structural_similarity(a, b, channel_axis=-1, **options)
                for a, b in zip(drawn_FHWC, real_FHWC, strict=True)
            ]
        )
    )


def _distance(a_HWC: Frames, b_HWC: Frames) -> float:
    return float(np.abs(a_HWC.astype(np.float64) - b_HWC).mean())
