"""The frames of a system's results: for each pair, a folder of images, a video or an image, named by its key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from lposekit.errors import LposekitError, UsageError
from trainer.evaluate.protocol import Pair, Protocol
from trainer.inference.pose_video import upright_frames

Frames = npt.NDArray[np.uint8]

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".gif", ".webm", ".mov", ".mkv", ".avi")
LEAST_SIDE_PX = 16
"""The window of SSIM takes 11."""
SHOWN_KEYS = 3
_DIGITS = re.compile(r"(\d+)", re.ASCII)


class Results:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def refuse_missing(self, protocol: Protocol) -> None:
        """Raises UsageError: pairs have no result here."""
        if not self._folder.is_dir():
            raise UsageError(f"--frames {self._folder}: there is no such folder.")
        missing = [pair.key for pair in protocol.pairs if self._found(pair.key) is None]
        if missing:
            names = ", ".join(missing[:SHOWN_KEYS]) + (", ..." if missing[SHOWN_KEYS:] else "")
            raise UsageError(
                f"--frames {self._folder}: has no result for {len(missing)} of {len(protocol.pairs)} pairs "
                f"({names}). Each is named by the pair's key: KEY.mp4, KEY.gif, KEY.png, or a folder KEY of images."
            )

    def frames(self, pair: Pair) -> Frames:
        """The frames of a pair's result, RGB uint8 [F, H, W, 3]; F is that of the pair.

        Raises:
            LposekitError: they cannot be read, differ in size, or are too few or too many.
        """
        path = self._found(pair.key)
        if path is None:
            raise LposekitError(f"--frames {self._folder}: the result of {pair.key} is gone.")
        images = list(self._images(path, pair.tracks.num_frames + 1))
        if len(images) != pair.tracks.num_frames:
            many = f"{len(images)}" if len(images) < pair.tracks.num_frames else f"more than {pair.tracks.num_frames}"
            raise LposekitError(f"{path}: {many} frames; the protocol asks for {pair.tracks.num_frames}.")
        if len({image.shape for image in images}) > 1:
            raise LposekitError(f"{path}: its frames differ in size.")
        if min(images[0].shape[:2]) < LEAST_SIDE_PX:
            raise LposekitError(f"{path}: frames of {images[0].shape[1]} x {images[0].shape[0]} pixels are too small.")
        return np.stack(images)

    def state(self, key: str) -> str:
        """Changes when a file of the pair's result does."""
        path = self._found(key)
        files = [] if path is None else sorted(path.iterdir()) if path.is_dir() else [path]
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _found(self, key: str) -> Path | None:
        names = [key, *(key + ending for ending in (*VIDEOS, *IMAGES))]
        return next((path for name in names if (path := self._folder / name).exists()), None)

    def _images(self, path: Path, most: int) -> Iterator[Frames]:
        if path.is_dir():
            names = sorted((name for name in path.iterdir() if name.suffix.lower() in IMAGES), key=_by_number)
            yield from (_image(name) for name in names[:most])
        elif path.suffix in IMAGES:
            yield _image(path)
        else:
            for _, rgb_HWC in zip(range(most), _video(path), strict=False):
                yield rgb_HWC


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts `2.png` before `10.png`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(path.stem)]


def _image(path: Path) -> Frames:
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LposekitError(f"{path}: cannot be read as an image ({error}).") from error


def _video(path: Path) -> Iterator[Frames]:
    import av

    try:
        yield from upright_frames(path)
    except av.FFmpegError as error:
        raise LposekitError(f"{path}: damaged ({error}).") from error
    except UsageError as error:
        raise LposekitError(str(error).replace("--pose", "--frames", 1)) from error
