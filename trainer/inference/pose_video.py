"""Frames of a video, or of one image, for a pose: upright RGB, every n-th of them.

FHWC = frames of RGB uint8. PyAV reads the file in this process, and opens only containers of one file: a playlist or a
script (hls, concat, ansi text ...) may name other files and addresses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lposekit.errors import LposekitError, UsageError
from lposekit.skeleton_check import examined_pixels

Image = npt.NDArray[np.uint8]
MAX_PIXELS = 8192 * 8192
HEAD_BYTES = 4096
VIDEOS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,h264,hevc,m4v,ivf,mxf,rm,"
    "dv,mp3,wav,aac,flac"
)


@dataclass(frozen=True, slots=True)
class PoseVideo:
    """Chosen frames of a video. `frames`: what was made of each. `looked_FHWC`: some of them, as
    `check_skeletons` looks at them. `num_frames`: of the video; None if its end was not reached. `damage`: why no
    more could be decoded."""

    frames: list[Image]
    looked_FHWC: Image
    num_frames: int | None
    damage: str | None


def read_pose_video(path: Path, most: int, stride: int, fitted: Callable[[Image], Image], examined: int) -> PoseVideo:
    """Frames 0, stride, 2 stride, ... of a video, at most `most` of them, each through `fitted`; up to
    `examined` of them are also kept for `check_skeletons`.

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
            if len(kept) % look_every == 0:
                pixels_HWC = examined_pixels(rgb_HWC)
                if not looked or pixels_HWC.shape == looked[0].shape:
                    looked.append(pixels_HWC)
            kept.append(fitted(rgb_HWC))
            if len(kept) == most:
                return PoseVideo(kept, np.stack(looked), None, None)
    except av.FFmpegError as error:
        damage = error.strerror or str(error)
    if not kept:
        raise LposekitError(f"--pose {path}: no frame can be decoded ({damage or 'it is empty'}). Take another file.")
    return PoseVideo(kept, np.stack(looked), counted, damage)


def upright_frames(path: Path) -> Iterator[Image]:
    """Every frame of a video as players show it: turned as its rotation says, pixels square, what is transparent on
    black. Raises av.FFmpegError where it is damaged."""
    with open_video(path) as container:
        stream = shown_stream(container, path)
        refuse_large(stream.codec_context.width, stream.codec_context.height, path)
        for frame in container.decode(stream):
            refuse_large(frame.width, frame.height, path)  # a stream may change its size
            square_HWC = square_pixels(rgb_of(frame, path), stream.sample_aspect_ratio)
            yield np.ascontiguousarray(np.rot90(square_HWC, round(frame.rotation / 90) % 4))


def open_video(path: Path) -> InputContainer:
    """Open a file that holds images or a video itself. Raises UsageError for all others."""
    if not os.path.isfile(path):
        raise UsageError(f"--pose {path}: there is no such file. Name a pose file, a skeleton video or a person video.")
    try:
        with path.open("rb") as stream:
            image = image_format(stream.read(HEAD_BYTES))
        options = {"format_whitelist": image or VIDEOS, "protocol_whitelist": "file"}
        # the whole path, so that no name is taken for a protocol (`http:x.mp4`)
        return av.open(str(path.resolve()), format=image, options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.ArgumentError):  # what FFmpeg says of a format that was not named
            reason = "neither a video nor an image"
        elif path.stat().st_size == 0:
            reason = "it is empty"
        raise UsageError(f"--pose {path}: cannot be read as a video ({reason}). Take another file.") from error


def refuse_large(width: int, height: int, path: Path) -> None:
    if width * height > MAX_PIXELS:
        raise UsageError(f"--pose {path}: frames of {width} x {height} pixels are too large. Make it smaller.")


def image_format(head: bytes) -> str | None:
    """FFmpeg's name for a single image that begins so; None for all else.

    It must be told: by a name such as `a%03d.png`, it would look for other files.
    """
    if head.startswith(b"\x89PNG"):
        return "apng" if b"acTL" in head else "png_pipe"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp_pipe"
    starts = {b"\xff\xd8\xff": "jpeg_pipe", b"BM": "bmp_pipe", b"II*\0": "tiff_pipe", b"MM\0*": "tiff_pipe"}
    return next((name for start, name in starts.items() if head.startswith(start)), None)


def shown_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream that players show. Raises UsageError if there is none: the cover of a song is no video."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or bool(stream.disposition & Disposition.attached_pic):
        raise UsageError(f"--pose {path}: there is no video in it, only {_kinds(container)}. Take another file.")
    if stream.codec_context is None:
        raise UsageError(f"--pose {path}: there is no decoder for its video. Convert it to H.264.")
    return stream


def rgb_of(frame: VideoFrame, path: Path) -> Image:
    """RGB of a frame; what is transparent becomes black, as the background of skeletons is."""
    alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    try:
        pixels = np.asarray(frame.to_ndarray(format="rgba" if alpha else "rgb24"), np.uint8)
    except ValueError as error:
        raise LposekitError(
            f"--pose {path}: frames of {frame.format.name} cannot be shown ({error}). Convert it to H.264."
        ) from error
    if not alpha:
        return pixels
    return (pixels[..., :3].astype(np.uint16) * pixels[..., 3:] // 255).astype(np.uint8)


def square_pixels(rgb_HWC: Image, aspect: Fraction | None) -> Image:
    """The image with pixels as wide as high. `aspect`: width over height of one pixel, as the file states it."""
    # next to 1 it is rounding in the header; far away, damage
    if aspect is None or not 0.02 < abs(aspect - 1) < 8 or aspect <= 0:
        return rgb_HWC
    width = max(1, round(rgb_HWC.shape[1] * aspect))
    return np.asarray(cv2.resize(rgb_HWC, (width, rgb_HWC.shape[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
