"""A video file as it is, not as its header says: `probe` measures, and a `VideoReader` yields upright frames.

Shapes: `rgb_HWC` uint8 at the size that the reader was opened with; `thumb_HWC` uint8 in BGR order, 256 pixels wide.
Frames are counted in order of presentation; `pts` are ticks of the stream's time base.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lposekit.errors import Outcome, Rejected
from lposekit.json_values import JsonValue
from pipelines.video.clips.motion import THUMB_WIDTH
from pipelines.video.clips.timeline import measured_rate

# Playlists and scripts (hls, concat, tty, lavfi ...) can name other files and addresses: only containers of one file.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,h264,hevc,m4v,ivf,mxf,rm,"
    "dv,mp3,wav,aac,flac"
)
_OPEN_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_FIRST_FRAME_PACKETS = 300
_PACKETS_PER_BEAT = 4096


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What was measured. `width`, `height`: of the upright image, pixels square, before any scaling."""

    codec: str
    container: str
    width: int
    height: int
    rotation: int
    fps: Fraction
    variable_rate: bool
    time_base: Fraction
    pts: npt.NDArray[np.int64]
    """Sorted time stamps of all images that the file holds packets of."""
    orderly: bool
    """Every packet has a time stamp, none is marked as damaged or as not to be shown."""
    counted: bool
    """The container stores the order of decoding only (AVI): images are placed by counting them."""
    header_frames: int
    header_duration_s: float | None
    header_fps: float | None

    @property
    def seekable(self) -> bool:
        """The container has an index of key frames; elsewhere a seek may land between them, or behind its aim."""
        return "mp4" in self.container or "matroska" in self.container

    @property
    def interval(self) -> float:
        """Usual time from one frame to the next, in ticks."""
        return float(1 / (self.fps * self.time_base))

    @property
    def duration_s(self) -> float:
        """From the start of the first frame to the end of the last one."""
        return float(int(self.pts[-1] - self.pts[0]) * self.time_base + 1 / self.fps)

    def to_plain(self) -> dict[str, JsonValue]:
        """As plain values, for the sample's json and the report."""
        return {
            "codec": self.codec,
            "container": self.container,
            "original_width": self.width,
            "original_height": self.height,
            "rotation": self.rotation,
            "fps": float(self.fps),
            "variable_frame_rate": self.variable_rate,
            "num_frames": len(self.pts),
            "duration_s": self.duration_s,
            "header_frames": self.header_frames,
            "header_duration_s": self.header_duration_s,
            "header_fps": self.header_fps,
        }


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame. Without an image (`rgb_HWC` None) it is damaged: the file has it, nobody can see it."""

    index: int
    pts: int
    rgb_HWC: npt.NDArray[np.uint8] | None
    thumb_HWC: npt.NDArray[np.uint8] | None


class DamageSuspectedError(Exception):
    """The reader met something that it can neither show nor place. Read the file again with a reader that can."""


class VideoReader(Protocol):
    """Yields frames [start, stop) in order, memory bounded. Raises `Rejected` or `DamageSuspectedError`."""

    def frames(self, start: int, stop: int) -> Generator[SourceFrame, None, None]: ...

    def close(self) -> None: ...


def reason_of(err: Exception) -> str:
    """What FFmpeg says of a file, without the path that it appends: a copy elsewhere is to end the same."""
    return (isinstance(err, av.FFmpegError) and err.strerror) or str(err)


def open_container(path: Path) -> InputContainer:
    """Open a local file, one of the known containers only.

    Raises:
        Rejected: it is none of them, or damaged.
    """
    try:
        return av.open(str(path.resolve()), options=dict(_OPEN_OPTIONS), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as err:
        raise Rejected(Outcome.CORRUPT, f"no video container that can be read: {reason_of(err)}") from err


def video_stream(container: InputContainer) -> VideoStream:
    """The stream that players show.

    Raises:
        Rejected: there is none, or no decoder for it.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or bool(stream.disposition & Disposition.attached_pic):
        kinds = sorted({each.type for each in container.streams})
        raise Rejected(Outcome.NO_VIDEO_STREAM, f"the file holds no video stream, only {', '.join(kinds) or 'nothing'}")
    if stream.codec_context is None:
        raise Rejected(Outcome.CORRUPT, "no decoder for the video stream")
    stream.codec_context.thread_count = 1
    return stream


