"""The image or clip of a stored sample, told to its native decoder as what it is: a JPEG, an mp4, and nothing else.

A stranger may have put any other file there: a list of further files to read (`ffconcat`, SDP, a playlist), or an image
of a few kilobytes that unfolds to gigabytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from lposekit.jpeg import read_jpeg_header

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


MAX_PIXELS = 2**26
"""Of a stored image, or a frame of a clip: 8192 x 8192. Ours have a shorter side of 512 or so."""
_END_OF_IMAGE = b"\xff\xd9"


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width) of a stored JPEG from its header, which is whole and of a sane size.

    Raises:
        ValueError: it is no JPEG, is cut short, or has too many pixels.
    """
    header = read_jpeg_header(jpeg)
    if not header.height or not header.width:
        raise ValueError("a jpeg without a size")
    if header.height * header.width > MAX_PIXELS:
        raise ValueError(f"a jpeg of {header.width} x {header.height} pixels; {MAX_PIXELS} are the most")
    if not jpeg.endswith(_END_OF_IMAGE):
        raise ValueError("a jpeg that is cut short")  # decoders would fill up with grey
    return header.height, header.width


def decode_stored_jpeg(jpeg: bytes) -> npt.NDArray[np.uint8]:
    """The image of a stored JPEG, uint8 [H, W, 3], RGB.

    Raises:
        ValueError: as `jpeg_size`, or it is damaged.
    """
    jpeg_size(jpeg)
    bgr_HWC = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if bgr_HWC is None:
        raise ValueError("a damaged jpeg")
    return np.ascontiguousarray(bgr_HWC[..., ::-1], np.uint8)


def open_clip(mp4: bytes) -> InputContainer:
    """Open a stored clip, with PyAV.

    Raises:
        av.FFmpegError: it is no mp4.
    """
    import av

    # the container is named, and nothing else may be opened on its behalf
    options = {"protocol_whitelist": ""}
    return av.open(io.BytesIO(mp4), "r", format="mp4", options=options, metadata_errors="replace")


def clip_stream(container: InputContainer) -> VideoStream:
    """The video of a stored clip, of a sane size.

    Raises:
        ValueError: there is none, nothing decodes it, or it has too many pixels.
    """
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:  # an index may name a codec that nobody has
        raise ValueError("no video that can be decoded")
    if streams[0].width * streams[0].height > MAX_PIXELS:
        raise ValueError(f"frames of {streams[0].width} x {streams[0].height} pixels; {MAX_PIXELS} are the most")
    return streams[0]
