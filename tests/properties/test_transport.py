"""Whatever a list or a server says, the transport answers with an address, bytes within the cap, or a named reason."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.addresses import is_public
from pipelines.fetch.deadline import Deadline, Pace
from pipelines.fetch.response import GuardedResponse
from pipelines.fetch.urls import parse_web_url, redirect_target
from tests.properties.strategies import steady

CAP = 1000
hosts = st.sampled_from(["example.org", "[::1]", "127.0.0.1", "0x7f.1", "b\u00fccher.example", "a..b", "", "-", "a_b"])
parts = st.text(st.sampled_from("abc/%?#@:[]\\ \t\r\n\x00\u00e9\u202e&=.;,'\"<>{}|^`~"), max_size=30)
addresses = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "https:", "HTTP://", "ftp://", "//", ""]),
    parts,
    hosts,
    parts,
    parts,
)


def names_reason(rejected: Rejected, outcome: Outcome) -> None:
    assert rejected.outcome is outcome
    assert rejected.detail


@pytest.mark.case(1, 65)
@steady
@given(addresses)
def test_any_address_is_refused_or_sent_without_user_fragment_or_space(text: str) -> None:
    # Mutation tried: `parts.url` in place of `parts.request_uri` -> red.
    try:
        url = parse_web_url(text)
    except Rejected as rejected:
        names_reason(rejected, Outcome.BAD_URL)
        return
    assert url.scheme in ("http", "https")
    assert re.fullmatch(r"/[!-~]*", url.target)
    assert "#" not in url.target
    assert re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+(%25.*)?", url.host)
    assert parse_web_url(str(url)) == url


@pytest.mark.case(65)
@steady
@given(st.text(st.characters(exclude_characters="/?#\\\\", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_no_user_of_an_address_is_ever_sent(user: str) -> None:
    # Mutation tried: `parts.auth` not looked at -> red.
    with pytest.raises(Rejected):
        parse_web_url(f"http://{user}@example.org/")


@pytest.mark.case(5)
@steady
@given(st.text(st.characters(max_codepoint=255), max_size=60) | addresses)
def test_any_location_stays_in_the_web(location: str) -> None:
    try:
        url = redirect_target(parse_web_url("http://example.org/a/b"), location)
    except Rejected as rejected:
        names_reason(rejected, Outcome.REDIRECT)
        return
    assert url.scheme in ("http", "https")


@pytest.mark.case(2, 63)
@steady
@given(st.ip_addresses(v=4))
def test_an_address_is_as_public_within_ipv6_as_by_itself(address: ipaddress.IPv4Address) -> None:
    for text in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert not is_public(ipaddress.ip_address(text)) or is_public(address)


@contextmanager
def answered(raw: bytes) -> Iterator[GuardedResponse]:
    """The answer that these bytes are, as it comes from a socket."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            try:
                theirs.sendall(raw)
            except OSError:
                return

    sender = threading.Thread(target=send)
    sender.start()
    response = GuardedResponse(ours, Deadline.start(5, 5), Pace(1.0, 60.0), method="GET")
    try:
        yield response
    finally:
        response.close()
        ours.close()
        sender.join()


def body_of(raw: bytes) -> bytes | str:
    """The body, or the name of the reason why there is none."""
    with answered(raw) as response:
        try:
            response.allow(CAP)
            response.begin()
            body = b""
            while len(body) <= CAP and (part := response.read(200)):
                body += part
            return body
        except Rejected as rejected:
            return rejected.outcome.value
        except (http.client.HTTPException, OSError) as error:
            return type(error).__name__


heads = st.just(["Transfer-Encoding: chunked"]) | st.lists(
    st.sampled_from(
        [
            *(
                "Content-Length: 5",
                "Content-Length: -1",
                "Content-Length: 1_0",
                "Content-Length: 5, 5",
                "Content-Length: +5",
            ),
            *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Connection: close", "X: \xff", ": :"),
            *("Content-Length: 99999999999999999999", " folded", "no colon"),
        ]
    ),
    max_size=4,
)
sizes = st.sampled_from(
    [b"5", b"0", b"-1", b"-2", b"+5", b"0x5", b"5_0", b"5;x=y", b"fffffffffffffff", b"", b" 5", b"a"]
)
statuses = st.just(b"200 OK") | st.sampled_from([b"103 Hints", b"200", b"abc", b"999 x"])
chunks = st.lists(st.tuples(sizes, st.binary(max_size=12), st.sampled_from([b"\r\n", b"\n", b""])), max_size=5)


@pytest.mark.case(58, 59, 60)
@steady
@given(
    st.sampled_from([b"200 OK", b"200 OK", b"200 OK", b"103 Hints", b"200", b"abc", b"999 x"]),
    heads,
    chunks,
    st.binary(max_size=30),
)
def test_any_answer_ends_in_bytes_within_the_cap_or_a_named_reason(
    status: bytes, lines: list[str], parts: list[tuple[bytes, bytes, bytes]], rest: bytes
) -> None:
    # Mutation tried: `int(size, 16)` of whatever the line holds -> red (ValueError); http.client's own chunks -> red.
    head = b"".join(line.encode("latin-1") + b"\r\n" for line in lines)
    body = b"".join(size + b"\r\n" + data + end for size, data, end in parts)
    answer = body_of(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body + rest)
    assert isinstance(answer, str) or len(answer) <= CAP + 200


@pytest.mark.case(58)
@steady
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6), st.sampled_from([b"", b";a=b", b" "]))
def test_chunks_come_back_as_the_body_that_they_were_cut_from(parts: list[bytes], extension: bytes) -> None:
    # Mutation tried: `_chunk_left` that keeps what was read of it -> red.
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts) + b"0\r\n\r\n"
    assert body_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body) == b"".join(parts)