def probe(path: Path, max_frame_pixels: int, beat: Callable[[], None]) -> VideoInfo:
    """Measure a file: decodes its first frame and reads the time stamps of all others. Raises `Rejected`."""
    with open_container(path) as container:
        stream = video_stream(container)
        codec = stream.codec_context
        _check_pixels(codec.width, codec.height, max_frame_pixels)
        first = _first_frame(container, stream)
        _check_pixels(first.width, first.height, max_frame_pixels)
    with open_container(path) as container:
        stream = video_stream(container)
        pts, orderly = _time_stamps(container, stream, beat)
        return _info(container, stream, first, pts, orderly)


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        detail = f"frames of {width} x {height} pixels; video.max_frame_pixels allows {limit}"
        raise Rejected(Outcome.TOO_MANY_PIXELS, detail)


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    problem = "the stream holds no packet"
    try:
        for number, packet in enumerate(container.demux(stream)):
            try:
                for frame in packet.decode():
                    return frame
            except av.FFmpegError as err:
                problem = reason_of(err)
            if number >= _FIRST_FRAME_PACKETS:
                break
    except av.FFmpegError as err:
        problem = reason_of(err)
    raise Rejected(Outcome.CORRUPT, f"no frame can be decoded: {problem}")


def _time_stamps(
    container: InputContainer, stream: VideoStream, beat: Callable[[], None]
) -> tuple[npt.NDArray[np.int64], bool]:
    stamps = array("q")
    orderly = True
    try:
        for number, packet in enumerate(container.demux(stream)):
            if number % _PACKETS_PER_BEAT == 0:
                beat()
            if not packet.size or packet.is_discard:
                orderly &= not packet.size
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            orderly &= packet.pts is not None and not packet.is_corrupt
            if stamp is not None:
                stamps.append(stamp)
    except av.FFmpegError:
        orderly = False  # the file ends early: what was read so far counts
    return np.sort(np.frombuffer(stamps, dtype=np.int64)), orderly


def _info(
    container: InputContainer, stream: VideoStream, first: VideoFrame, pts: npt.NDArray[np.int64], orderly: bool
) -> VideoInfo:
    time_base = stream.time_base
    if time_base is None or pts.size == 0:
        raise Rejected(Outcome.CORRUPT, "no frame has a time stamp")
    stated = stream.average_rate
    rate = measured_rate(pts, time_base, stated)
    if rate is None and pts.size > 1:
        raise Rejected(Outcome.CORRUPT, f"{pts.size} frames share one time stamp")
    width, height = _upright_size(first, stream)
    return VideoInfo(
        codec=stream.codec_context.name,
        container=container.format.name,
        width=width,
        height=height,
        rotation=round(first.rotation),
        fps=rate.fps if rate else stated or Fraction(25),
        variable_rate=bool(rate and rate.variable),
        time_base=time_base,
        pts=pts,
        orderly=orderly,
        counted=container.format.name == "avi",
        header_frames=stream.frames,
        header_duration_s=container.duration / av.time_base if container.duration else None,
        header_fps=float(stated) if stated else None,
    )


def _upright_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    aspect = stream.sample_aspect_ratio or Fraction(1)  # of one pixel; odd values next to 1 are rounding in the header
    width = max(1, round(frame.width * aspect)) if 0.02 < abs(aspect - 1) < 8 and aspect > 0 else frame.width
    return (frame.height, width) if round(frame.rotation) % 180 else (width, frame.height)


def clip_size(info: VideoInfo, shorter_side: int) -> tuple[int, int]:
    """Width and height of stored clips: ratio kept, never enlarged, both even (H.264 in yuv420p needs that)."""
    scale = min(1.0, shorter_side / min(info.width, info.height))
    return _even(info.width * scale), _even(info.height * scale)


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2 - 1e-9))


def scaled(rgb_HWC: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """`rgb_HWC` at `size` (width, height): exact means over whole pixels first, then linear over less than two.

    OpenCV's area filter is fast for whole factors only; 1280x720 to 910x512 takes it 8 ms, this 1 ms.
    """
    width, height = size
    if rgb_HWC.shape[:2] == (height, width):
        return rgb_HWC
    factor = min(rgb_HWC.shape[0] // height, rgb_HWC.shape[1] // width)
    if factor > 1:
        rows, columns = rgb_HWC.shape[0] // factor, rgb_HWC.shape[1] // factor
        whole_HWC = rgb_HWC[: rows * factor, : columns * factor]
        rgb_HWC = _resized(whole_HWC, (columns, rows), cv2.INTER_AREA)
    return _resized(rgb_HWC, size, cv2.INTER_LINEAR)


def thumb(rgb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A small BGR image for cut detection and motion."""
    height, width = rgb_HWC.shape[:2]
    small_HWC = rgb_HWC
    if width > THUMB_WIDTH:
        size = (THUMB_WIDTH, max(1, round(height * THUMB_WIDTH / width)))
        small_HWC = _resized(rgb_HWC, size, cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(small_HWC, cv2.COLOR_RGB2BGR), dtype=np.uint8)


def _resized(rgb_HWC: npt.NDArray[np.uint8], size: tuple[int, int], interpolation: int) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(rgb_HWC, size, interpolation=interpolation), dtype=np.uint8)


def source_frame(index: int, pts: int, upright_HWC: npt.NDArray[np.uint8], size: tuple[int, int]) -> SourceFrame:
    """A frame as readers yield it."""
    rgb_HWC = scaled(upright_HWC, size)
    return SourceFrame(index, pts, rgb_HWC, thumb(rgb_HWC))
