"""The frames of a system's results: for each pair, a folder of images, a video or an image, named by its key."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image

from lposekit.errors import LposekitError, UsageError
from lposekit.store import REFUSALS, LocalStore, RefusedFile
from lposekit.store_reads import kind_of, read_whole
from trainer.evaluate.protocol import Pair, Protocol
from trainer.inference.pose_video import upright_frames

Frames = npt.NDArray[np.uint8]

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".gif", ".webm", ".mov", ".mkv", ".avi")
MAX_SIDE_PX = 4096
MAX_FRAMES_BYTES = 2**30
"""Of all frames of a pair, decoded: 24 of 4096 x 3640 pixels."""
MAX_IMAGE_BYTES = 2**27
LEAST_SIDE_PX = 16
"""The window of SSIM takes 11."""
SHOWN_KEYS = 3
_DIGITS = re.compile(r"(\d+)", re.ASCII)


class Results:
    """A folder of results, which may be a stranger's: links in it are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = LocalStore(folder)

    def refuse_missing(self, protocol: Protocol) -> None:
        """Raises UsageError: pairs have no result here. LposekitError: one is a link."""
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
            LposekitError: they cannot be read, are links, differ in size, are too large, or too few or too many.
        """
        name = self._found(pair.key)
        if name is None:
            raise LposekitError(f"--frames {self._folder}: the result of {pair.key} is gone.")
        path = self._folder / name
        wanted = pair.tracks.num_frames
        frames_FHWC: Frames | None = None
        count = 0
        for count, image_HWC in enumerate(self._images(name, wanted + 1), 1):
            if frames_FHWC is None:
                _refuse_size(path, image_HWC, wanted)
                frames_FHWC = np.empty((wanted, *image_HWC.shape), np.uint8)
            if image_HWC.shape != frames_FHWC.shape[1:]:
                raise LposekitError(f"{path}: its frames differ in size.")
            if count <= wanted:
                frames_FHWC[count - 1] = image_HWC
        if frames_FHWC is None or count != wanted:
            many = f"{count}" if count < wanted else f"more than {wanted}"
            raise LposekitError(f"{path}: {many} frames; the protocol asks for {wanted}.")
        return frames_FHWC

    def state(self, key: str) -> str:
        """Changes when a file of the pair's result does."""
        name = self._found(key)
        with self._clear_errors(key):
            files = [] if name is None else self._listed(name) or [name]
            found = [(file.rpartition("/")[2], self._store.stat(file)) for file in files]
        facts = [(file, stated.size, stated.changed_ns) for file, stated in found]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _found(self, key: str) -> str | None:
        """The name of a pair's result in the folder. Raises LposekitError: it is a link, or no regular file."""
        with self._clear_errors(key):
            for name in (key, *(key + ending for ending in (*VIDEOS, *IMAGES))):
                kind = kind_of(self._store, name)
                if kind is not None and kind not in ("file", "folder"):
                    raise RefusedFile(errno.ELOOP, REFUSALS[kind], name)
                if kind == ("folder" if name == key else "file"):
                    return name
        return None

    def _listed(self, name: str) -> list[str]:
        """The images of a folder, by their numbers; none of what is no folder."""
        if self._store.stat(name).kind != "folder":
            return []
        images = [file for file in self._store.list(name) if PurePath(file).suffix.lower() in IMAGES]
        return [f"{name}/{file}" for file in sorted(images, key=_by_number)]

    def _images(self, name: str, most: int) -> Iterator[Frames]:
        with self._clear_errors(name):
            if self._store.stat(name).kind == "folder":
                for file in self._listed(name)[:most]:
                    yield self._image(file)
            elif PurePath(name).suffix in IMAGES:
                yield self._image(name)
            else:
                self._store.open(name).close()  # no link, and a regular file
                for _, rgb_HWC in zip(range(most), _video(self._folder / name), strict=False):
                    yield rgb_HWC

    def _image(self, name: str) -> Frames:
        path = self._folder / name
        try:
            data = read_whole(self._store, name, MAX_IMAGE_BYTES)
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
                if max(image.size) > MAX_SIDE_PX:
                    raise _too_large(path, *image.size)
                return np.asarray(image.convert("RGB"), np.uint8)
        except RefusedFile:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise LposekitError(f"{path}: cannot be read as an image ({error}).") from error

    @contextlib.contextmanager
    def _clear_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except RefusedFile as error:
            raise LposekitError(
                f"--frames {self._folder}: {error.filename} is {error.strerror}. Put the file itself there."
            ) from error
        except OSError as error:
            raise LposekitError(f"--frames {self._folder}: {name} cannot be read ({error}).") from error


def _refuse_size(path: Path, image_HWC: Frames, num_frames: int) -> None:
    height, width = image_HWC.shape[:2]
    if min(height, width) < LEAST_SIDE_PX:
        raise LposekitError(f"{path}: frames of {width} x {height} pixels are too small.")
    if max(height, width) > MAX_SIDE_PX:
        raise _too_large(path, width, height)
    if num_frames * image_HWC.nbytes > MAX_FRAMES_BYTES:
        raise LposekitError(
            f"{path}: {num_frames} frames of {width} x {height} pixels are more than {MAX_FRAMES_BYTES} bytes. Make "
            "them smaller."
        )


def _too_large(path: Path, width: int, height: int) -> LposekitError:
    return LposekitError(
        f"{path}: frames of {width} x {height} pixels are too large: {MAX_SIDE_PX} a side are the most. Make them "
        "smaller."
    )


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts `2.png` before `10.png`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(PurePath(name).stem)]


def _video(path: Path) -> Iterator[Frames]:
    import av

    try:
        yield from upright_frames(path)
    except av.FFmpegError as error:
        raise LposekitError(f"{path}: damaged ({error}).") from error
    except UsageError as error:
        raise LposekitError(str(error).replace("--pose", "--frames", 1)) from error
