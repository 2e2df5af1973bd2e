"""What the first bytes of an image say: format, size, orientation. Nothing is decoded, nothing native is called.

Limits have to be checked before a decoder sees the bytes, and Pillow is no help there: opening a WebP of 16383 x 16383
pixels reserves two such images. The readers here look at lengths and numbers only, in pure Python; the decoder's
image is compared with the header afterwards, so a file that shows two sizes to two readers is `corrupt`.

Sources: `lposekit.jpeg` for JPEG, PNG third edition, the WebP container specification, GIF89a, TIFF 6.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lposekit.errors import Outcome, Rejected
from lposekit.jpeg import read_jpeg_header

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112
_INTEGER_FORMATS = {1: "B", 3: "H", 4: "I"}  # TIFF field types


@dataclass(frozen=True, slots=True)
class Header:
    """format: jpeg, png, webp or gif. width, height: as stored in the file. orientation: EXIF's 1 to 8, 1 if absent."""

    format: str
    width: int
    height: int
    orientation: int


def read_header(data: bytes) -> Header:
    """Header of a JPEG, PNG, WebP or GIF.

    Raises:
        Rejected: not_image for all else, corrupt for a broken header.
    """
    format_ = sniff(data)
    if format_ is None:
        raise Rejected(Outcome.NOT_IMAGE, f"neither JPEG, PNG, WebP nor GIF but {_guess(data)}")
    try:
        width, height, exif = _READERS[format_](data)
    except (struct.error, IndexError) as err:
        raise Rejected(Outcome.CORRUPT, f"{format_} header ends early") from err
    if width < 1 or height < 1:
        raise Rejected(Outcome.CORRUPT, f"{format_} header says {width} x {height} pixels")
    return Header(format_, width, height, _orientation(exif))


def sniff(data: bytes) -> str | None:
    """Format by magic bytes, none if it is not one of ours."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def _guess(data: bytes) -> str:
    """What a body that is no image may be, for the message only."""
    head = data[:512].lstrip().lower()
    if not data:
        return "an empty body"
    if data[4:8] == b"ftyp":
        return f"an ISO media file ({data[8:12].decode('latin-1', 'replace')})"
    for start, name in ((b"%pdf", "PDF"), (b"<svg", "SVG"), (b"bm", "BMP"), (b"ii*\0", "TIFF"), (b"mm\0*", "TIFF")):
        if head.startswith(start):
            return name
    if b"<svg" in head:
        return "SVG"
    if b"<html" in head or b"<!doctype" in head:
        return "HTML"
    return f"bytes that begin with {data[:8]!r}"


def _read_jpeg(data: bytes) -> tuple[int, int, bytes]:
    try:
        header = read_jpeg_header(data)
    except ValueError as error:
        raise Rejected(Outcome.CORRUPT, str(error)) from error
    return header.width, header.height, header.exif


def _read_png(data: bytes) -> tuple[int, int, bytes]:
    if data[12:16] != b"IHDR":
        raise Rejected(Outcome.CORRUPT, "png does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height, _chunk(data, b"eXIf", place=8, little_endian=False)


def _read_webp(data: bytes) -> tuple[int, int, bytes]:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        struct.unpack_from("<10s", data, 20)  # all of it must be there
        return width, height, _chunk(data, b"EXIF", place=12, little_endian=True)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, b""
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, b""
    raise Rejected(Outcome.CORRUPT, "webp without an image chunk")


def _read_gif(data: bytes) -> tuple[int, int, bytes]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height, b""


_READERS = {"jpeg": _read_jpeg, "png": _read_png, "webp": _read_webp, "gif": _read_gif}


def _chunk(data: bytes, wanted: bytes, place: int, *, little_endian: bool) -> bytes:
    """Content of the first chunk of that name in a PNG (length, name, content, sum) or RIFF (name, length, content)."""
    while place + 8 <= len(data):
        if little_endian:
            name, length, overhead = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little"), 8
        else:
            name, length, overhead = data[place + 4 : place + 8], int.from_bytes(data[place : place + 4], "big"), 12
        if name == wanted:
            content = data[place + 8 : place + 8 + length]
            return content.removeprefix(b"Exif\0\0")  # some WebP writers keep JPEG's prefix
        place += overhead + length + (length % 2 if little_endian else 0)
    return b""


def _orientation(exif: bytes) -> int:
    """Orientation in a TIFF structure. What cannot be read counts as upright, as in every viewer."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, type_, _ = struct.unpack_from(order + "HHI", exif, place)
            if tag == _ORIENTATION_TAG and type_ in _INTEGER_FORMATS:
                (value,) = struct.unpack_from(order + _INTEGER_FORMATS[type_], exif, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
