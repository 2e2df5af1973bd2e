"""A host that hangs or drips costs a few requests, not a thread for each of its rows; it is tried again later."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lposekit.errors import Outcome
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.polite import polite_opener
from tests.pipelines.fetch.conftest import Naps, names, quick_settings, rejection
from tests.support.bad_server import BadServer
from tests.support.pages import Page, tiny_jpeg

pytestmark = [pytest.mark.timeout(180), pytest.mark.case(61)]
HOSTS = names({"slow.test": ["127.0.0.1"], "good.test": ["127.0.0.1"]})


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer({"/photo": Page(tiny_jpeg())}) as running:
        yield running


def opener(*, robots: bool = False, **changes: object) -> GuardedOpener:
    settings = quick_settings(**{"idle_timeout_s": 0.2, "host_rest_s": 0.4, "robots": robots} | changes)
    return polite_opener(settings, allow_private_addresses=True, resolver=HOSTS, sleep=Naps())


# Mutation: `timed_out` returns at once (every row is asked for, and takes the idle time).
def test_after_three_timeouts_in_a_row_a_host_rests_and_its_rows_end_at_once(server: BadServer) -> None:
    asked, url = opener(host_rest_s=60.0), server.url_as("slow.test")
    for number in range(3):
        assert rejection(asked, f"{url}/mute?{number}").outcome is Outcome.TIMEOUT
    started_at = time.monotonic()
    for number in range(50):
        why = rejection(asked, f"{url}/photo?{number}")
        assert (why.outcome, "3 requests in a row timed out" in why.detail) == (Outcome.TIMEOUT, True)
    assert time.monotonic() - started_at < 5, "each of them would have waited for 0.2 s"
    assert len(server.hits) == 3
    assert asked.fetch(server.url_as("good.test") + "/photo").http_status == 200


# Mutations: no `tried_by` (all five are asked for); `answered` does not end the rest; no doubling.
def test_after_its_rest_one_row_tries_the_host_and_an_answer_ends_the_rest(server: BadServer) -> None:
    asked, url = opener(), server.url_as("slow.test")
    for _ in range(3):
        rejection(asked, f"{url}/mute")
    time.sleep(0.45)
    rejection(asked, f"{url}/mute")
    assert len(server.hits) == 4
    for _ in range(4):
        rejection(asked, f"{url}/mute")
    time.sleep(0.5)
    rejection(asked, f"{url}/mute")
    assert len(server.hits) == 4, "the second rest is twice as long"
    time.sleep(0.4)
    assert asked.fetch(f"{url}/photo").http_status == 200
    for _ in range(2):
        rejection(asked, f"{url}/mute")
    assert len(server.hits) == 7, "an answer ends the rest, and the count starts again"


# Mutation: `answered` does not reset the count.
def test_a_host_that_answers_between_its_timeouts_never_rests(server: BadServer) -> None:
    asked, url = opener(), server.url_as("slow.test")
    for path in ("/mute", "/mute", "/photo", "/mute", "/mute", "/status/404", "/mute"):
        if path == "/photo":
            asked.fetch(url + path)
        else:
            rejection(asked, url + path)
    assert len(server.hits) == 7


# Mutation: the `check` of `_follow` names the row (the row that fetches robots.txt is refused it).
def test_with_robots_the_row_that_tries_a_host_gets_its_page(server: BadServer) -> None:
    asked, url = opener(robots=True), server.url_as("slow.test")
    asked.rules.robots.keep_failure_s = 0.0  # type: ignore[attr-defined]
    server.pages["/robots.txt"] = Page(b"", status=404)
    asked.fetch(f"{url}/photo")
    for _ in range(3):
        rejection(asked, f"{url}/mute")
    time.sleep(0.45)
    asked.rules.robots._known.clear()  # type: ignore[attr-defined]
    assert asked.fetch(f"{url}/photo").http_status == 200


# Mutation: `Pace.note` returns at once: the row takes its total time.
@pytest.mark.parametrize("path", ["/drip/0.1", "/drip/0.1/header"])
def test_an_answer_that_drips_ends_with_the_window_of_its_rate(server: BadServer, path: str) -> None:
    asked = opener(total_timeout_s=20.0)
    asked_slowly = opener(total_timeout_s=1.0, min_bytes_per_s=0)
    for one, least_s, most_s in ((asked, 0.2, 0.9), (asked_slowly, 0.95, 3.0)):
        started_at = time.monotonic()
        assert rejection(one, server.url + path).outcome is Outcome.TIMEOUT
        assert least_s <= time.monotonic() - started_at < most_s


# Mutation: the rate is taken from the start of the request (the slow start is a drip).
def test_a_slow_start_and_a_slow_but_steady_answer_are_no_drip(server: BadServer) -> None:
    asked = opener(total_timeout_s=20.0, connect_timeout_s=5.0)
    assert asked.fetch(f"{server.url}/slow/0.15").http_status == 200
