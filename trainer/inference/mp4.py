"""Writes frames as mp4: H.264, 4:2:0, BT.601. Same frames and options, same bytes: one thread, no macroblock tree."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

_BT601 = 6  # AVCOL_SPC_SMPTE170M


def write_mp4(
    path: Path,
    frames_FHWC: npt.NDArray[np.uint8],
    rate: Fraction,
    options: Mapping[str, str],
    *,
    key_frame_every: int | None = None,
    comment: str = "",
) -> None:
    """Write RGB uint8 frames [F, H, W, 3] with even sides.

    Args:
        rate: frames per second.
        options: of x264.
        key_frame_every: at most so many frames from one key frame to the next, and no B-frames, so that single frames
            are quick to read; None: as x264 likes it.

    Raises:
        OSError, av.FFmpegError: it cannot be written.
    """
    container_options = {"movflags": "+faststart", "fflags": "+bitexact"}
    # the whole path, so that no name is taken for a protocol (`a:b.mp4`)
    with av.open(str(path.absolute()), "w", format="mp4", container_options=container_options) as container:
        if comment:
            container.metadata["comment"] = comment
        stream: VideoStream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base, codec.thread_count = 1 / rate, 1
        codec.colorspace, codec.color_range = _BT601, ColorRange.MPEG
        codec.flags |= Flags.bitexact
        codec.options = {**options, "mbtree": "0"}
        if key_frame_every is not None:
            codec.gop_size, codec.max_b_frames = key_frame_every, 0
        for i, rgb_HWC in enumerate(frames_FHWC):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
            image = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range=ColorRange.MPEG)
            image.pts, image.time_base = i, 1 / rate
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
