"""One request to one host: a checked connection, kept or new, and an answer whose body is still to be read."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.addresses import AddressGuard
from pipelines.fetch.connection import GuardedConnection, make_tls_context
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.pool import HostSlots, IdleConnections
from pipelines.fetch.response import GuardedResponse
from pipelines.fetch.resting import RestingHosts
from pipelines.fetch.retry import TryAgain, describe
from pipelines.fetch.settings import FetchSettings
from pipelines.fetch.tls_sessions import TlsSessions
from pipelines.fetch.urls import WebUrl

_DRAIN_BYTES = 16 * 1024


@dataclass(slots=True)
class Transport:
    """Connections, slots and certificates, shared by all threads of a process (and by robots.txt and images)."""

    settings: FetchSettings
    guard: AddressGuard
    slots: HostSlots
    idle: IdleConnections
    resting: RestingHosts
    tls: ssl.SSLContext | None = None
    sessions: TlsSessions = field(default_factory=TlsSessions)
    _tls_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def answer(self, url: WebUrl, deadline: Deadline) -> Iterator[GuardedResponse]:
        """Send a GET and yield the answer, header read. One of the host's slots is held until the block ends.

        The connection is kept for the next request only if nothing of this answer can be left in it.
        Raises `Rejected`: PRIVATE_ADDRESS, DNS, CONNECT, TLS, TIMEOUT; at once where the host rests.
        """
        with self.slots.hold(url.host, deadline), self.watched(url.host, deadline):
            connection, response = self._request(url, deadline)
            is_reusable = False
            try:
                yield response
                is_reusable = True
            except Rejected:
                is_reusable = response.status >= 300  # nothing of its page was read yet
                raise
            finally:
                if is_reusable and _is_drained(response):
                    self.idle.put(connection)
                else:
                    response.close()
                    connection.close()

    @contextmanager
    def watched(self, host: str, deadline: Deadline) -> Iterator[None]:
        """Note whether the host answers the request made in this block; raises at once where it rests.

        A timeout after a moment is that of a row whose time was spent elsewhere.
        """
        self.resting.check(host, deadline)
        started_at = time.monotonic()
        try:
            yield
        except Rejected as problem:
            waited_s = time.monotonic() - started_at
            if problem.outcome is not Outcome.TIMEOUT:
                self.resting.answered(host)
            elif waited_s >= min(self.settings.idle_timeout_s, self.settings.connect_timeout_s) / 2:
                self.resting.timed_out(host, problem, deadline)
            raise
        self.resting.answered(host)

    def _request(self, url: WebUrl, deadline: Deadline) -> tuple[GuardedConnection, GuardedResponse]:
        kept = self.idle.take(url.origin)
        if kept is not None:
            try:
                return kept, self._send(kept, url, deadline)
            except TryAgain:
                pass  # the server closed the connection while it rested: that is no failed attempt
        tls = self._tls_context() if url.scheme == "https" else None
        fresh = GuardedConnection(
            url, self.guard, tls, self.sessions, self.settings.connect_timeout_s, self.settings.min_bytes_per_s
        )
        return fresh, self._send(fresh, url, deadline)

    def _send(self, connection: GuardedConnection, url: WebUrl, deadline: Deadline) -> GuardedResponse:
        connection.deadline = deadline
        headers = {"User-Agent": self.settings.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        where = url.authority
        try:
            return connection.send_get(url.target, headers)
        except Rejected:
            connection.close()
            raise
        except TimeoutError as problem:
            connection.close()
            raise Rejected(Outcome.TIMEOUT, f"{where}: no answer in time") from problem
        except (http.client.HTTPException, OSError) as problem:
            connection.close()
            raise TryAgain(Outcome.CONNECT, f"{where}: {describe(problem)}") from problem

    def _tls_context(self) -> ssl.SSLContext:
        with self._tls_lock:
            if self.tls is None:
                self.tls = make_tls_context(self.settings.ca_file)
            return self.tls


def _is_drained(response: http.client.HTTPResponse) -> bool:
    """True when the answer has been read to its end; a short rest (the page of a 404) is read away."""
    if response.will_close:
        return False
    if not response.isclosed() and response.length is not None and response.length <= _DRAIN_BYTES:
        try:
            response.read()
        except (http.client.HTTPException, OSError, Rejected):
            return False
    return response.isclosed()
