"""Writes one clip: H.264 in mp4, or numbered JPEG files. Same frames, same settings: same bytes.

Colours: BT.601 in limited range, and tagged so. Readers that ignore the tag (swscale's default) agree with those that
obey it. GOP at most 12, no B-frames, constant rate; `thread_count=1`, since other counts give other bytes.
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
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, ColorRange
from av.video.stream import VideoStream

from pipelines.decode.video_settings import EncodeSettings

_BT601 = 6  # AVCOL_SPC_SMPTE170M


class ClipWriter(Protocol):
    """Takes frames in order. `finish` returns the files written; `discard` removes them."""

    def write(self, rgb_HWC: npt.NDArray[np.uint8]) -> None: ...

    def finish(self) -> list[Path]: ...

    def discard(self) -> None: ...


def clip_writer(stem: Path, size: tuple[int, int], fps: Fraction, settings: EncodeSettings) -> ClipWriter:
    """A writer of `stem`.mp4, or of `stem`.000000.jpg and so on. `size`: width and height, both even."""
    if settings.format == "frames":
        return FramesWriter(stem, settings.jpeg_quality)
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
        stream = self._container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = 1 / self._fps
        codec.thread_count = 1
        codec.gop_size = settings.gop
        codec.max_b_frames = 0
        codec.colorspace = _BT601
        codec.color_range = ColorRange.MPEG
        codec.flags |= av.codec.context.Flags.bitexact
        codec.options = {"crf": f"{settings.crf:g}", "preset": settings.preset, "sc_threshold": "0"}
        return stream

    def write(self, rgb_HWC: npt.NDArray[np.uint8]) -> None:
        frame = yuv_frame(rgb_HWC)
        frame.pts = self._count
        frame.time_base = 1 / self._fps
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> list[Path]:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return [self._path]

    def discard(self) -> None:
        self.finish()
        self._path.unlink()


class FramesWriter:
    """Numbered JPEG files."""

    def __init__(self, stem: Path, quality: int) -> None:
        self._stem = stem
        self._quality = quality
        self._paths: list[Path] = []

    def write(self, rgb_HWC: npt.NDArray[np.uint8]) -> None:
        path = self._stem.with_name(f"{self._stem.name}.{len(self._paths):06d}.jpg")
        bgr_HWC = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        path.write_bytes(data.tobytes())
        self._paths.append(path)

    def finish(self) -> list[Path]:
        return self._paths

    def discard(self) -> None:
        for path in self._paths:
            path.unlink()


def yuv_frame(rgb_HWC: npt.NDArray[np.uint8]) -> VideoFrame:
    """`rgb_HWC` (even sides) as BT.601 yuv420p, colour averaged over 2x2 pixels."""
    frame = VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
    )


def sha256_of(paths: list[Path]) -> str:
    """Of all files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
