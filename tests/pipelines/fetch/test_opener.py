"""Every row ends within its time and its bytes, whatever the server does."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from lposekit.errors import Outcome, Rejected
from tests.pipelines.fetch.conftest import MIB, Naps, opener_for, outcome, quick_settings, rejection
from tests.support.bad_server import BadServer, deaf_port, mute_port
from tests.support.pages import Page, tiny_jpeg

pytestmark = pytest.mark.timeout(180)


# Mutation: `for _ in itertools.count()` in `_follow`.
@pytest.mark.case(5)
def test_redirects_end_after_five(server: BadServer) -> None:
    opener = opener_for(server)
    assert opener.fetch(f"{server.url}/hops/5").final_url == f"{server.url}/hops/0"
    for path in ("/loop", "/hops/6", "/hops/9"):
        before = len(server.hits)
        assert outcome(opener, server.url + path) is Outcome.REDIRECT
        assert len(server.hits) - before == 6


# Mutations: one of the five left out of `_REDIRECTS`; 206 taken for a whole body.
@pytest.mark.parametrize(
    ("status", "ends_as"),
    [
        *((status, None) for status in (301, 302, 303, 307, 308)),
        (300, Outcome.REDIRECT),
        (304, Outcome.REDIRECT),
        (206, Outcome.SHORT_READ),
    ],
)
def test_each_kind_of_redirect_is_followed_and_no_other_answer(
    server: BadServer, status: int, ends_as: Outcome | None
) -> None:
    server.pages["/moved"] = Page(b"", status=status, headers=(("Location", "/ok"),))
    if ends_as is None:
        assert opener_for(server).fetch(f"{server.url}/moved").final_url == f"{server.url}/ok"
    else:
        assert outcome(opener_for(server), f"{server.url}/moved") is ends_as


# Mutation: `parse_web_url` without its check of the scheme.
@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/a", "data:,x", "http://", "http://a:b@c/"])
@pytest.mark.case(5)
def test_a_redirect_to_anything_but_the_web_is_refused(server: BadServer, target: str) -> None:
    assert outcome(opener_for(server), f"{server.url}/to?{target}") is Outcome.REDIRECT


# Mutation: no check of `num_raw` in `read_body` (the time limit ends it, after gigabytes).
@pytest.mark.parametrize("path", ["/endless", "/endless/chunked"])
@pytest.mark.case(6)
def test_an_endless_body_stops_at_the_cap(server: BadServer, path: str) -> None:
    opener = opener_for(server)
    sink = io.BytesIO()
    tracemalloc.start()
    try:
        why = rejection(opener, server.url + path, into=sink)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert why.outcome is Outcome.TOO_BIG
    assert len(sink.getvalue()) <= MIB + 65536
    assert peak_bytes < 4 * MIB


# Mutation: drop the check of `response.length` (the server sends no body, so the idle time has to pass).
@pytest.mark.case(7)
def test_a_declared_huge_body_is_refused_from_the_header(server: BadServer) -> None:
    started_at = time.monotonic()
    assert outcome(opener_for(server, idle_timeout_s=3.0), f"{server.url}/declared-huge") is Outcome.TOO_BIG
    assert time.monotonic() - started_at < 2.0


def test_a_body_of_exactly_the_cap_is_taken() -> None:
    with BadServer({"/full": Page(b"x" * MIB), "/over": Page(b"x" * (MIB + 1))}) as server:
        opener = opener_for(server)
        assert opener.fetch(f"{server.url}/full").num_bytes == MIB
        assert outcome(opener, f"{server.url}/over") is Outcome.TOO_BIG
        assert opener.fetch(f"{server.url}/over", max_body_bytes=2 * MIB).num_bytes == MIB + 1


# Mutation: in `_CountedReader.readinto`, wait `idle_timeout_s` whatever remains.
@pytest.mark.parametrize("path", ["/drip/0.2", "/drip/0.2/header"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.case(8)
def test_a_dripping_server_holds_a_thread_no_longer_than_the_total_time(path: str, scheme: str, authority) -> None:
    with BadServer(tls=authority.server_context("127.0.0.1") if scheme == "https" else None) as server:
        opener = opener_for(server, ca_file=authority.ca_file, total_timeout_s=1.5, min_bytes_per_s=0)
        started_at = time.monotonic()
        assert outcome(opener, server.url + path) is Outcome.TIMEOUT
        assert 1.3 < time.monotonic() - started_at < 3.5


# Mutation: no `limit_wait` in `_CountedReader.readinto` and `_dial`.
@pytest.mark.parametrize("path", ["/silent", "/mute"])
@pytest.mark.case(8)
def test_a_silent_server_is_left_after_the_idle_time(server: BadServer, path: str) -> None:
    num_threads = threading.active_count()
    started_at = time.monotonic()
    assert outcome(opener_for(server, connect_timeout_s=3.0, idle_timeout_s=0.4), server.url + path) is Outcome.TIMEOUT
    assert time.monotonic() - started_at < 2.0
    server.__exit__()
    time.sleep(0.2)
    assert threading.active_count() <= num_threads


# Mutation: `sock.settimeout(None)` in `_dial`.
@pytest.mark.case(8)
def test_a_server_that_never_accepts_is_left_after_the_connect_time() -> None:
    with deaf_port() as port:
        opener = opener_for(BadServer(port=port), connect_timeout_s=0.5)
        started_at = time.monotonic()
        assert outcome(opener, f"http://127.0.0.1:{port}/ok") is Outcome.TIMEOUT
        assert time.monotonic() - started_at < 2.5


# Mutation: no `settimeout` before `_start_tls`.
def test_a_tls_handshake_that_never_comes_is_left_after_the_connect_time() -> None:
    with mute_port() as port:
        opener = opener_for(BadServer(port=port), connect_timeout_s=0.5)
        started_at = time.monotonic()
        assert outcome(opener, f"https://127.0.0.1:{port}/ok") is Outcome.TIMEOUT
        assert time.monotonic() - started_at < 2.5


# Mutations: drop `if response.length` in `read_body` (half an image is a success); raise `Rejected`, not
# `TryAgain` (one attempt only).
@pytest.mark.parametrize("path", ["/short", "/short/chunked", "/reset/body"])
@pytest.mark.case(10)
def test_a_cut_body_is_never_a_success_and_is_tried_again(server: BadServer, path: str) -> None:
    why = rejection(opener_for(server), server.url + path)
    assert why.outcome is Outcome.SHORT_READ
    assert why.detail.endswith("(attempt 3)")
    assert len(server.hits) == 3


@pytest.mark.parametrize("path", ["/reset", "/garbage"])
@pytest.mark.case(10)
def test_a_reset_or_a_foreign_protocol_is_a_failed_connection(server: BadServer, path: str) -> None:
    why = rejection(opener_for(server), server.url + path)
    assert why.outcome is Outcome.CONNECT
    assert "\n" not in str(why)
    assert len(server.hits) == 3


def test_what_one_more_try_mends_is_mended(server: BadServer) -> None:
    opener = opener_for(server)
    assert opener.fetch(f"{server.url}/reset/once").attempts == 2
    assert opener.fetch(f"{server.url}/busy/503/2").attempts == 3
    assert opener.fetch(f"{server.url}/busy/429/1").attempts == 2


# Mutation: call every 4xx temporary in `status_problem`.
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
@pytest.mark.case(11)
def test_a_permanent_status_is_asked_for_once(server: BadServer, status: int) -> None:
    why = rejection(opener_for(server), f"{server.url}/status/{status}")
    assert (why.outcome, why.detail) == (Outcome.HTTP_4XX, f"status {status}")
    assert len(server.hits) == 1


# Mutations: `retries + 1` in `RetryPolicy.wait_s`; no jitter.
@pytest.mark.parametrize(
    ("status", "expected"), [(429, Outcome.HTTP_4XX), (500, Outcome.HTTP_5XX), (503, Outcome.HTTP_5XX)]
)
@pytest.mark.case(11)
def test_a_temporary_status_is_tried_a_bounded_number_of_times(
    server: BadServer, status: int, expected: Outcome
) -> None:
    opener = opener_for(server, total_timeout_s=30.0)
    naps = opener._sleep
    assert isinstance(naps, Naps)
    whys = [rejection(opener, f"{server.url}/status/{status}") for _ in range(4)]
    assert {why.outcome for why in whys} == {expected}
    assert all(why.detail == f"status {status} (attempt 3)" for why in whys)
    assert len(server.hits) == 12
    first_waits, second_waits = naps[::2], naps[1::2]
    assert all(0.25 <= wait <= 0.5 for wait in first_waits)
    assert all(0.5 <= wait <= 1.0 for wait in second_waits)
    assert len(set(naps)) == len(naps)  # jittered: threads that failed together do not come back together


# Mutation: ignore `retry_after_s` in `RetryPolicy.wait_s`.
@pytest.mark.parametrize(("value", "least_s", "most_s"), [("1", 1.0, 1.5), ("date", 0.9, 3.0)])
@pytest.mark.case(11)
def test_retry_after_is_obeyed_in_both_its_forms(server: BadServer, value: str, least_s: float, most_s: float) -> None:
    opener = opener_for(server, total_timeout_s=30.0, sleep=time.sleep)
    assert opener.fetch(f"{server.url}/busy/503/1/retry-after/{value}").attempts == 2
    first, second = server.hits
    assert least_s <= second.at_s - first.at_s <= most_s


# Mutation: `RestingHosts.check` returns at once.
def test_a_host_that_asked_for_quiet_gets_it_from_all_rows(server: BadServer) -> None:
    opener = opener_for(server)
    assert outcome(opener, f"{server.url}/status/429/retry-after/3600") is Outcome.HTTP_4XX
    assert outcome(opener, f"{server.url}/ok") is Outcome.HTTP_4XX
    assert [hit.path for hit in server.hits] == ["/status/429/retry-after/3600"]


def test_rows_behind_a_busy_host_wait_and_then_succeed(server: BadServer) -> None:
    opener = opener_for(server, total_timeout_s=10.0, sleep=time.sleep)
    with ThreadPoolExecutor(4) as threads:
        busy = threads.submit(opener.fetch, f"{server.url}/busy/503/1/retry-after/1")
        time.sleep(0.3)
        others = list(threads.map(lambda _: opener.fetch(f"{server.url}/ok"), range(3)))
    assert [one.http_status for one in [busy.result(), *others]] == [200] * 4
    assert min(hit.at_s for hit in server.hits_of("/ok")) - server.hits[0].at_s >= 1.0


# Mutation: wait although the server asks for more time than the row has.
@pytest.mark.parametrize("value", ["3600", "99999999999999999999"])
def test_a_server_that_asks_for_too_much_time_is_not_asked_again(server: BadServer, value: str) -> None:
    opener = opener_for(server)
    assert outcome(opener, f"{server.url}/status/429/retry-after/{value}") is Outcome.HTTP_4XX
    assert opener._sleep == []
    assert len(server.hits) == 1


def test_nonsense_in_retry_after_falls_back_to_back_off(server: BadServer) -> None:
    assert opener_for(server).fetch(f"{server.url}/busy/503/1/retry-after/soon").attempts == 2


def test_the_request_says_honestly_who_asks_and_nothing_more() -> None:
    with BadServer() as server:
        opener = opener_for(server, user_agent="lposekit/0.1 (tests; +https://example.org)")
        sent = json.loads(opener.fetch(f"{server.url}/to?/echo").body)
    assert sent == {
        "Host": server.authority,
        "User-Agent": "lposekit/0.1 (tests; +https://example.org)",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }


def test_into_a_file_the_body_is_written_once_even_after_another_try() -> None:
    with BadServer() as server:
        sink = io.BytesIO()
        sink.write(b"head")
        fetched = opener_for(server).fetch(f"{server.url}/reset/once", into=sink)
        assert sink.getvalue() == b"head" + tiny_jpeg()
        assert (fetched.body, fetched.num_bytes) == (b"", len(tiny_jpeg()))


# Mutation: never `put` a connection back.
def test_one_connection_serves_many_requests_of_a_host(server: BadServer) -> None:
    opener = opener_for(server)
    for path in ["/ok", "/status/404", "/to?/ok", "/encoded/gzip"] * 3:
        with contextlib.suppress(Rejected):
            opener.fetch(server.url + path)
    assert len(server.hits) == 15
    assert server.num_connections == 1


# Mutation: raise instead of `pass` after a kept connection failed.
def test_a_connection_that_ended_while_it_rested_costs_no_attempt(server: BadServer) -> None:
    opener = opener_for(server, retries=0)
    for _ in range(5):
        assert opener.fetch(f"{server.url}/hang-up-after").attempts == 1


# No single mutation turns this red: `_is_drained`, `_has_ended` and http.client's state each refuse such a connection.
def test_a_connection_with_a_rest_in_it_is_not_used_again(server: BadServer) -> None:
    opener = opener_for(server, max_body_bytes=2000, retries=0)
    for path in ("/body/html", "/endless/chunked", "/declared-huge", "/short", "/silent"):
        with contextlib.suppress(Rejected):
            opener.fetch(server.url + path)
        assert opener.fetch(f"{server.url}/ok").body == tiny_jpeg()


# Mutation: `HostSlots.hold` without its semaphore.
def test_a_host_gets_no_more_requests_at_once_than_its_share(server: BadServer) -> None:
    opener = opener_for(server, per_host_connections=2)
    with ThreadPoolExecutor(12) as threads:
        results = list(threads.map(lambda _: opener.fetch(f"{server.url}/slow/0.05"), range(12)))
    assert len(results) == 12
    assert server.most_at_once == 2


# Mutation: no `forgive` in `_wait_for` (rows that waited in our own queue end as timeouts of the server).
def test_waiting_for_our_own_queue_does_not_count_against_the_server(server: BadServer) -> None:
    opener = opener_for(server, per_host_connections=1, idle_timeout_s=3.0, total_timeout_s=2.0)
    with ThreadPoolExecutor(2) as threads:
        started = [threads.submit(opener.fetch, f"{server.url}/slow/1.2") for _ in range(2)]
        assert [one.result().http_status for one in started] == [200, 200]


# Mutation: `semaphore.acquire()` without a time limit.
def test_a_host_that_hangs_does_not_hold_the_rows_behind_it_for_ever(server: BadServer) -> None:
    opener = opener_for(server, per_host_connections=1, idle_timeout_s=0.6, total_timeout_s=0.6)
    started_at = time.monotonic()
    with ThreadPoolExecutor(6) as threads:
        outcomes = list(threads.map(lambda _: outcome(opener, f"{server.url}/mute"), range(6)))
    assert set(outcomes) == {Outcome.TIMEOUT}
    assert time.monotonic() - started_at < 3.0


# Mutation: no `_forget(oldest)` in `IdleConnections.put`.
def test_connections_at_rest_stay_bounded() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(BadServer()) for _ in range(6)]
        opener = opener_for(*servers, threads=1)
        for server in servers:
            opener.fetch(f"{server.url}/ok")
        assert [len(connections_to(server.port)) for server in servers] == [0, 0, 0, 0, 1, 1]
        opener.close()
        assert [len(connections_to(server.port)) for server in servers] == [0] * 6


def connections_to(port: int) -> list[object]:
    """This process's sockets that are connected to ``port``."""
    return [
        one for one in psutil.Process().net_connections("tcp") if one.raddr and one.raddr.port == port and one.fd != -1
    ]


def test_settings_of_the_tests_are_the_real_settings() -> None:
    assert quick_settings().max_redirects == 5
