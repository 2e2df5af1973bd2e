"""The image or clip of a stored sample, told to its native decoder as what it is: a JPEG, an mp4, and nothing else.

A stranger may have put any other file there: a list of further files to read (`ffconcat`, SDP, a playlist), or an image
of a few kilobytes that unfolds to gigabytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer


def open_clip(mp4: bytes) -> InputContainer:
    """Open a stored clip, with PyAV.

    Raises:
        av.FFmpegError: it is no mp4.
    """
    import av

    # the container is named, and nothing else may be opened on its behalf
    return av.open(io.BytesIO(mp4), "r", format="mp4", options={"protocol_whitelist": ""})
