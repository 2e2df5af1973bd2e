"""What the bad server can do wrong: one function per first segment of the path."""

from __future__ import annotations

import datetime
import gzip
import json
import zlib
from collections.abc import Callable
from functools import cache
from typing import Protocol
from urllib.parse import parse_qsl

from tests.support.pages import Page, tiny_jpeg


class Conversation(Protocol):
    """What a misbehaviour sees of the server: the request, and ways to answer it."""

    path: str
    close_connection: bool

    def request_headers(self) -> dict[str, str]: ...

    def count(self) -> int:
        """How often this very path has been asked for, this time included."""
        ...

    def page(self, page: Page) -> None: ...

    def header(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        """A header of exactly these fields, and what of a body is given, in one write."""
        ...

    def write(self, data: bytes) -> None:
        """Raises ``OSError`` once the client has gone."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait, unless the server is stopping: then end the connection."""
        ...

    def hang_up(self) -> None:
        """End the connection with a reset."""
        ...


Behaviour = Callable[[Conversation, list[str]], None]
BEHAVIOURS: dict[str, Behaviour] = {}
"""First segment of the path to what it does; the other segments are its arguments."""


def _behaviour(name: str) -> Callable[[Behaviour], Behaviour]:
    def register(function: Behaviour) -> Behaviour:
        BEHAVIOURS[name] = function
        return function

    return register


@_behaviour("ok")
def _ok(talk: Conversation, arguments: list[str]) -> None:
    talk.page(Page(tiny_jpeg()))


@_behaviour("echo")
def _echo(talk: Conversation, arguments: list[str]) -> None:
    """The request's own header lines, as JSON."""
    talk.page(Page(json.dumps(talk.request_headers()).encode(), "application/json"))


@_behaviour("slow")
def _slow(talk: Conversation, arguments: list[str]) -> None:
    """/slow/SECONDS: a good answer, late."""
    talk.pause(float(arguments[0]))
    talk.page(Page(tiny_jpeg()))


@_behaviour("to")
def _to(talk: Conversation, arguments: list[str]) -> None:
    """/to?URL: a redirect to any place."""
    target = talk.path.partition("?")[2]
    talk.header(302, ("Location", target), ("Content-Length", "0"))


@_behaviour("loop")
def _loop(talk: Conversation, arguments: list[str]) -> None:
    talk.header(301, ("Location", "/loop"), ("Content-Length", "0"))


@_behaviour("hops")
def _hops(talk: Conversation, arguments: list[str]) -> None:
    """/hops/N: N redirects, then an image."""
    left = int(arguments[0])
    if left == 0:
        talk.page(Page(tiny_jpeg()))
    else:
        talk.header(307, ("Location", f"/hops/{left - 1}"), ("Content-Length", "0"))


@_behaviour("endless")
def _endless(talk: Conversation, arguments: list[str]) -> None:
    """/endless, /endless/chunked: zeros until somebody hangs up."""
    is_chunked = arguments[:1] == ["chunked"]
    talk.header(200, ("Transfer-Encoding", "chunked") if is_chunked else ("Connection", "close"))
    block = b"\0" * 65536
    while True:
        talk.write(b"10000\r\n" + block + b"\r\n" if is_chunked else block)


@_behaviour("declared-huge")
def _declared_huge(talk: Conversation, arguments: list[str]) -> None:
    """Content-Length: 50 GB, and then silence: whoever starts to read waits."""
    talk.header(200, ("Content-Length", str(50 * 10**9)))
    talk.pause(20)


@_behaviour("drip")
def _drip(talk: Conversation, arguments: list[str]) -> None:
    """/drip/SECONDS: a body of one byte per that many seconds (default 1); /drip/SECONDS/header: the header itself."""
    header = b"HTTP/1.1 200 x\r\nContent-Length: 100000\r\n\r\n"
    is_header = arguments[1:] == ["header"]
    if not is_header:
        talk.write(header)
    for byte in header[:-2] + b"X-Filler: x\r\n" * 1000 if is_header else bytes(100_000):
        talk.write(bytes([byte]))
        talk.pause(float(arguments[0]) if arguments else 1.0)


@_behaviour("silent")
def _silent(talk: Conversation, arguments: list[str]) -> None:
    """The header and a few bytes, then nothing."""
    talk.header(200, ("Content-Length", "1000"), body=b"abc")
    talk.pause(20)


@_behaviour("mute")
def _mute(talk: Conversation, arguments: list[str]) -> None:
    """The request is read and never answered."""
    talk.pause(20)


@_behaviour("garbage")
def _garbage(talk: Conversation, arguments: list[str]) -> None:
    """Not HTTP."""
    talk.write(b"220 smtp.example.org ready\r\n\r\n")
    talk.close_connection = True


@_behaviour("short")
def _short(talk: Conversation, arguments: list[str]) -> None:
    """Half of what Content-Length promised; /short/chunked: a chunked body without its end."""
    body = tiny_jpeg()
    if arguments[:1] == ["chunked"]:
        talk.header(200, ("Transfer-Encoding", "chunked"), body=b"%x\r\n" % len(body) + body[: len(body) // 2])
    else:
        talk.header(200, ("Content-Length", str(len(body))), body=body[: len(body) // 2])
    talk.close_connection = True


@_behaviour("reset")
def _reset(talk: Conversation, arguments: list[str]) -> None:
    """/reset: a reset instead of an answer; /reset/body: in the middle of one; /reset/once: only the first time."""
    if arguments[:1] == ["once"] and talk.count() > 1:
        talk.page(Page(tiny_jpeg()))
        return
    if arguments[:1] == ["body"]:
        talk.header(200, ("Content-Length", "100000"), body=bytes(1000))
        talk.pause(0.2)  # let the bytes be read: a reset discards what still lies in the receiver's buffer
    talk.hang_up()


@_behaviour("hang-up-after")
def _hang_up_after(talk: Conversation, arguments: list[str]) -> None:
    """A good answer that promises to keep the connection, which is then closed."""
    talk.page(Page(tiny_jpeg()))
    talk.close_connection = True


@_behaviour("status")
def _status(talk: Conversation, arguments: list[str]) -> None:
    """/status/503, /status/503/retry-after/2, .../retry-after/date: always this status."""
    talk.page(Page(b"sorry", "text/plain", _retry_after(arguments[1:]), status=int(arguments[0])))


@_behaviour("busy")
def _busy(talk: Conversation, arguments: list[str]) -> None:
    """/busy/503/2[/retry-after/1]: this status for the first 2 requests of this very path, then an image."""
    if talk.count() <= int(arguments[1]):
        talk.page(Page(b"busy", "text/plain", _retry_after(arguments[2:]), status=int(arguments[0])))
    else:
        talk.page(Page(tiny_jpeg()))


def _retry_after(arguments: list[str]) -> tuple[tuple[str, str], ...]:
    if not arguments:
        return ()
    value = arguments[1]
    if value == "date":
        value = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)).strftime(
            "%a, %d %b %Y %H:%M:%S GMT"
        )
    return (("Retry-After", value),)


@_behaviour("encoded")
def _encoded(talk: Conversation, arguments: list[str]) -> None:
    """/encoded/KIND: an encoding that nobody asked for. See `encoded_body`."""
    name, body = encoded_body(arguments[0])
    talk.page(Page(body, headers=(("Content-Encoding", name),)))


@cache
def encoded_body(kind: str) -> tuple[str, bytes]:
    """Content-Encoding and body of `/encoded/KIND`."""
    jpeg = tiny_jpeg()
    packed = gzip.compress(jpeg)
    match kind:
        case "gzip" | "x-gzip":
            return kind, packed
        case "deflate":
            return kind, zlib.compress(jpeg)
        case "bare-deflate":
            bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return "deflate", bare.compress(jpeg) + bare.flush()
        case "stacked":
            return "gzip, gzip", gzip.compress(packed)
        case "brotli":
            return "br", jpeg
        case "trailing":
            return "gzip", packed + b"trailing garbage"
        case "two-members":
            return "gzip", packed * 2
        case "cut":
            return "gzip", packed[:-12]
        case "not-gzip":
            return "gzip", jpeg
        case "bomb":
            return "gzip", gzip.compress(bytes(128 * 2**20), compresslevel=1)
    raise KeyError(kind)


@_behaviour("body")
def _body(talk: Conversation, arguments: list[str]) -> None:
    """/body/KIND: something else, served as image/jpeg. See `FOREIGN_BODIES`. /body/jpeg-as-html is an image."""
    if arguments[0] == "jpeg-as-html":
        talk.page(Page(tiny_jpeg(), "text/html"))
    else:
        talk.page(Page(FOREIGN_BODIES[arguments[0]]))


FOREIGN_BODIES = {
    "html": b"<!DOCTYPE html><html><body>Not found, but 200</body></html>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>',
    "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n",
    "mp4": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\0\x08mdat",
    "empty": b"",
}


@_behaviour("changing")
def _changing(talk: Conversation, arguments: list[str]) -> None:
    """Other content at every request."""
    count = talk.count()
    talk.page(Page(tiny_jpeg() + b"%d" % count))


@_behaviour("header")
def _header(talk: Conversation, arguments: list[str]) -> None:
    """/header?NAME=VALUE&NAME=VALUE: an image with these header fields (percent-encoded)."""
    talk.page(Page(tiny_jpeg(), headers=tuple(parse_qsl(talk.path.partition("?")[2]))))
