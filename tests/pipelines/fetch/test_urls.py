"""Only absolute http(s) URLs are fetched; no entry of a list can make us open, read or send anything else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.urls import WebUrl, parse_web_url, redirect_target
from tests.pipelines.fetch.conftest import opener_for, outcome

pytestmark = pytest.mark.timeout(180)


# Mutation: let `parse_web_url` pass any scheme (a KeyError or a read follows), or return "" for no URL.
@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        None,
        7,
        "not a url",
        "image.jpg",
        "//example.org/a.jpg",
        "ftp://example.org/a.jpg",
        "data:image/png;base64,iVBORw0KGgo=",
        "pipe:cat /etc/passwd",
        "javascript:alert(1)",
        "s3://bucket/a.jpg",
        "http://",
        "http:///a.jpg",
        "http:/a.jpg",
        "http://exa mple.org/a.jpg",
        "http://a..b/",
        "http://-a.example/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 200 + "example/",
        "http://example.org:99999/",
        "http://[::1/",
        "http://example.org/" + "a" * 10_000,
    ],
)
@pytest.mark.case(1)
def test_anything_but_a_web_address_is_a_bad_url(url: str) -> None:
    assert outcome(opener_for(), url) is Outcome.BAD_URL


@pytest.mark.case(1)
def test_a_file_url_opens_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "private.png"
    canary.write_bytes(b"canary")
    for url in (canary.as_uri(), f"file://localhost{canary}", f"FILE:{canary}", str(canary), f"local_file://{canary}"):
        assert outcome(opener_for(), url) is Outcome.BAD_URL


# Mutation: drop the check of `parts.auth`.
@pytest.mark.parametrize(
    "url", ["http://user:secret@example.org/", "https://user@example.org/", "https://user:@example.org/"]
)
def test_user_names_and_passwords_are_refused_not_forwarded(url: str) -> None:
    assert outcome(opener_for(), url) is Outcome.BAD_URL


# Mutation: drop the check of the port.
@pytest.mark.parametrize("port", [0, 1, 22, 25, 110, 445, 993, 3306, 5432, 6379, 6667, 9200, 11211])
def test_ports_of_other_services_are_refused(port: int) -> None:
    with pytest.raises(Rejected, match=f"port {port}"):
        parse_web_url(f"http://example.org:{port}/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTP://Example.ORG/a.jpg", "http://example.org/a.jpg"),
        ("  https://example.org  ", "https://example.org/"),
        ("https://example.org:443/a?b=c#part", "https://example.org/a?b=c"),
        ("http://example.org:8080", "http://example.org:8080/"),
        ("http://example.org/a b/\u00e4.jpg?q=\u00e9", "http://example.org/a%20b/%C3%A4.jpg?q=%C3%A9"),
        ("http://example.org/a%20b", "http://example.org/a%20b"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example/"),
        ("http://example.org./a", "http://example.org/a"),
        ("http://under_score.example/", "http://under_score.example/"),
        ("http://[2606:4700::1]:8080/a", "http://[2606:4700::1]:8080/a"),
        ("http://example.org/a\r\nX-Injected: 1", "http://example.org/a%0D%0AX-Injected:%201"),
    ],
)
def test_urls_of_real_lists_are_made_sendable(text: str, expected: str) -> None:
    assert str(parse_web_url(text)) == expected


def url_or_outcome(parse: Callable[[], WebUrl]) -> WebUrl | Outcome:
    try:
        return parse()
    except Rejected as why:
        return why.outcome


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.text(), st.text().map(lambda text: f"http://{text}"), st.text().map(lambda text: f"http://a/{text}"))
)
def test_any_text_is_an_address_that_can_be_sent_or_a_bad_url(text: str) -> None:
    answer = url_or_outcome(lambda: parse_web_url(text))
    if answer is not Outcome.BAD_URL:
        assert re.fullmatch(r"https?://[!-~]+", str(answer))
        assert parse_web_url(str(answer)) == answer


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=255)))
def test_any_location_is_an_address_or_a_bad_redirect(location: str) -> None:
    answer = url_or_outcome(lambda: redirect_target(parse_web_url("https://example.org/a"), location))
    assert answer is Outcome.REDIRECT or isinstance(answer, WebUrl)


def test_a_redirect_may_be_relative_and_carry_raw_utf8() -> None:
    base = parse_web_url("https://example.org/a/b.jpg")
    as_http_client_reads_it = "../\u00e4.jpg".encode().decode("iso-8859-1")
    assert str(redirect_target(base, "c.jpg")) == "https://example.org/a/c.jpg"
    assert str(redirect_target(base, "//cdn.example/c.jpg")) == "https://cdn.example/c.jpg"
    assert str(redirect_target(base, as_http_client_reads_it)) == "https://example.org/%C3%A4.jpg"
