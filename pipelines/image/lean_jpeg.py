"""A JPEG as it came, rewritten with nothing in it but its pixels: what `image.keep_jpeg` stores.

The coefficients of the file are kept, so no quality and no time is lost by encoding it anew. Every other byte is
ours: a JFIF header, the tables that the scan uses, the frame, the scan up to the first marker behind it. So no
metadata, thumbnail, second image or trailer passes. Kept are plain files only: baseline, 8 bits, grey or YCbCr, one
scan, and quantized so much coarser than by our own quality that encoding it anew (in 4:2:0) would make it larger.

Source: ISO/IEC 10918-1 (ITU-T T.81) annex B; JFIF 1.02.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lposekit.jpeg import START_OF_SCAN, header_segments

_APP0, _APP14, _QUANTIZATION, _HUFFMAN, _RESTART = 0xE0, 0xEE, 0xDB, 0xC4, 0xDD
_BASELINE = 0xC0
_OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {_HUFFMAN, 0xC8}  # arithmetic coding's own table (0xCC) included
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x00\x00"
_SCAN_END = re.compile(rb"\xff(?![\x00\xd0-\xd7])")
_WHOLE_SPECTRUM = b"\x00\x3f\x00"
_COARSER = {(0x11,): 1.15, (0x22, 0x11, 0x11): 1.15, (0x21, 0x11, 0x11): 1.5, (0x11, 0x11, 0x11): 2.3}
"""Sampling of the components -> mean luma step, in multiples of ours, from which no photo of 67 was larger than encoded
anew: qualities 94, 92 and 88 against our 95. Other samplings are not kept."""

QuantizationTables = tuple[bytes, bytes]
"""Tables of luma and chroma: 64 steps of 1 to 255 each, in zigzag order."""


class _NotPlain(Exception):
    """The file has something that is not kept."""


def lean_jpeg(data: bytes, finest: QuantizationTables) -> bytes | None:
    """The same pixels without anything else, or None where the file is not of the plain kind.

    Args:
        data: a JPEG that a strict decoder has decoded without a warning, at its full size, and that needs no rotation.
        finest: no table may be finer in any frequency; see `tables_of`.
    """
    try:
        parts = _read(data)
        parts.check_colors()
        used = parts.used_tables()
        parts.check_fineness(used, finest)
    except (_NotPlain, ValueError, struct.error, IndexError, KeyError):
        return None
    return parts.written(used)


def tables_of(jpeg: bytes) -> QuantizationTables:
    """The two tables of a 4:2:0 JPEG of our own encoder."""
    parts = _read(jpeg)
    luma, chroma = (parts.quantization[parts.components[place][2]] for place in (0, 1))
    return luma, chroma


@dataclass(slots=True)
class _Parts:
    """What the segments before the scan say; of a table that comes twice, the later one, as decoders do."""

    quantization: dict[int, bytes] = field(default_factory=dict)
    huffman: dict[int, bytes] = field(default_factory=dict)
    """By class and number, as in the file: 0x00, 0x01 for DC, 0x10, 0x11 for AC."""
    restart: bytes = b"\0\0"
    frame: bytes = b""
    scan_header: bytes = b""
    scan: bytes = b""
    adobe_transform: int | None = None

    @property
    def components(self) -> list[tuple[int, int, int]]:
        """Identifier, sampling and quantization table of each."""
        return [(self.frame[at], self.frame[at + 1], self.frame[at + 2]) for at in range(6, len(self.frame), 3)]

    @property
    def sampling(self) -> tuple[int, ...]:
        components = self.components
        return (0x11,) if len(components) == 1 else tuple(each for _, each, _ in components)  # of one, it means nothing

    def check_colors(self) -> None:
        """Decoders must take the colors for the same with our JFIF header as without it."""
        components = self.components
        _require(len(self.frame) == 6 + 3 * len(components) and self.frame[5] == len(components))
        _require(self.frame[0] == 8)
        if len(components) == 1:
            _require(self.adobe_transform in (None, 0))
            return
        _require([name for name, _, _ in components] == [1, 2, 3] and self.adobe_transform in (None, 1))

    def used_tables(self) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Quantization and Huffman tables of the one scan, which must hold all components."""
        components, header = self.components, self.scan_header
        num = len(components)
        _require(len(header) == 4 + 2 * num and header[0] == num and header[-3:] == _WHOLE_SPECTRUM)
        _require([header[1 + 2 * place] for place in range(num)] == [name for name, _, _ in components])
        selectors = [header[2 + 2 * place] for place in range(num)]
        huffman = {key: self.huffman[key] for each in selectors for key in (each >> 4, 0x10 | each & 0x0F)}
        return {table: self.quantization[table] for _, _, table in components}, huffman

    def check_fineness(self, used: tuple[dict[int, bytes], dict[int, bytes]], finest: QuantizationTables) -> None:
        """A file of larger steps is no larger than ours would be."""
        tables = [np.frombuffer(used[0][table], np.uint8) for _, _, table in self.components]
        limits = [np.frombuffer(each, np.uint8) for each in finest]
        _require(all((steps >= limits[min(place, 1)]).all() for place, steps in enumerate(tables)))
        _require(tables[0].mean() >= _COARSER[self.sampling] * limits[0].mean())

    def written(self, used: tuple[dict[int, bytes], dict[int, bytes]]) -> bytes:
        """The file, in one fixed order."""
        quantization, huffman = used
        segments = [_segment(_QUANTIZATION, bytes([key]) + quantization[key]) for key in sorted(quantization)]
        segments.append(_segment(_BASELINE, self.frame))
        segments += [_segment(_HUFFMAN, bytes([key]) + huffman[key]) for key in sorted(huffman)]
        if self.restart != b"\0\0":
            segments.append(_segment(_RESTART, self.restart))
        segments.append(_segment(START_OF_SCAN, self.scan_header))
        return b"\xff\xd8" + _JFIF + b"".join(segments) + self.scan + b"\xff\xd9"


