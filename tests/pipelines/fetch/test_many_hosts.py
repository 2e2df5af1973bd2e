"""What is remembered of hosts is bounded: however many there are, and however often one is asked."""

from __future__ import annotations

import socket
import threading

import psutil
import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.addresses import SystemResolver
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.polite import polite_opener
from pipelines.fetch.resting import RestingHosts
from pipelines.fetch.retry import TryAgain
from tests.pipelines.fetch.conftest import quick_settings
from tests.support.bad_server import BadServer
from tests.support.pages import Page, tiny_jpeg

pytestmark = [pytest.mark.timeout(240), pytest.mark.case(87)]


def fetch_from(opener: GuardedOpener, server: BadServer, hosts: range) -> None:
    for number in hosts:
        assert opener.fetch(server.url_as(f"h{number}.test") + "/photo").http_status == 200
        server.running.hits.clear()  # what the server remembers does not count


# Mutations: no `popitem` in `_entry`; no `_forget` in `IdleConnections.put`; `HostSlots` keeps slots that nobody uses.
@pytest.mark.parametrize("num_hosts", [400, pytest.param(10_000, marks=pytest.mark.more)])
def test_many_hosts_once_each_and_one_host_many_times_leave_bounded_tables(num_hosts: int) -> None:
    with BadServer({"/photo": Page(tiny_jpeg()), "/robots.txt": Page(b"User-agent: *\nDisallow: /x\n")}) as server:
        settings = quick_settings(threads=8)
        opener = polite_opener(settings, allow_private_addresses=True, resolver=lambda _: ["127.0.0.1"])
        robots, transport, process = opener.rules.robots, opener.transport, psutil.Process()  # type: ignore[attr-defined]
        robots.max_origins = 100
        fetch_from(opener, server, range(50))
        before = process.memory_info().rss
        fetch_from(opener, server, range(num_hosts))
        for _ in range(num_hosts):
            opener.fetch(server.url_as("h0.test") + "/photo")
            server.running.hits.clear()
        assert len(robots._known) == 100
        assert len(transport.idle._idle) == len(transport.idle._by_origin) <= 2 * 8
        assert not transport.slots._hosts
        assert not transport.resting._hosts
        assert process.memory_info().rss - before < 20 * 2**20
        opener.close()


# Mutation: `_remember` without its `popitem`.
def test_of_hosts_that_rest_as_many_as_asked_for_are_remembered() -> None:
    hosts = RestingHosts(max_timeouts=2, rest_s=60.0, max_hosts=100)
    clock, timeout = Deadline.start(5.0, 5.0), Rejected(Outcome.TIMEOUT, "no answer")
    for number in range(1000):
        hosts.timed_out(f"once{number}", timeout, clock)
        hosts.timed_out(f"twice{number}", timeout, clock)
        hosts.timed_out(f"twice{number}", timeout, clock)
        hosts.asked_for(f"busy{number}", TryAgain(Outcome.HTTP_5XX, "status 503", 60.0))
    assert len(hosts._hosts) == len(hosts._timeouts) == 100


# Mutation: no `popitem` in `SystemResolver._lookup`.
def test_of_names_as_many_as_asked_for_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("93.184.216.34", 0))])
    resolver = SystemResolver(max_hosts=100)
    for number in range(500):
        assert resolver(f"h{number}.test") == ["93.184.216.34"]
    assert len(resolver._known) == 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dns") and thread.is_alive()][8:]
