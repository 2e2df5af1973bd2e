"""An encoding nobody asked for is decoded within the cap, or refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import socket
import threading
import tracemalloc

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.body import read_body
from pipelines.fetch.deadline import Deadline, Pace
from pipelines.fetch.response import GuardedResponse
from tests.pipelines.fetch.conftest import MIB, opener_for, outcome, rejection
from tests.support.bad_server import BadServer
from tests.support.misbehaviours import encoded_body
from tests.support.pages import Page, tiny_jpeg

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("kind", ["gzip", "x-gzip", "deflate", "bare-deflate"])
def test_one_known_encoding_is_decoded(server: BadServer, kind: str) -> None:
    assert opener_for(server).fetch(f"{server.url}/encoded/{kind}").body == tiny_jpeg()


# Mutations: take the first of several names; let unknown names pass; no look at `unused_data`; an empty `finish`.
@pytest.mark.parametrize("kind", ["stacked", "brotli", "trailing", "two-members", "cut", "not-gzip"])
@pytest.mark.case(9)
def test_a_stacked_unknown_cut_or_followed_encoding_is_refused(server: BadServer, kind: str) -> None:
    assert outcome(opener_for(server), f"{server.url}/encoded/{kind}") is Outcome.BAD_ENCODING
    assert len(server.hits) == 1


@pytest.mark.case(9)
def test_bytes_that_follow_the_stream_in_a_later_packet_are_refused() -> None:
    gzip_then_junk = gzip.compress(b"x" * 10) + bytes(200_000)
    with BadServer({"/late": Page(gzip_then_junk, headers=(("Content-Encoding", "gzip"),))}) as server:
        assert outcome(opener_for(server), f"{server.url}/late") is Outcome.BAD_ENCODING


# Mutation: `decompress(chunk)` without a limit, or no check of `num_decoded`.
@pytest.mark.case(9)
def test_a_gzip_bomb_stops_at_the_cap(server: BadServer) -> None:
    opener = opener_for(server)
    encoded_body("bomb")  # the server makes its body now, outside the measurement
    sink = io.BytesIO()
    tracemalloc.start()
    try:
        why = rejection(opener, f"{server.url}/encoded/bomb", into=sink)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert why.outcome is Outcome.TOO_BIG
    assert len(sink.getvalue()) <= MIB
    assert peak_bytes < 8 * MIB


def test_an_empty_body_is_empty_whatever_its_encoding() -> None:
    with BadServer({"/empty": Page(b"", headers=(("Content-Encoding", "gzip"),))}) as server:
        assert opener_for(server).fetch(f"{server.url}/empty").body == b""


def read(body: bytes, cap_bytes: int, *headers: str) -> bytes:
    """What `read_body` takes of an answer without a Content-Length, which ends with its connection."""
    head = "\r\n".join(["HTTP/1.1 200 OK", "Connection: close", *headers, "", ""]).encode()
    server, client = socket.socketpair()
    with server, client:
        threading.Thread(target=_send, args=(server, head + body)).start()
        response = GuardedResponse(client, Deadline.start(5.0, 5.0), Pace(0, 5.0))
        response.begin()
        sink = io.BytesIO()
        read_body(response, sink, cap_bytes)
        return sink.getvalue()


def _send(server: socket.socket, answer: bytes) -> None:
    with contextlib.suppress(OSError):
        server.sendall(answer)
        server.shutdown(socket.SHUT_WR)


# Mutations: `>=` in place of `>`, as sent and as decoded; `decompress(chunk, room)`, one byte too few to notice.
@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_body_of_exactly_the_cap_is_taken_and_one_byte_more_is_not(size: int) -> None:
    body = bytes(size)
    assert read(body, size) == body
    assert read(gzip.compress(body), size, "Content-Encoding: gzip") == body
    for sent, headers in ((body, ()), (gzip.compress(body), ("Content-Encoding: gzip",))):
        with pytest.raises(Rejected) as refused:
            read(sent, size - 1, *headers)
        assert refused.value.outcome is Outcome.TOO_BIG


# Mutation: only the decoded bytes are counted.
def test_the_cap_holds_for_the_bytes_as_sent_too() -> None:
    noise = random.Random(0).randbytes(1000)
    sent = gzip.compress(noise)
    assert len(sent) > 1000
    assert read(sent, len(sent), "Content-Encoding: gzip") == noise
    with pytest.raises(Rejected) as refused:
        read(sent, len(sent) - 1, "Content-Encoding: gzip")
    assert refused.value.outcome is Outcome.TOO_BIG
