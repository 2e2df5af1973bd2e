"""Contract of the order of fetches: rows of a host that has enough requests wait without a thread, in bounded number.

img2dataset's real Downloader runs against real servers, which hang or are slow under one of two host names.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import Outcome
from lposekit.records import ImageRow
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.settings import FetchSettings
from pipelines.image.decode import DecodedImage, decode_image
from pipelines.image.download import FetchedRow, download_rows
from pipelines.image.settings import ImageSettings
from tests.pipelines.fetch.conftest import names
from tests.support.bad_server import BadServer
from tests.support.pages import Page, tiny_jpeg

pytestmark = [pytest.mark.timeout(180), pytest.mark.case(61)]
HOSTS = names({"slow.test": ["127.0.0.1"], "good.test": ["127.0.0.1"]})
IMAGES = ImageSettings(min_size=1)


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer({f"/{number}": Page(tiny_jpeg()) for number in range(2000)}) as running:
        yield running


def decode(data: bytes) -> DecodedImage:
    return decode_image(data, IMAGES)


def fetched(urls: list[str], tmp_path: Path, **changes: object) -> list[FetchedRow]:
    """The rows in the order in which they ended."""
    values = {"threads": 8, "per_host_connections": 4, "idle_timeout_s": 1.0, "connect_timeout_s": 1.0, "robots": False}
    settings = FetchSettings(**values | changes)  # type: ignore[arg-type]
    opener = GuardedOpener(settings, allow_private_addresses=True, resolver=HOSTS)
    rows = [ImageRow(f"{number:09}", url, "", {}) for number, url in enumerate(urls)]
    is_doubtful = opener.transport.resting.is_doubtful
    options: dict[str, Any] = {"settings": settings, "work_dir": tmp_path, "is_doubtful": is_doubtful}
    return list(download_rows(rows, opener=opener, decode=decode, **options))


# Mutation: `_has_room` always true (eight threads wait for four connections of the slow host, and the good rows too).
def test_rows_of_other_hosts_pass_those_of_a_busy_one(server: BadServer, tmp_path: Path) -> None:
    slow, good = server.url_as("slow.test"), server.url_as("good.test")
    urls = [f"{slow}/slow/0.4?{number}" for number in range(12)] + [f"{good}/{number}" for number in range(12)]
    ended = [row.row.url or "" for row in fetched(urls, tmp_path)]
    assert all(url.startswith(good) for url in ended[:12])
    assert sorted(ended) == sorted(urls)


# Mutation: no `look_ahead` (all 400 are fetched, and wait decoded for the first).
def test_not_more_than_a_few_rows_are_begun_beyond_one_that_does_not_end(server: BadServer, tmp_path: Path) -> None:
    urls = [server.url_as("slow.test") + "/slow/1.5"] + [
        server.url_as("good.test") + f"/{number}" for number in range(400)
    ]
    values = {"threads": 4, "per_host_connections": 4, "idle_timeout_s": 5.0, "robots": False}
    settings = FetchSettings(**values)  # type: ignore[arg-type]
    opener = GuardedOpener(settings, allow_private_addresses=True, resolver=HOSTS)
    rows = [ImageRow(f"{number:09}", url, "", {}) for number, url in enumerate(urls)]
    before = 0
    for row in download_rows(rows, opener=opener, decode=decode, settings=settings, work_dir=tmp_path):
        if row.row.url == urls[0]:
            break
        before += 1
    assert before <= 4 * 4


# Mutations: `timed_out` returns at once (24 s); `_has_room` always true, or blind to doubts (more than four are asked).
def test_a_host_that_hangs_costs_the_other_rows_nearly_nothing(server: BadServer, tmp_path: Path) -> None:
    slow, good = server.url_as("slow.test"), server.url_as("good.test")
    urls = [f"{slow}/mute?{n}" if n % 10 == 0 else f"{good}/{n}" for n in range(960)]
    started_at = time.monotonic()
    ended = fetched(urls, tmp_path)
    took_s = time.monotonic() - started_at
    assert Counter(row.outcome for row in ended) == {None: 864, Outcome.TIMEOUT: 96}
    assert len([hit for hit in server.hits if hit.path.startswith("/mute")]) == 4
    assert took_s < 10


# Mutation: `_host_of` lets a `ValueError` through (no row ends).
def test_what_is_no_address_waits_for_no_host(tmp_path: Path) -> None:
    urls = ["http://[", "", "x", "http://", "http://[::1"] * 10
    assert {row.outcome for row in fetched(urls, tmp_path)} == {Outcome.BAD_URL}
