"""Writes one clip: H.264 in mp4, or numbered JPEG files. Same frames, same settings: same bytes.

Colours: BT.601 in limited range, and tagged so. Readers that ignore the tag (swscale's default) agree with those that
obey it. GOP at most 12, no B-frames, constant rate; `thread_count=1`, since other counts give other bytes, and no
macroblock tree, since x264's reads memory that nobody wrote (docs/decisions/2026-11-20-video-bytes.md).
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.codec.codec import Codec, UnknownCodecError
from av.codec.context import Flags
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from einops import rearrange

from lposekit.errors import UsageError
from pipelines.video.clips.settings import EncodeSettings

_ENCODER = "libx264"
_BT601 = 6  # AVCOL_SPC_SMPTE170M
_RGB_TO_UV = np.array(
    [[-0.148223, -0.290993, 0.439216, 128.0], [0.439216, -0.367788, -0.071427, 128.0]], dtype=np.float32
)


Prepared = npt.NDArray[np.uint8]
"""A frame as its writer wants it: yuv420p planes [H * 3 / 2, W] for mp4, the bytes of a JPEG file for frames. It takes
half the memory of the image or less, and windows that overlap share it."""


def prepared(rgb_HWC: npt.NDArray[np.uint8], settings: EncodeSettings) -> Prepared:
    """One frame of a clip, ready to be written."""
    if settings.format == "mp4":
        return yuv420(rgb_HWC)
    bgr_HWC = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
    return np.frombuffer(data, dtype=np.uint8)


def require_encoder(settings: EncodeSettings) -> None:
    """Raises UsageError if clips cannot be encoded with what is installed: FFmpeg may be built without x264."""
    if settings.format == "frames":
        return
    try:
        Codec(_ENCODER, "w")
    except UnknownCodecError as error:
        raise UsageError(
            f"the FFmpeg of the installed av has no encoder {_ENCODER}. Install the av of PyPI "
            "(pip install --only-binary=:all: av), or store clips as JPEG files: --encode.format frames."
        ) from error


class ClipWriter(Protocol):
    """Takes prepared frames in order. `finish` returns the files written; `discard` removes them."""

    def write(self, frame: Prepared) -> None: ...

    def finish(self) -> list[Path]: ...

    def discard(self) -> None: ...


def clip_writer(stem: Path, size: tuple[int, int], fps: Fraction, settings: EncodeSettings) -> ClipWriter:
    """A writer of `stem`.mp4, or of `stem`.000000.jpg and so on. `size`: width and height, both even."""
    if settings.format == "frames":
        return FramesWriter(stem)
    return Mp4Writer(stem.with_name(f"{stem.name}.mp4"), size, fps, settings)


class Mp4Writer:
    """One mp4 file, its index in front (so that it also plays from a stream)."""

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, settings: EncodeSettings) -> None:
        self._path = path
        self._fps = fps
        self._count = 0
        self._container = av.open(str(path), "w", container_options={"movflags": "+faststart", "fflags": "+bitexact"})
        self._stream = self._h264_stream(size, settings)

    def _h264_stream(self, size: tuple[int, int], settings: EncodeSettings) -> VideoStream:
        stream = self._container.add_stream(_ENCODER, rate=self._fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = 1 / self._fps
        codec.thread_count = 1
        codec.gop_size = settings.gop
        codec.max_b_frames = 0
        codec.colorspace = _BT601
        codec.color_range = ColorRange.MPEG
        codec.flags |= Flags.bitexact
        codec.options = {"crf": f"{settings.crf:g}", "preset": settings.preset, "sc_threshold": "0", "mbtree": "0"}
        return stream

    def write(self, frame: Prepared) -> None:
        image = VideoFrame.from_ndarray(frame, format="yuv420p")
        image.pts = self._count
        image.time_base = 1 / self._fps
        self._count += 1
        self._container.mux(self._stream.encode(image))

    def finish(self) -> list[Path]:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return [self._path]

    def discard(self) -> None:
        self.finish()
        self._path.unlink()


class FramesWriter:
    """Numbered JPEG files."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._paths: list[Path] = []

    def write(self, frame: Prepared) -> None:
        path = self._stem.with_name(f"{self._stem.name}.{len(self._paths):06d}.jpg")
        path.write_bytes(frame.tobytes())
        self._paths.append(path)

    def finish(self) -> list[Path]:
        return self._paths

    def discard(self) -> None:
        for path in self._paths:
            path.unlink()


def yuv420(rgb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`rgb_HWC` (even sides) as BT.601 planes, uint8 [H * 3 / 2, W]: luma, then both colours, means of 2x2 pixels.

    OpenCV's own conversion takes the colour of one pixel of four, swscale's takes 1.6 ms a frame; this one 0.5 ms.
    """
    height, width = rgb_HWC.shape[:2]
    planes = np.asarray(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
    half_HWC = cv2.resize(rgb_HWC, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    colour_HWC = cv2.transform(half_HWC, _RGB_TO_UV)
    planes[height:] = rearrange(np.stack(cv2.split(colour_HWC)), "c h w -> (c h w)").reshape(height // 2, width)
    return planes


def sha256_of(paths: list[Path]) -> str:
    """Of all files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
