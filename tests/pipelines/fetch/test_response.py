"""An answer is read strictly: lengths and chunk sizes are plain numbers, and no byte is taken past the cap."""

from __future__ import annotations

import socket
import time
import tracemalloc
from typing import Any, cast

import pytest

from lposekit.errors import Outcome
from pipelines.fetch.deadline import Deadline, Pace
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.response import BUFFER_BYTES, MAX_HEAD_BYTES, GuardedResponse
from tests.pipelines.fetch.conftest import MIB, Naps, quick_settings, rejection
from tests.support.raw_server import raw_server

pytestmark = pytest.mark.timeout(180)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def opener(**changes: object) -> GuardedOpener:
    return GuardedOpener(quick_settings(**changes), allow_private_addresses=True, sleep=Naps())


def body_of(answer: bytes) -> bytes:
    with raw_server(answer) as url:
        return opener().fetch(url).body


def refusal(answer: bytes, endless: bytes = b"", **changes: object) -> Outcome:
    with raw_server(answer, endless) as url:
        return rejection(opener(retries=0, **changes), url).outcome


# Mutation: http.client's own `read` for chunked bodies (-1 is read to the end: the peak is hundreds of MiB).
@pytest.mark.case(58)
def test_a_negative_chunk_size_is_refused_before_anything_is_read() -> None:
    tracemalloc.start()
    try:
        assert refusal(CHUNKED + b"-1\r\n", bytes(MIB)) is Outcome.SHORT_READ
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


# Mutations: `int(line, 16)` instead of the expression; no look at what follows a chunk.
@pytest.mark.case(58, 59)
@pytest.mark.parametrize("size", [b"-2", b"+2", b"0x2", b"1_0", b" 2", b"", b"2 2", b"g", b"f" * 17, b"2\r3"])
def test_a_chunk_size_that_is_no_plain_hex_number_is_a_short_read(size: bytes) -> None:
    assert refusal(CHUNKED + size + b"\r\nab\r\n0\r\n\r\n") is Outcome.SHORT_READ


@pytest.mark.case(58)
@pytest.mark.parametrize("rest", [b"abc\r\n0\r\n\r\n", b"ab", b"a", b"ab\r\n", b"ab\r\n0\r\n" + b"x: y\r\n" * 200])
def test_a_chunk_that_its_size_does_not_fit_is_a_short_read(rest: bytes) -> None:
    assert refusal(CHUNKED + b"2\r\n" + rest) is Outcome.SHORT_READ


@pytest.mark.case(58)
def test_chunks_with_extensions_and_a_trailer_are_read() -> None:
    sent = CHUNKED + b'2;a="b"\r\nab\r\n0003\r\ncde\r\nA \r\n0123456789\r\n0;x\r\nExpires: 0\r\n\r\n'
    assert body_of(sent) == b"abcde0123456789"


# Mutation: `left_bytes` is never lowered (the total time would end these, after gigabytes; a chunk never ends).
@pytest.mark.case(58)
@pytest.mark.parametrize(
    ("answer", "endless"),
    [
        (CHUNKED + b"fffffffffff\r\n", bytes(MIB)),
        (CHUNKED, b"1;" + b"x" * 4000 + b"\r\nx\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    ],
    ids=["one chunk", "more extensions than body", "interim answers"],
)
def test_an_answer_of_any_form_ends_at_its_allowance(answer: bytes, endless: bytes) -> None:
    assert refusal(answer, endless, total_timeout_s=20.0) is Outcome.TOO_BIG


# Mutation: `GuardedResponse.allow` ten times as much (of these bytes, only one in 4,000 is of the body).
@pytest.mark.case(58)
def test_bytes_are_counted_where_they_leave_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    receive = socket.socket.recv_into

    def counting(self: socket.socket, *arguments: Any) -> int:
        nonlocal taken
        num_bytes = receive(self, *arguments)
        taken += num_bytes
        return num_bytes

    monkeypatch.setattr(socket.socket, "recv_into", counting)
    padded = b"1;" + b"x" * 4000 + b"\r\nx\r\n"
    assert refusal(CHUNKED, padded, max_body_bytes=MIB) is Outcome.TOO_BIG
    assert MIB < taken <= 2 * MIB + MAX_HEAD_BYTES + BUFFER_BYTES


# Mutations: the expression without its class of digits; `values` a list of the first only.
@pytest.mark.case(60)
@pytest.mark.parametrize(
    "fields",
    [("1_0",), ("+2",), ("-2",), ("2", "3"), ("2, 3",), ("",), ("2 2",), ("\u0662",), ("9" * 19,)],
)
def test_a_length_that_is_no_plain_number_or_not_the_only_one_is_a_short_read(fields: tuple[str, ...]) -> None:
    lines = "".join(f"Content-Length: {value}\r\n" for value in fields).encode()
    assert refusal(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\nabcdefghijk") is Outcome.SHORT_READ


@pytest.mark.case(60)
def test_a_length_that_is_only_repeated_is_taken() -> None:
    assert body_of(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nab") == b"ab"


# Mutation: no loop in `begin`.
@pytest.mark.case(60)
@pytest.mark.parametrize("interim", [b"103 Early Hints", b"100 Continue", b"102 Processing"])
def test_interim_answers_are_passed_over(interim: bytes) -> None:
    hints = b"HTTP/1.1 " + interim + b"\r\nLink: </style.css>; rel=preload\r\n\r\n"
    assert body_of(hints + hints + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab") == b"ab"


# Mutation: no look at the transfer codings (the chunks' own framing would be the image).
@pytest.mark.case(60)
@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked, chunked", b"xchunked"])
def test_transfer_codings_other_than_chunked_are_refused(coding: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    assert refusal(answer) is Outcome.BAD_ENCODING


class ToldSocket:
    """A socket that remembers what it was told to wait."""

    def __init__(self, sock: socket.socket) -> None:
        self.makefile, self.recv_into, self.gettimeout = sock.makefile, sock.recv_into, sock.gettimeout
        self._sock = sock
        self.told_s: list[float] = []

    def settimeout(self, seconds: float) -> None:
        self.told_s.append(seconds)
        self._sock.settimeout(seconds)


def test_a_read_waits_no_longer_than_is_left_of_the_rows_time() -> None:
    # Mutations tried: the socket told at the first read alone; at none; at each; within 4 % not.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told, deadline = ToldSocket(ours), Deadline.start(100.0, 10.0)
        response = GuardedResponse(cast(socket.socket, told), deadline, Pace(0, 100.0))
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        response.begin()
        for left_s in (50.0, 50.0, 9.9, 9.7, 3.0):
            deadline.ends_at = time.monotonic() + left_s
            theirs.sendall(b"ab")
            assert response.read(2) == b"ab"
    assert told.told_s == [10.0, pytest.approx(9.7, abs=0.05), pytest.approx(3.0, abs=0.05)]
