"""Text for a terminal: what strangers wrote into names and messages must not steer it."""

from __future__ import annotations

_KEPT = "\n\t"
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode("ascii")
    for code in (*range(0x20), *range(0x7F, 0xA0), *_BIDI)
    if chr(code) not in _KEPT
}
"""Control characters (escape sequences begin with one), and those that turn the direction of a line."""


def printable(text: str) -> str:
    """The text with control characters written out: `\\x1b`. Line breaks and tabs stay."""
    return text.translate(_ESCAPES)
