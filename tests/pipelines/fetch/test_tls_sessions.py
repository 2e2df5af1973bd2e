"""A further connection to a host resumes its TLS session, and none takes one on another name's word."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from lposekit.errors import Outcome
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.tls_sessions import TlsSessions
from tests.pipelines.fetch.conftest import names, opener_for, outcome, quick_settings
from tests.support.bad_server import BadServer
from tests.support.certificates import CertificateAuthority
from tests.support.pages import Page, tiny_jpeg

pytestmark = pytest.mark.timeout(180)

CLOSES = "/hang-up-after"
SAYS_SO = Page(tiny_jpeg(), headers=(("Connection", "close"),))


def resumed(context: ssl.SSLContext) -> int:
    """Connections to a server that resumed a session."""
    return context.session_stats()["hits"]


def opener_of(server: BadServer, authority: CertificateAuthority, *hosts: str) -> GuardedOpener:
    return GuardedOpener(
        quick_settings(ca_file=authority.ca_file, retries=0),
        resolver=names({host: ["127.0.0.1"] for host in hosts}),
        allowed_local=frozenset(f"{host}:{server.port}" for host in hosts),
    )


# Mutations: no session in `wrap_socket`; no `answered` in `send_get`; `sock = self.sock` after `getresponse` (then a
# server that announces its close is never resumed); `answered` before the answer (TLS 1.3 brings its session with it);
# no `is_wanted = False`.
@pytest.mark.parametrize("path", [CLOSES, "/says-so"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_from_the_third_on_connections_resume_the_session_of_the_second(
    authority: CertificateAuthority, version: ssl.TLSVersion, path: str
) -> None:
    context = authority.server_context("127.0.0.1")
    context.minimum_version = context.maximum_version = version
    with BadServer({"/says-so": SAYS_SO}, tls=context) as server:
        opener = opener_for(server, ca_file=authority.ca_file)
        known = []
        for _ in range(20):
            assert opener.fetch(f"{server.url}{path}").body == tiny_jpeg()
            known.append(opener.transport.sessions.find(server.url))
        assert server.num_connections == 20
        assert known[0] is None
        assert all(session is known[1] for session in known[1:])
    assert resumed(context) == 18


# Mutation: sessions by port alone (`find(str(self.url.port))`, the others alike).
def test_a_name_that_the_certificate_does_not_have_gains_nothing_from_another_ones_session(
    authority: CertificateAuthority,
) -> None:
    context = authority.server_context("a.test")
    with BadServer(tls=context) as server:
        opener = opener_of(server, authority, "a.test", "b.test")
        for _ in range(3):
            assert opener.fetch(server.url_as("a.test") + CLOSES).body == tiny_jpeg()
            assert outcome(opener, server.url_as("b.test") + CLOSES) is Outcome.TLS
        assert opener.fetch(server.url_as("a.test") + CLOSES).body == tiny_jpeg()
    assert resumed(context) == 2


# Mutation: `_session_of` without `session.id` (a session that cannot be resumed is copied, and offered for nothing).
def test_a_server_that_resumes_nothing_is_fetched_from_all_the_same(authority: CertificateAuthority) -> None:
    context = authority.server_context("127.0.0.1")
    context.num_tickets = 0
    with BadServer(tls=context) as server:
        opener = opener_for(server, ca_file=authority.ca_file, retries=0)
        for _ in range(6):
            assert opener.fetch(f"{server.url}{CLOSES}").attempts == 1
            assert opener.transport.sessions.find(server.url) is None
        assert server.num_connections == 6
    assert resumed(context) == 0


# Mutations: no `refused` (then the renewed server resumes none), or `failed` in its place.
def test_a_server_that_forgot_the_session_shows_its_certificate_again(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    stranger, renewed = CertificateAuthority.create(tmp_path), authority.server_context("127.0.0.1")
    with BadServer(tls=authority.server_context("127.0.0.1")) as server:
        opener = opener_for(server, ca_file=authority.ca_file)
        fetch_thrice(opener, server)
        server.running.tls = renewed
        fetch_thrice(opener, server)
        fetch_thrice(opener, server)
        assert resumed(renewed) == 4
        server.running.tls, num_hits = stranger.server_context("127.0.0.1"), len(server.hits)
        assert outcome(opener, f"{server.url}{CLOSES}") is Outcome.TLS
        assert len(server.hits) == num_hits


def fetch_thrice(opener: GuardedOpener, server: BadServer) -> None:
    assert [opener.fetch(f"{server.url}{CLOSES}").body for _ in range(3)] == [tiny_jpeg()] * 3


def hang_up(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def speak_plain(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    sock.close()


def keep_silent(sock: socket.socket) -> None:
    time.sleep(1.5)


def treat_third(context: ssl.SSLContext, treat: Callable[[socket.socket], None]) -> Callable[..., ssl.SSLSocket]:
    """A server's `wrap_socket` that shakes hands with all clients but the third."""
    real, seen = context.wrap_socket, list[socket.socket]()

    def wrap(sock: socket.socket, server_side: bool) -> ssl.SSLSocket:
        seen.append(sock)
        if len(seen) == 3:
            sock.recv(100)  # of the client's first words: before them it would be a connection that failed
            treat(sock)
            raise ConnectionAbortedError("on purpose")
        return real(sock, server_side=server_side)

    return wrap


