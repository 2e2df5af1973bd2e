"""Frames of a video, or of one image, for a pose: upright RGB, every n-th of them.

FHWC = frames of RGB uint8. The file is the user's own; it is read in this process by PyAV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from lposekit.errors import LposekitError, UsageError

Image = npt.NDArray[np.uint8]
MAX_PIXELS = 8192 * 8192


@dataclass(frozen=True, slots=True)
class PoseVideo:
    """Chosen frames of a video. `frames`: what was made of each. `looked_FHWC`: some of them at the video's own
    size. `num_frames`: of the video; None if its end was not reached. `damage`: why no more could be decoded."""

    frames: list[Image]
    looked_FHWC: Image
    num_frames: int | None
    damage: str | None


def read_pose_video(path: Path, most: int, stride: int, fitted: Callable[[Image], Image], examined: int) -> PoseVideo:
    """Frames 0, stride, 2 stride, ... of a video, at most `most` of them, each through `fitted`; up to
    `examined` of them are also kept as they are.

    Raises:
        UsageError: there is no such file, or no video in it.
        LposekitError: not even its first frame can be decoded.
    """
    kept: list[Image] = []
    looked: list[Image] = []
    look_every = max(1, most // examined)
    counted, damage = 0, None
    try:
        for index, rgb_HWC in enumerate(upright_frames(path)):
            counted = index + 1
            if index % stride:
                continue
            if len(kept) % look_every == 0 and (not looked or rgb_HWC.shape == looked[0].shape):
                looked.append(rgb_HWC)
            kept.append(fitted(rgb_HWC))
            if len(kept) == most:
                return PoseVideo(kept, np.stack(looked), None, None)
    except av.FFmpegError as error:
        damage = error.strerror or str(error)
    if not kept:
        raise LposekitError(f"--pose {path}: no frame can be decoded ({damage or 'it is empty'}). Take another file.")
    return PoseVideo(kept, np.stack(looked), counted, damage)


def upright_frames(path: Path) -> Iterator[Image]:
    """Every frame of a video, turned as its rotation says. Raises av.FFmpegError where it is damaged."""
    if not path.is_file():
        raise UsageError(f"--pose {path}: there is no such file. Name a pose file, a skeleton video or a person video.")
    try:
        container = av.open(str(path), "r")
    except av.FFmpegError as error:
        reason = "it is empty" if path.stat().st_size == 0 else error.strerror
        raise UsageError(f"--pose {path}: cannot be read as a video ({reason}). Take another file.") from error
    with container:
        if not container.streams.video:
            raise UsageError(f"--pose {path}: there is no video in it, only {_kinds(container)}. Take another file.")
        for frame in container.decode(container.streams.video[0]):
            if frame.width * frame.height > MAX_PIXELS:
                raise UsageError(f"--pose {path}: frames of {frame.width} x {frame.height} pixels are too large.")
            rgb_HWC = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            yield np.ascontiguousarray(np.rot90(rgb_HWC, round(frame.rotation / 90) % 4))


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
