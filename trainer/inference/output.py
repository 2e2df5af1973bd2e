"""Writes what was drawn: mp4, gif, PNG files. Every file says in its metadata that it is AI-generated.

FHWC = frames of RGB uint8. Same frames, same settings: same bytes.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lposekit.errors import LposekitError
from lposekit.shards.files import disk_error, replacing
from trainer.inference.mp4 import write_mp4
from trainer.inference.settings import Format

Frames = npt.NDArray[np.uint8]

LABEL = "AI-generated"
COMMENT = f"{LABEL} video or image, made with lposekit sample"
_ENDINGS: dict[str, Format] = {".mp4": "mp4", ".gif": "gif"}
_FRAME_NAME = re.compile(r"\d{6}\.png", re.ASCII)


def format_of(path: Path) -> Format:
    """What the ending of a path asks for; a name without one asks for a folder of frames."""
    return _ENDINGS.get(path.suffix.lower(), "frames")


def foreign_file(folder: Path) -> Path | None:
    """Something in a folder that `write_frames` did not write there, and so must not remove; None if there is none."""
    return next((path for path in sorted(folder.iterdir()) if not _is_own_frame(path)), None)


def _is_own_frame(path: Path) -> bool:
    if not _FRAME_NAME.fullmatch(path.name) or not path.is_file():
        return False
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Comment") == COMMENT
    except (OSError, ValueError, SyntaxError):
        return False


def write_frames(path: Path, frames_FHWC: Frames, written_as: Format, fps: float) -> None:
    """Write a clip; what was there is replaced once the new one is whole.

    Raises:
        LposekitError: the disk is full, or the place cannot be written.
    """
    try:
        if written_as == "frames":
            _write_folder(path, frames_FHWC)
            return
        with replacing(path) as partial:
            (_write_mp4 if written_as == "mp4" else _write_gif)(partial, frames_FHWC, fps)
    except OSError as error:  # PyAV's errors that come from the system are OSErrors as well
        raise disk_error(error, path) from error
    except av.FFmpegError as error:
        raise LposekitError(f"{path}: cannot be written ({error}). Take another --result.format.") from error


def write_png(path: Path, rgb_HWC: npt.NDArray[np.uint8]) -> None:
    """Write one image as PNG, whole or not at all."""
    try:
        with replacing(path) as partial:
            _save_png(partial, rgb_HWC)
    except OSError as error:
        raise disk_error(error, path) from error


def _write_folder(path: Path, frames_FHWC: Frames) -> None:
    """Frames as `000000.png` and so on; only frames that were written here make room for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.", suffix=".partial", dir=path.parent))
    try:
        partial.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
        for i, rgb_HWC in enumerate(frames_FHWC):
            _save_png(partial / f"{i:06d}.png", rgb_HWC)
        if path.is_dir():
            _clear(path)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _clear(folder: Path) -> None:
    foreign = foreign_file(folder)
    if foreign is not None:
        raise LposekitError(f"{folder}: holds {foreign.name}, which was not written here. Name another folder.")
    for old in folder.iterdir():
        old.unlink()
    folder.rmdir()


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _save_png(path: Path, rgb_HWC: npt.NDArray[np.uint8]) -> None:
    facts = PngInfo()
    facts.add_text("Comment", COMMENT)
    with path.open("wb") as stream:
        Image.fromarray(rgb_HWC).save(stream, format="PNG", pnginfo=facts)


def _write_mp4(path: Path, frames_FHWC: Frames, fps: float) -> None:
    options = {"crf": "17", "preset": "medium"}
    write_mp4(path, frames_FHWC, Fraction(fps).limit_denominator(1001), options, comment=COMMENT)


def _write_gif(path: Path, frames_FHWC: Frames, fps: float) -> None:
    first, *rest = (Image.fromarray(rgb_HWC) for rgb_HWC in frames_FHWC)
    # a GIF counts in hundredths of a second: rounded moments, so that the errors do not add up
    moments = [round(100 * i / fps) for i in range(len(frames_FHWC) + 1)]
    durations = [10 * max(1, end - start) for start, end in itertools.pairwise(moments)]
    with path.open("wb") as stream:
        first.save(
            stream,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=durations,
            loop=0,
            comment=COMMENT.encode(),
        )


def marked(frames_FHWC: Frames) -> Frames:
    """The frames with "AI-generated" in the lower left corner, white on black outline."""
    out = frames_FHWC.copy()
    scale = max(0.3, min(out.shape[1:3]) / 700)
    place = (round(12 * scale), out.shape[1] - round(14 * scale))
    for rgb_HWC in out:
        for color, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            width = max(1, round(thickness * scale))
            cv2.putText(rgb_HWC, LABEL, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, width, cv2.LINE_AA)
    return out


def beside(skeletons_FHWC: Frames, frames_FHWC: Frames) -> Frames:
    """Skeleton left, frame right."""
    return np.concatenate([skeletons_FHWC, frames_FHWC], axis=2)
