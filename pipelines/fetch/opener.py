"""The transport guard: the only way in which anything of a URL list is fetched.

`GuardedOpener.fetch` is used directly (videos, robots.txt) and, through `pipelines.image.engine`, by
img2dataset's Downloader. What it promises, for hostile lists, servers and name servers alike:

- http(s) only; every hop's addresses are checked and the checked one is dialled (`addresses`, `connection`,
  `transport`);
- at most `max_redirects` hops; no user names, passwords, cookies or referrers travel;
- every row ends within its total time, whatever the server does (`deadline`), and no host gets more than its share of
  connections (`pool`);
- a body is never larger than the cap, as sent or as decoded (`body`);
- temporary failures are tried again a bounded number of times, as late as the server asks (`retry`); meanwhile no
  other row asks it either, nor for a while a host that only lets requests time out (`resting`).
"""

from __future__ import annotations

import http.client
import io
import itertools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.addresses import AddressGuard, Resolver, SystemResolver
from pipelines.fetch.body import read_body
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.pool import HostSlots, IdleConnections
from pipelines.fetch.response import GuardedResponse
from pipelines.fetch.resting import RestingHosts
from pipelines.fetch.retry import RetryPolicy, TryAgain, status_problem
from pipelines.fetch.settings import FetchSettings
from pipelines.fetch.transport import Transport
from pipelines.fetch.urls import WebUrl, parse_web_url, redirect_target

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete answer. `body` is empty when it went `into` a file; `num_bytes` counts it either way."""

    body: bytes
    final_url: str
    http_status: int
    headers: http.client.HTTPMessage
    attempts: int
    num_bytes: int


class FetchRules(Protocol):
    """What may be fetched and kept, beyond what is safe. Each method raises `Rejected` to turn the row down."""

    def check_request(self, url: WebUrl, deadline: Deadline) -> None:
        """Called before every hop, redirects included."""
        ...

    def check_headers(self, headers: http.client.HTTPMessage) -> None:
        """Called before the body is read."""
        ...

    def check_body(self, body: bytes) -> None:
        """Called with a complete body. What was written `into` a file is for the caller to check."""
        ...


class NoRules:
    """Everything that is safe is allowed."""

    def check_request(self, url: WebUrl, deadline: Deadline) -> None:
        pass

    def check_headers(self, headers: http.client.HTTPMessage) -> None:
        pass

    def check_body(self, body: bytes) -> None:
        pass


class GuardedOpener:
    """Fetches URLs for many threads.

    `allow_private_addresses` lifts the address check; it is an argument and nothing else, so that no file and no
    environment variable can lift it. `allowed_local`: exact `host:port` pairs that may be on loopback (a server
    of this very process). `resolver`: name to addresses, default the system's. `ssl_context`: default made from
    the settings' `ca_file`, once. `transport`: share the connections of another opener; the arguments before it
    are not used then. `sleep`: how back-off waits.
    """

    def __init__(
        self,
        settings: FetchSettings,
        *,
        allow_private_addresses: bool = False,
        allowed_local: frozenset[str] = frozenset(),
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        transport: Transport | None = None,
        rules: FetchRules | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.rules = rules or NoRules()
        self.transport = transport or Transport(
            settings,
            AddressGuard(
                resolver or SystemResolver(settings.connect_timeout_s), allow_private_addresses, allowed_local
            ),
            HostSlots(settings.per_host_connections),
            IdleConnections(max_connections=2 * settings.threads),
            RestingHosts(settings.host_timeouts, settings.host_rest_s),
            ssl_context,
        )
        self._retry = RetryPolicy(settings.retries)
        self._sleep = sleep

    def fetch(
        self,
        url: str,
        *,
        max_body_bytes: int | None = None,
        into: BinaryIO | None = None,
        cut_at_cap: bool = False,
        deadline: Deadline | None = None,
    ) -> Fetched:
        """Fetch one URL, following redirects and trying again where that may help.

        `max_body_bytes` replaces the settings' cap. With `into` (a seekable file) the body is written there as it
        arrives; after a failure the file holds the beginning of what had come. `cut_at_cap`: of a larger body, take the
        beginning.
        `deadline`: the clock of a row that this fetch is part of; default: a new one.
        Raises `Rejected` with one of the outcomes of `lposekit.errors`; after a failure that is tried again
        (`TryAgain`) the detail counts the attempts.
        """
        first_hop = parse_web_url(url)
        clock = deadline or Deadline.start(self.settings.total_timeout_s, self.settings.idle_timeout_s)
        cap_bytes = self.settings.max_body_bytes if max_body_bytes is None else max_body_bytes
        sink = _Sink.over(into, cap_bytes, cut_at_cap)
        for attempt in itertools.count(1):
            try:
                response, final_url, num_bytes = self._follow(first_hop, clock, sink)
                return Fetched(sink.body(), str(final_url), response.status, response.headers, attempt, num_bytes)
            except TryAgain as problem:
                wait_s = self._retry.wait_s(problem, attempt, clock.remaining_s())
                if wait_s is None:
                    raise TryAgain(problem.outcome, f"{problem.detail} (attempt {attempt})") from problem
            self._sleep(wait_s)
            sink.restart()
        raise AssertionError("itertools.count never ends")

    def close(self) -> None:
        """Close the connections at rest."""
        self.transport.idle.close()

    def _follow(self, url: WebUrl, deadline: Deadline, sink: _Sink) -> tuple[GuardedResponse, WebUrl, int]:
        for _ in range(self.settings.max_redirects + 1):
            self.transport.resting.check(url.host)
            self.rules.check_request(url, deadline)
            with self.transport.answer(url, deadline) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    return response, url, self._keep(url, response, sink)
            url = redirect_target(url, location)
        raise Rejected(Outcome.REDIRECT, f"more than {self.settings.max_redirects} redirects")

    def _keep(self, url: WebUrl, response: GuardedResponse, sink: _Sink) -> int:
        if response.status < 200 or 300 <= response.status < 400:
            raise Rejected(Outcome.REDIRECT, f"status {response.status} leads nowhere")
        if response.status >= 400:
            problem = status_problem(response.status, response.headers.get("Retry-After"))
            self.transport.resting.asked_for(url.host, problem)
            raise problem
        if response.status == 206:
            raise Rejected(Outcome.SHORT_READ, "status 206: a part that nobody asked for")
        self.rules.check_headers(response.headers)
        num_bytes = read_body(response, sink.file, sink.cap_bytes, cut_at_cap=sink.cut_at_cap)
        if sink.is_memory:
            self.rules.check_body(sink.body())
        return num_bytes


@dataclass(slots=True)
class _Sink:
    """Where a body goes, and how much of it: memory, or the caller's file from its present position on."""

    file: BinaryIO
    start: int
    is_memory: bool
    cap_bytes: int
    cut_at_cap: bool

    @classmethod
    def over(cls, into: BinaryIO | None, cap_bytes: int, cut_at_cap: bool) -> _Sink:
        file = io.BytesIO() if into is None else into
        return cls(file, file.tell(), into is None, cap_bytes, cut_at_cap)

    def restart(self) -> None:
        self.file.seek(self.start)
        self.file.truncate()

    def body(self) -> bytes:
        return self.file.getvalue() if isinstance(self.file, io.BytesIO) and self.is_memory else b""
