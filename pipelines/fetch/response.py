"""One answer of a server, read strictly and never past its allowance.

http.client reads what a server means; a hostile one may mean nothing: it takes a chunk size of -1 as "to the end",
`1_0` as a length, and the first of two lengths. Every byte of every answer passes `_CountedReader`, whatever is made of
it above.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
from typing import Any

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.deadline import Deadline, Pace, limit_wait

BUFFER_BYTES = 16 * 1024
"""One TLS record: what is read beyond it goes to its place without a stay in the buffer."""
READ_BYTES = 256 * 1024
MAX_HEAD_BYTES = 256 * 1024
"""What may come before the body is asked for: interim answers and the header; rests of an error page too."""
_MAX_LINE = 4096
_MAX_TRAILER_LINES = 100
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LENGTH = re.compile(r"[0-9]{1,18}")


class GuardedResponse(http.client.HTTPResponse):
    """An answer whose reads mind the deadline and its server's pace, and end at the allowance (see `allow`)."""

    def __init__(self, sock: socket.socket, deadline: Deadline, pace: Pace, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self._counted = _CountedReader(raw, sock, deadline, pace)
        self.fp = io.BufferedReader(self._counted, BUFFER_BYTES)  # pyright: ignore[reportArgumentType]
        self._chunk_left = 0
        self._has_chunk = False

    def allow(self, num_bytes: int) -> None:
        """Let `num_bytes` more come from the socket, and as much again for the sizes of chunks."""
        self._counted.left_bytes += 2 * num_bytes + BUFFER_BYTES

    def begin(self) -> None:
        """Read the header. Interim answers (103 Early Hints) are passed over.

        Raises:
            Rejected: SHORT_READ for lengths that contradict themselves, BAD_ENCODING for unknown transfer codings.
        """
        super().begin()
        while 100 <= self.status < 200 and self.status != http.client.SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment]  # how http.client says that none was read
            super().begin()
        _check_length(self.headers.get_all("Content-Length", []))
        coding = ",".join(self.headers.get_all("Transfer-Encoding", [])).strip().lower()
        if not self.chunked and coding not in ("", "identity"):
            raise Rejected(Outcome.BAD_ENCODING, f"Transfer-Encoding {coding!r:.80}")

    def read(self, amt: int | None = None) -> bytes:
        """As http.client's; a chunked body is read by the stricter rules below."""
        if self.fp is None or not self.chunked:
            return super().read(amt)
        if amt is None:
            return b"".join(iter(lambda: self.read(READ_BYTES), b""))
        if not self._chunk_left and not self._next_chunk():
            return b""
        wanted = min(amt, self._chunk_left)
        data = self.fp.read(wanted)
        if len(data) < wanted:
            raise http.client.IncompleteRead(data, wanted - len(data))
        self._chunk_left -= wanted
        return data

    def _next_chunk(self) -> bool:
        """Read the size of the next chunk; False, and the answer closed, after the last one."""
        if self._has_chunk and self.fp.readline(3) not in (b"\r\n", b"\n"):
            raise Rejected(Outcome.SHORT_READ, "a chunk is longer than its size says")
        line = self.fp.readline(_MAX_LINE)
        if not line:
            raise http.client.IncompleteRead(b"")
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise Rejected(Outcome.SHORT_READ, f"not a chunk size: {line!r:.60}")
        self._has_chunk, self._chunk_left = True, int(size[1], 16)
        if not self._chunk_left:
            self._read_trailer()
            self.close()
        return self._chunk_left > 0

    def _read_trailer(self) -> None:
        for _ in range(_MAX_TRAILER_LINES):
            if self.fp.readline(_MAX_LINE) in (b"\r\n", b"\n", b""):
                return
        raise Rejected(Outcome.SHORT_READ, f"more than {_MAX_TRAILER_LINES} lines after the last chunk")


def _check_length(listed: list[str]) -> None:
    """A proxy may repeat the header, or the value within it; other numbers, or none, leave no end to rely on."""
    values = {value.strip() for line in listed for value in line.split(",")}
    if len(values) > 1 or not all(_LENGTH.fullmatch(value) for value in values):
        raise Rejected(Outcome.SHORT_READ, f"Content-Length {', '.join(sorted(values))!r:.80}")


class _CountedReader(io.RawIOBase):
    """Counts every byte of the socket; asks the deadline before each read, and how fast they come after it."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline, pace: Pace) -> None:
        self._raw = raw  # keeps the socket open until the answer is closed
        self._sock = sock
        self._deadline = deadline
        self._pace = pace
        self.left_bytes = MAX_HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.left_bytes <= 0:
            raise Rejected(Outcome.TOO_BIG, "more bytes than its header and its body may have")
        limit_wait(self._sock, self._deadline.next_wait_s())
        num_bytes = self._sock.recv_into(buffer, min(len(buffer), self.left_bytes))
        if num_bytes:
            self.left_bytes -= num_bytes
            self._pace.note(num_bytes)
        return num_bytes

    def close(self) -> None:
        self._raw.close()
        super().close()
