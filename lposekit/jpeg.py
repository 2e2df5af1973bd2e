"""The header of a JPEG, from its bytes alone: segments, the frame's size, the EXIF block. Nothing is decoded.

Source: ISO/IEC 10918-1 (ITU-T T.81) annex B.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}
START_OF_SCAN = 0xDA
_END_OF_IMAGE, _APP1 = 0xD9, 0xE1


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """height, width: as stored in the first frame header, in pixels; 0 is possible. exif: the TIFF structure of the
    first EXIF block before it, empty if there is none."""

    height: int
    width: int
    exif: bytes


def read_jpeg_header(data: bytes) -> JpegHeader:
    """The header of a JPEG, which begins with FF D8.

    Raises:
        ValueError: not a JPEG, a marker that is none, no frame header, or the bytes end before it.
    """
    exif = b""
    try:
        if data[:2] != b"\xff\xd8":
            raise ValueError("no jpeg")
        for marker, start, end in header_segments(data):
            if marker == _APP1 and not exif and data[start : start + 6] == b"Exif\0\0":
                exif = data[start + 6 : end]
            if marker in _START_OF_FRAME:
                height, width = struct.unpack_from(">HH", data, start + 1)
                return JpegHeader(height, width, exif)
    except (struct.error, IndexError) as error:
        raise ValueError("jpeg header ends early") from error
    raise ValueError("jpeg without a frame header")


def header_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment's content, up to and with the header of the first scan.

    Raises:
        ValueError, struct.error, IndexError: no marker where one must be, or the bytes end before it.
    """
    place = 2
    while True:
        if data[place] != 0xFF:
            raise ValueError(f"jpeg marker expected at byte {place}")
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        elif marker == _END_OF_IMAGE:
            return
        else:
            (length,) = struct.unpack_from(">H", data, place + 2)
            yield marker, place + 4, place + 2 + length
            if marker == START_OF_SCAN:
                return
            place += 2 + max(length, 2)
