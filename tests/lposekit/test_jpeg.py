"""Contract of the JPEG header: the size of the first frame header and the first EXIF block before it, whatever
segments stand between; anything else is refused with its reason."""

from __future__ import annotations

import struct

import pytest

from lposekit.jpeg import JpegHeader, read_jpeg_header

START = b"\xff\xd8"


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def frame(height: int, width: int, marker: int = 0xC0) -> bytes:
    return segment(marker, b"\x08" + struct.pack(">HH", height, width) + b"\x03")


TABLES = segment(0xC4, bytes(20)) + segment(0xDB, bytes(65))


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xCF])
def test_the_first_frame_header_gives_the_size(marker: int) -> None:
    # Mutation tried: 0xC4 (Huffman tables) counted as a frame header -> size 0 x 0.
    data = START + TABLES + frame(30, 40, marker) + frame(1, 2)
    assert read_jpeg_header(data) == JpegHeader(30, 40, b"")


def test_fill_bytes_and_markers_without_length_are_stepped_over() -> None:
    # Mutation tried: no branch for fill bytes -> the second 0xFF is taken for a marker with a length.
    assert read_jpeg_header(START + b"\xff\x01\xff\xff" + frame(30, 40)) == JpegHeader(30, 40, b"")


def test_the_first_exif_block_before_the_frame_is_returned_whole() -> None:
    exif = [segment(0xE1, b"Exif\0\0" + content) for content in (b"first", b"second")]
    other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")
    assert read_jpeg_header(START + other + exif[0] + exif[1] + frame(30, 40)).exif == b"first"
    assert read_jpeg_header(START + frame(30, 40) + exif[0]).exif == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no jpeg"),
        (b"\x89PNG", "no jpeg"),
        (START, "ends early"),
        (START + TABLES, "ends early"),
        ((START + frame(30, 40))[:10], "ends early"),
        (START + b"\x00\x01", "marker expected at byte 2"),
        (START + TABLES + segment(0xDA, b"scan"), "without a frame header"),
        (START + b"\xff\xd9", "without a frame header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_what_has_no_frame_header_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_jpeg_header(data)
