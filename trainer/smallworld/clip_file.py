"""One clip as mp4, coded as the video build codes its clips: H.264, key frames at most 12 apart, no B-frames, BT.601.

Same frames, same bytes: one thread, no macroblock tree.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from trainer.smallworld.draw import Image

FPS = 8
_BT601 = 6  # AVCOL_SPC_SMPTE170M


def clip_bytes(frames_FHWC: Image) -> bytes:
    """The mp4 of frames, RGB uint8 [F, H, W, 3] with even sides, at `FPS` frames a second."""
    with tempfile.TemporaryDirectory() as folder:
        # a file, since FFmpeg opens it once more to move the index to its front
        path = Path(folder) / "clip.mp4"
        _write(path, frames_FHWC)
        return path.read_bytes()


def _write(path: Path, frames_FHWC: Image) -> None:
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", container_options=options) as container:
        stream: VideoStream = container.add_stream("libx264", rate=FPS)
        _set_up(stream, frames_FHWC.shape[1], frames_FHWC.shape[2])
        for number, rgb_HWC in enumerate(frames_FHWC):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
            image = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range=ColorRange.MPEG)
            image.pts, image.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))


def _set_up(stream: VideoStream, height: int, width: int) -> None:
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    codec = stream.codec_context
    codec.time_base, codec.thread_count = Fraction(1, FPS), 1
    codec.gop_size, codec.max_b_frames = 12, 0
    codec.colorspace, codec.color_range = _BT601, ColorRange.MPEG
    codec.flags |= Flags.bitexact
    codec.options = {"crf": "17", "preset": "veryfast", "sc_threshold": "0", "mbtree": "0"}
