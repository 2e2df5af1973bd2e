"""The opener as the pipelines use it: the transport guard, and the rules of owners and user on top."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.fetch.addresses import Resolver
from pipelines.fetch.connection import make_tls_context
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.policy import Blocklist, check_opt_out, product_token
from pipelines.fetch.robots import RobotsRules
from pipelines.fetch.settings import FetchSettings
from pipelines.fetch.urls import WebUrl


@dataclass(frozen=True, slots=True)
class PoliteRules:
    """Blocklist, robots.txt and opt-out headers, in the order in which they cost least."""

    agent: str
    blocklist: Blocklist
    robots: RobotsRules | None
    opt_out_headers: bool

    def check_request(self, url: WebUrl, deadline: Deadline) -> None:
        self.blocklist.check_url(url)
        if self.robots is not None:
            self.robots.check(url, deadline)

    def check_headers(self, headers: http.client.HTTPMessage) -> None:
        if self.opt_out_headers:
            check_opt_out(headers, self.agent)

    def check_body(self, body: bytes) -> None:
        self.blocklist.check_body(body)


def polite_opener(
    settings: FetchSettings,
    *,
    blocklist: Blocklist | None = None,
    allow_private_addresses: bool = False,
    allowed_local: frozenset[str] = frozenset(),
    resolver: Resolver | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> GuardedOpener:
    """An opener that obeys `settings`: robots.txt, opt-out headers and `blocklist` (default: the settings' files).

    The other arguments are those of `GuardedOpener`. Raises `UsageError` for an unusable `ca_file` or blocklist.
    """
    opener = GuardedOpener(
        settings,
        allow_private_addresses=allow_private_addresses,
        allowed_local=allowed_local,
        resolver=resolver,
        ssl_context=make_tls_context(settings.ca_file),
        sleep=sleep,
    )
    agent = product_token(settings.user_agent)
    for_robots = GuardedOpener(settings, transport=opener.transport, sleep=sleep)
    opener.rules = PoliteRules(
        agent,
        Blocklist.from_files(settings.blocklist) if blocklist is None else blocklist,
        RobotsRules(for_robots, agent) if settings.robots else None,
        settings.opt_out_headers,
    )
    return opener
