"""Reads what a native library prints to standard error.

decord's FFmpeg reports damage nowhere else: a broken frame is concealed, or replaced by a copy, and passed as sound.
"""

from __future__ import annotations

import os
import re
from types import TracebackType

# "[h264 @ 0x55d0] error while decoding MB 17 6"; those of the filter graph that decord builds around it say nothing
_LINE = re.compile(r"^\[([^\s\]]+) @ (?:0x)?[0-9a-fA-F]+\] (.*)$", re.MULTILINE)
_FILTERS = re.compile(r"^(in|out|swscaler|buffer\w*|format|scale\w*|auto_\w+|Parsed_\w+|transpose|\w?flip)$")


class NativeLog:
    """While it is open, standard error of the process goes into a file; what it says is dropped afterwards."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("native-log")
        self._stderr = -1
        self._read = 0
        self._complaint: str | None = None

    def __enter__(self) -> NativeLog:
        self._stderr = os.dup(2)
        os.dup2(self._fd, 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        os.close(self._fd)

    def complaint(self) -> str | None:
        """The first line of a decoder or demuxer so far, or None. Costs one `fstat` while nothing is printed."""
        size = os.fstat(self._fd).st_size
        if self._complaint is None and size > self._read:
            text = os.pread(self._fd, min(size - self._read, 2**20), self._read)
            whole_lines = text[: text.rfind(b"\n") + 1]
            self._read += len(whole_lines)
            self._complaint = first_complaint(whole_lines.decode(errors="replace"))
        return self._complaint


def first_complaint(text: str) -> str | None:
    """The first line in FFmpeg's log format that does not come from a filter."""
    for match in _LINE.finditer(text):
        if not _FILTERS.match(match[1]):
            return f"{match[1]}: {match[2]}"
    return None
