"""Images and moving images of what was drawn: RGB uint8 in, files and data URIs out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange
from PIL import Image as PillowImage

from lposekit.shards.files import write_bytes
from trainer.smallworld.draw import Image

FRAME_MS = 125
_TYPES = {".png": "image/png", ".webp": "image/webp"}


def grid(images_NHWC: Image, columns: int) -> Image:
    """Images in rows of so many; what does not fill a row is left out. HWC."""
    whole = images_NHWC[: len(images_NHWC) // columns * columns]
    return rearrange(whole, "(r n) h w c -> (r h) (n w) c", n=columns)


def write_sheet(path: Path, rgb_HWC: Image) -> None:
    """As PNG, atomically."""
    encoded, png = cv2.imencode(".png", cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR))
    assert encoded
    write_bytes(path, png.tobytes())


def write_moving_sheet(path: Path, clips_NFHWC: Sequence[Image]) -> None:
    """Clips beside each other as an animated, lossless WebP that repeats, atomically."""
    frames_FHWC = np.concatenate(clips_NFHWC, axis=2)
    first, *others = (PillowImage.fromarray(frame) for frame in frames_FHWC)
    stream = io.BytesIO()
    first.save(stream, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, lossless=True)
    write_bytes(path, stream.getvalue())


def data_uri(path: Path) -> str:
    """The file inside a page."""
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