# Mutations: `raise` whatever the problem; `except Rejected` alone; `refused` in place of `failed` (it resumes again).
@pytest.mark.parametrize("treat", [hang_up, reset, speak_plain])
def test_a_server_that_breaks_off_a_resumed_handshake_is_asked_anew_within_the_attempt(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, treat: Callable[[socket.socket], None]
) -> None:
    context = authority.server_context("127.0.0.1")
    monkeypatch.setattr(context, "wrap_socket", treat_third(context, treat))
    with BadServer(tls=context) as server:
        opener = opener_for(server, ca_file=authority.ca_file, retries=0)
        assert [opener.fetch(f"{server.url}{CLOSES}").attempts for _ in range(6)] == [1] * 6
        assert server.num_connections == 7
    assert resumed(context) == 0


# Mutations: no `failed` in `send_get` (all further rows need a second attempt); `refused` in its place (some do).
def test_a_server_that_hangs_up_once_a_session_is_resumed_is_offered_none_again(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = authority.server_context("127.0.0.1")
    real = context.wrap_socket

    def wrap(sock: socket.socket, server_side: bool) -> ssl.SSLSocket:
        secured = real(sock, server_side=server_side)
        if secured.session_reused:
            secured.close()
            raise ConnectionAbortedError("on purpose")
        return secured

    monkeypatch.setattr(context, "wrap_socket", wrap)
    with BadServer(tls=context) as server:
        opener = opener_for(server, ca_file=authority.ca_file)
        assert [opener.fetch(f"{server.url}{CLOSES}").attempts for _ in range(7)] == [1, 1, 2, 1, 1, 1, 1]
    assert resumed(context) == 1


# Mutation: `is_wanted=False` in `failed`.
def test_a_server_that_resumed_and_then_fails_once_is_resumed_again(authority: CertificateAuthority) -> None:
    context = authority.server_context("127.0.0.1")
    with BadServer(tls=context) as server:
        opener = opener_for(server, ca_file=authority.ca_file)
        fetch_thrice(opener, server)
        assert opener.fetch(f"{server.url}/reset/once").attempts == 2
        fetch_thrice(opener, server)
    assert (
        resumed(context) == 4
    )  # the third, the one that was reset, and two after the one that its second try left open


# Mutation: `except ValueError` left out.
def test_a_session_that_cannot_be_copied_is_none() -> None:
    class Huge:
        session_reused = False

        @property
        def session(self) -> ssl.SSLSession:
            raise ValueError("i2d() failed.")

    sessions = TlsSessions()
    for _ in range(3):
        sessions.answered("https://h.test:443", cast(ssl.SSLSocket, Huge()))
        assert sessions.find("https://h.test:443") is None


# Mutation: `failed` after the test for a timeout.
def test_a_server_that_never_answers_a_resumed_handshake_gets_a_full_one_from_the_next_row(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = authority.server_context("127.0.0.1")
    monkeypatch.setattr(context, "wrap_socket", treat_third(context, keep_silent))
    with BadServer(tls=context) as server:
        opener = opener_for(server, ca_file=authority.ca_file, retries=0)
        assert [opener.fetch(f"{server.url}{CLOSES}").attempts for _ in range(2)] == [1, 1]
        assert outcome(opener, f"{server.url}{CLOSES}") is Outcome.TIMEOUT
        assert server.num_connections == 3
        assert opener.fetch(f"{server.url}{CLOSES}").body == tiny_jpeg()
    assert resumed(context) == 0


# Mutations: no `popitem`; no `move_to_end` in `find`.
@pytest.mark.case(87)
def test_of_sessions_those_used_last_are_kept(authority: CertificateAuthority) -> None:
    hosts = [f"h{number}.test" for number in range(6)]
    context = authority.server_context(*hosts)
    with BadServer(tls=context) as server:
        opener = opener_of(server, authority, *hosts)
        opener.transport.sessions.max_origins = 3
        for number in (0, 0, 1, 1, 2, 2, 0, 3, 0, 1):
            opener.fetch(server.url_as(hosts[number]) + CLOSES)
        assert resumed(context) == 2  # twice the first host: it was used last; the second one had to go
        assert len(opener.transport.sessions._known) == 3
