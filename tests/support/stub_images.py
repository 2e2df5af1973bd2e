"""Images that tell the stub pose model what to answer (see `lposekit.pose.stub`)."""

from __future__ import annotations

import cv2
import numpy as np

from lposekit.pose.stub import NUM_BITS, SQUARE_PX, encode_bits

HEIGHT, WIDTH = 128, NUM_BITS * SQUARE_PX


def stub_image(number: int, num_persons: int = 1, num_detected: int = 12, behaviour: str = "well") -> bytes:
    """A JPEG of 256 x 128 pixels. ``number`` (mod 64) comes back as the place of each nose: 20 + number."""
    bgr_HWC = np.full((HEIGHT, WIDTH, 3), (number * 37 % 256, number * 11 % 256, 90), np.uint8)
    for i, bit in enumerate(encode_bits(num_persons, num_detected, behaviour, number % 64)):
        bgr_HWC[:SQUARE_PX, i * SQUARE_PX : (i + 1) * SQUARE_PX] = 255 * bit
    return cv2.imencode(".jpg", bgr_HWC)[1].tobytes()
