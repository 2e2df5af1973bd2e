"""Reading a body that may be endless, cut, or a bomb."""

from __future__ import annotations

import http.client
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.response import READ_BYTES, GuardedResponse
from pipelines.fetch.retry import TryAgain, describe


def read_body(response: GuardedResponse, sink: BinaryIO, max_body_bytes: int, *, cut_at_cap: bool = False) -> int:
    """Write the decoded body to `sink` as it arrives and return its number of bytes.

    `max_body_bytes` holds for the body as sent and as decoded; a larger Content-Length is refused unread. With
    `cut_at_cap` a larger body is no failure: its beginning is kept, the rest is not read.
    Raises `Rejected`: TOO_BIG, BAD_ENCODING, SHORT_READ (another try may help).
    """
    decoder = _decoder_for(response.headers)
    if response.length is not None and response.length > max_body_bytes and not cut_at_cap:
        raise Rejected(Outcome.TOO_BIG, f"Content-Length {response.length} (limit {max_body_bytes})")
    response.allow(max_body_bytes)
    num_raw = num_decoded = 0
    while chunk := _read_chunk(response):
        num_raw += len(chunk)
        room = max_body_bytes - num_decoded
        decoded = decoder.decode(chunk, room)
        is_over = num_raw > max_body_bytes or len(decoded) > room
        if is_over and not cut_at_cap:
            raise Rejected(Outcome.TOO_BIG, f"body of more than {max_body_bytes} bytes, sent or decoded")
        sink.write(decoded[:room] if is_over else decoded)
        num_decoded += min(len(decoded), room)
        if is_over:
            return num_decoded
    if response.length:
        raise TryAgain(Outcome.SHORT_READ, f"body ends after {num_raw} bytes, {response.length} are missing")
    decoder.finish()
    return num_decoded


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(READ_BYTES)
    except TimeoutError as problem:
        raise Rejected(Outcome.TIMEOUT, "the body did not come to its end in time") from problem
    except (http.client.HTTPException, OSError) as problem:
        raise TryAgain(Outcome.SHORT_READ, f"in the middle of the body: {describe(problem)}") from problem


class _Decoder(Protocol):
    def decode(self, chunk: bytes, room: int) -> bytes:
        """Decode; may stop as soon as more than `room` bytes have come out."""
        ...

    def finish(self) -> None:
        """Raises `Rejected(BAD_ENCODING)` if the stream is not complete."""
        ...


class _Identity:
    def decode(self, chunk: bytes, room: int) -> bytes:
        return chunk

    def finish(self) -> None:
        pass


@dataclass(slots=True)
class _Inflate:
    """One gzip or deflate stream, decoded as far as there is room for it."""

    name: str
    stream: zlib._Decompress | None = None

    def decode(self, chunk: bytes, room: int) -> bytes:
        if self.stream is None:
            self.stream = zlib.decompressobj(_window_bits(self.name, chunk))
        try:
            decoded = self.stream.decompress(chunk, room + 1)
        except zlib.error as problem:
            raise Rejected(Outcome.BAD_ENCODING, f"not {self.name}: {problem}") from problem
        if self.stream.unused_data:
            raise Rejected(Outcome.BAD_ENCODING, f"bytes after the end of the {self.name} stream")
        return decoded

    def finish(self) -> None:
        if self.stream is not None and not self.stream.eof:
            raise Rejected(Outcome.BAD_ENCODING, f"the {self.name} stream has no end")


def _window_bits(name: str, first_bytes: bytes) -> int:
    """How zlib has to read the stream. Half of the servers that say deflate mean zlib, the others the bare stream."""
    if name == "gzip":
        return 16 + zlib.MAX_WBITS
    has_zlib_header = first_bytes[0] & 0x0F == 8 and int.from_bytes(first_bytes[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_zlib_header else -zlib.MAX_WBITS


def _decoder_for(headers: http.client.HTTPMessage) -> _Decoder:
    """We ask for identity. A server that encodes all the same may use one known encoding, not a stack of them."""
    text = ",".join(headers.get_all("Content-Encoding", []))
    names = [name.strip().lower().removeprefix("x-") for name in text.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return _Identity()
    if len(names) > 1 or names[0] not in ("gzip", "deflate"):
        raise Rejected(Outcome.BAD_ENCODING, f"Content-Encoding {text!r:.80}")
    return _Inflate(names[0])
