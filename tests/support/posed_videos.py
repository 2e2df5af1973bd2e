"""Videos whose frames tell the stub model what to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.pose.stub import NUM_BITS, SQUARE_PX, encode_bits
from tests.support.videos import moving, write_video

FPS, CLIP_FRAMES = 20, 20
WELL, RAISES = "well", "raise"


def image(number: int, persons: int, behaviour: str) -> npt.NDArray[np.uint8]:
    """A moving frame whose upper edge says what the stub answers; `number` is the place of the nose."""
    rgb_HWC = moving(number)
    for i, bit in enumerate(encode_bits(persons, 17, behaviour, number % 64)):
        rgb_HWC[: SQUARE_PX + 4, i * SQUARE_PX : (i + 1) * SQUARE_PX] = 255 * bit
    assert rgb_HWC.shape[1] >= NUM_BITS * SQUARE_PX
    return rgb_HWC


def video(path: Path, persons: int = 1, behaviour: str = WELL, num_frames: int = CLIP_FRAMES) -> dict[str, Any]:
    """A video, and its row for a list."""
    write_video(path, [image(number, persons, behaviour) for number in range(num_frames)], FPS)
    return {"path": str(path), "licence": "cc0"}