def _read(data: bytes) -> _Parts:
    parts = _Parts()
    for marker, start, end in header_segments(data):
        content = data[start:end]
        if marker == _BASELINE:
            _require(not parts.frame)
            parts.frame = content
        elif marker in _OTHER_FRAMES:
            raise _NotPlain
        elif marker == START_OF_SCAN:
            parts.scan_header, parts.scan = content, _scan(data, end)
        elif marker in _READERS:
            _READERS[marker](parts, content)
    _require(bool(parts.frame and parts.scan_header))
    return parts


def _scan(data: bytes, start: int) -> bytes:
    """The one scan's coded bytes; the next marker must be the end of the image."""
    end = _SCAN_END.search(data, start)
    if end is None or data[end.start() + 1 : end.start() + 2] != b"\xd9":
        raise _NotPlain
    return data[start : end.start()]


def _read_quantization(parts: _Parts, content: bytes) -> None:
    while content:
        _require(content[0] <= 3 and len(content) >= 65)  # the upper half of the byte: 16-bit steps
        parts.quantization[content[0]], content = content[1:65], content[65:]


def _read_huffman(parts: _Parts, content: bytes) -> None:
    while content:
        length = 16 + sum(content[1:17])
        _require(content[0] in (0x00, 0x01, 0x10, 0x11) and len(content) >= 1 + length)
        parts.huffman[content[0]], content = content[1 : 1 + length], content[1 + length :]


def _read_restart(parts: _Parts, content: bytes) -> None:
    _require(len(content) == 2)
    parts.restart = content


def _read_adobe(parts: _Parts, content: bytes) -> None:
    if content[:5] == b"Adobe":
        parts.adobe_transform = content[11]


_READERS: dict[int, Callable[[_Parts, bytes], None]] = {
    _QUANTIZATION: _read_quantization,
    _HUFFMAN: _read_huffman,
    _RESTART: _read_restart,
    _APP14: _read_adobe,
}


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _require(holds: bool) -> None:
    if not holds:
        raise _NotPlain
