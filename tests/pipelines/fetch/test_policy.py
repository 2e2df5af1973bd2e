"""Owners who opt out, and entries of the user's blocklist, are obeyed and counted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lposekit.errors import LposekitError, Outcome, UsageError
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.policy import Blocklist, product_token
from pipelines.fetch.polite import polite_opener
from tests.pipelines.fetch.conftest import names, outcome, quick_settings, rejection
from tests.support.bad_server import BadServer
from tests.support.pages import tiny_jpeg

pytestmark = pytest.mark.timeout(180)


def polite(server: BadServer, listed: Blocklist | None = None, **changes: object) -> GuardedOpener:
    hosts = ("127.0.0.1", "example.test", "cdn.example.test", "notexample.test")
    return polite_opener(
        quick_settings(robots=False, **changes),
        blocklist=listed,
        resolver=names({host: ["127.0.0.1"] for host in hosts}),
        allowed_local=frozenset(f"{host}:{server.port}" for host in hosts),
    )


# Mutations: `check_headers` does nothing; a directive missing from `OPT_OUT_DIRECTIVES`; only the first header read.
@pytest.mark.parametrize(
    "headers",
    [
        [("X-Robots-Tag", "noai")],
        [("X-Robots-Tag", "noimageai")],
        [("X-Robots-Tag", "noindex")],
        [("X-Robots-Tag", "noimageindex")],
        [("X-Robots-Tag", "noml")],
        [("X-Robots-Tag", "none")],
        [("x-robots-tag", " NoFollow ,  NOAI ")],
        [("X-Robots-Tag", "lposekit: noai")],
        [("X-Robots-Tag", "lposekit: nofollow, noindex")],
        [("X-Robots-Tag", "*: noai")],
        [("X-Robots-Tag", "max-snippet: 20, noai")],
        [("X-Robots-Tag", "unavailable_after: 25 Jun 2010 15:00:00 PST, noai")],
        [("X-Robots-Tag", "googlebot: nofollow"), ("X-Robots-Tag", "noai")],
        [("TDM-Reservation", "1")],
    ],
)
@pytest.mark.case(55)
def test_an_owner_who_opts_out_is_obeyed(server: BadServer, headers: list[tuple[str, str]]) -> None:
    url = f"{server.url}/header?{urlencode(headers)}"
    assert outcome(polite(server), url) is Outcome.OPT_OUT
    assert polite(server, opt_out_headers=False).fetch(url).body == tiny_jpeg()


# Mutations: ignore whom a directive addresses; every reservation but 0 counts.
@pytest.mark.parametrize(
    "headers",
    [
        [("X-Robots-Tag", "all")],
        [("X-Robots-Tag", "nofollow, noarchive")],
        [("X-Robots-Tag", "googlebot: noindex, noai")],
        [("X-Robots-Tag", "max-image-preview: large")],
        [("X-Robots-Tag", "noaim")],
        [("TDM-Reservation", "0")],
        [("TDM-Reservation", "2")],
    ],
)
def test_headers_that_mean_others_or_other_things_do_not_count(
    server: BadServer, headers: list[tuple[str, str]]
) -> None:
    assert polite(server).fetch(f"{server.url}/header?{urlencode(headers)}").body == tiny_jpeg()


@pytest.mark.case(55)
def test_an_opt_out_ends_the_row_before_its_body_is_read(server: BadServer) -> None:
    why = rejection(polite(server), f"{server.url}/header?{urlencode([('X-Robots-Tag', 'noai')])}")
    assert "noai" in why.detail


def test_robots_rules_address_us_by_our_product_token() -> None:
    assert product_token("LPoseKit/0.1 (dataset builder; +https://example.org)") == "lposekit"
    assert product_token("lposekit") == "lposekit"
    assert product_token("") == ""


# Mutation: `check_url` does nothing; compare whole hosts only; match ends of names without the dot.
def test_blocked_urls_and_domains_are_never_fetched(server: BadServer) -> None:
    lines = ["# comment", "", f"{server.url}/ok?exact=1", "example.test  # with subdomains"]
    opener = polite(server, Blocklist.from_lines(lines))
    assert outcome(opener, f"{server.url}/ok?exact=1#part") is Outcome.BLOCKED
    assert outcome(opener, f"{server.url_as('example.test')}/ok") is Outcome.BLOCKED
    assert outcome(opener, f"{server.url_as('CDN.Example.test')}/ok") is Outcome.BLOCKED
    assert server.num_connections == 0
    assert opener.fetch(f"{server.url}/ok?exact=2").body == tiny_jpeg()
    assert opener.fetch(f"{server.url_as('notexample.test')}/ok").body == tiny_jpeg()


@pytest.mark.parametrize(
    "line", ["www.flickr.com/photos/1/2.jpg", "example.org?x=1", "example.org#top", "me@example.org", "127.0.0.1:28417"]
)
def test_a_url_without_a_scheme_is_no_domain(tmp_path: Path, line: str) -> None:
    # Mutation tried: the host of whatever stands there -> the whole domain blocked.
    path = tmp_path / "list.txt"
    path.write_text(f"example.test\n{line}\n")
    with pytest.raises(UsageError, match=r"list\.txt line 2: not a domain, and no URL"):
        Blocklist.from_files([path])


def test_a_comment_begins_after_white_space_and_a_fragment_without() -> None:
    # Mutation tried: lines with `://` taken whole -> the comment is part of the address.
    listed = Blocklist.from_lines(
        ["http://a.test/1.jpg\t# theirs", "http://a.test/2.jpg#top", " # all", f"{'AB' * 32} #"]
    )
    assert listed == Blocklist(
        frozenset({"http://a.test/1.jpg", "http://a.test/2.jpg"}), frozenset(), frozenset({"ab" * 32})
    )


# Mutation: check the blocklist for the first hop only.
def test_a_redirect_into_a_blocked_domain_is_blocked(server: BadServer) -> None:
    opener = polite(server, Blocklist.from_lines(["example.test"]))
    assert outcome(opener, f"{server.url}/to?{server.url_as('example.test')}/ok") is Outcome.BLOCKED
    assert len(server.hits) == 1


# Mutation: `check_body` does nothing.
def test_a_blocked_file_is_turned_down_wherever_it_lies(server: BadServer) -> None:
    digest = hashlib.sha256(tiny_jpeg()).hexdigest()
    opener = polite(server, Blocklist.from_lines([digest.upper()]))
    assert outcome(opener, f"{server.url}/ok") is Outcome.BLOCKED
    assert opener.fetch(f"{server.url}/body/html").http_status == 200


def test_blocklist_files_are_joined_and_their_errors_named(tmp_path: Path, server: BadServer) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("example.test\n")
    second.write_text(f"{server.url}/ok\n")
    opener = polite(server, None, blocklist=(first, second))
    assert outcome(opener, f"{server.url}/ok") is Outcome.BLOCKED
    assert outcome(opener, f"{server.url_as('example.test')}/ok") is Outcome.BLOCKED
    second.write_text("example.org\nwhat is this?\n")
    with pytest.raises(UsageError, match=r"second\.txt line 2"):
        Blocklist.from_files([first, second])
    with pytest.raises(LposekitError, match=r"third\.txt"):
        Blocklist.from_files([tmp_path / "third.txt"])
