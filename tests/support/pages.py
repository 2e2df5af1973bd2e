"""What a test server answers: bodies with their headers."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers."""

    body: bytes
    content_type: str = "image/jpeg"
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200


def pages_of_folder(root: Path) -> dict[str, Page]:
    """Every file below ``root`` as a page of the same path, read into memory."""
    return {
        f"/{path.relative_to(root).as_posix()}": Page(
            path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        )
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@cache
def tiny_jpeg() -> bytes:
    """A real image, 96 x 64, grey with a gradient."""
    import cv2
    import numpy as np

    pixels_HW = np.linspace(0, 255, 96, dtype=np.uint8)[None, :].repeat(64, axis=0)
    return cv2.imencode(".jpg", pixels_HW)[1].tobytes()
