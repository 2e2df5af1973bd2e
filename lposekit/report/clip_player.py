"""Clips that play inside of a page: small, few frames a second, encoded afresh: nothing of the source comes along."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from lposekit.report.decode import Rgb, decode_jpeg, shrunk, small_frames_of_mp4

SIDE_PX = 256
FPS = 10.0
MAX_FRAMES = 60
"""Of a clip that plays; a longer one plays faster than it is."""
MAX_BYTES = 120_000
"""Of one clip as it lies in the page; of 24, 4 MB as text."""
_QUALITIES = (30, 38, 46)
"""Constant rate factors, one tried after the other until the clip is small enough."""


def clip_uri(members: Mapping[str, bytes], num_frames: int, fps: float) -> str | None:
    """A stored clip (`mp4`, or `jpg` frames) as the data URI of a small mp4; None if it cannot be made."""
    step = frame_step(num_frames, fps)
    if "mp4" in members:
        images = small_frames_of_mp4(members["mp4"], step, MAX_FRAMES, SIDE_PX)
    else:
        images = list(_frames_of_jpegs(members, step))
    return mp4_uri(images, (fps or FPS) / step)


def frame_step(num_frames: int, fps: float) -> int:
    """Every how many frames one is taken, for at most `FPS` a second and `MAX_FRAMES` in all."""
    return max(1, math.ceil((fps or FPS) / FPS - 1e-6), math.ceil(num_frames / MAX_FRAMES))


def mp4_uri(images: Sequence[Rgb], fps: float) -> str | None:
    """Images of one size as the data URI of an mp4; None for fewer than 2, or if it does not become small enough."""
    if len(images) < 2:
        return None
    for quality in _QUALITIES:
        mp4 = _encode(images, fps, quality)
        if mp4 is not None and len(mp4) <= MAX_BYTES:
            return "data:video/mp4;base64," + base64.b64encode(mp4).decode("ascii")
    return None


def _frames_of_jpegs(members: Mapping[str, bytes], step: int) -> Iterator[Rgb]:
    names = sorted(name for name in members if name.endswith(".jpg"))
    for name in names[: MAX_FRAMES * step : step]:
        if (rgb_HWC := decode_jpeg(members[name])) is not None:
            yield shrunk(rgb_HWC, SIDE_PX)


def _encode(images: Sequence[Rgb], fps: float, quality: int) -> bytes | None:
    """H.264; None where the encoder is missing. One thread, so that the same frames give the same bytes."""
    import av
    import av.codec.codec

    buffer = io.BytesIO()
    height, width = images[0].shape[:2]
    try:
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.thread_count = 1
            stream.options = {"crf": str(quality), "preset": "veryfast"}
            for image in images:
                if image.shape[:2] == (height, width):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
            container.mux(stream.encode(None))
    except av.codec.codec.UnknownCodecError:
        return None
    return buffer.getvalue()
