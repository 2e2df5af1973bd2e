"""Contract of `lposekit.report.page`: formats that never lie about small numbers, and texts safe to show."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from lposekit.errors import OUTCOME_FACTS, LposekitError, Outcome
from lposekit.report.common import GROUPS
from lposekit.report.page import duration, file_size, flatten, prose, share, web_address, without_places, write_page


def test_every_outcome_has_words_and_a_known_group() -> None:
    # Mutation: a new Outcome without an entry in OUTCOME_FACTS.
    assert set(OUTCOME_FACTS) == set(Outcome)
    assert {facts.group for facts in OUTCOME_FACTS.values()} <= set(GROUPS)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("https://a.example/b?c=d", "https://a.example/b?c=d"),
        (" HTTP://a.example ", "HTTP://a.example"),
        ("javascript:alert(1)//http://a.example", None),
        ("\x01javascript:alert(1)", None),
        ("data:text/html,<b>", None),
        ("file:///etc/passwd", None),
        ("//a.example", None),
        ("https:// ", None),
        (None, None),
        ("", None),
    ],
)
def test_only_web_addresses_become_links(value: str | None, address: str | None) -> None:
    # Mutation: re.match -> re.search in web_address.
    assert web_address(value) == address


@pytest.mark.parametrize(
    "text",
    [
        "read s3://bucket/secret.parquet",
        "/home/ada/list.parquet",
        "see https://a.example/x?token=1, twice",
        "../lists/a.csv",
        "~/lists/a.csv",
        "C:\\lists\\a.csv",
        "input=/data/x",
    ],
)
def test_a_public_text_names_no_place(text: str) -> None:
    shown = without_places(text)
    for secret in ("://", "bucket", "ada", "lists", "token", "data", "example"):
        assert secret not in shown


@pytest.mark.parametrize("text", ["0.5", "rtmdet-m", "km/h", "Apache-2.0 (OpenMMLab)", "12/17", "torch 2.13.0+cpu"])
def test_a_public_text_keeps_what_is_no_place(text: str) -> None:
    assert without_places(text) == text


def test_shares_of_nearly_all_and_nearly_nothing_are_not_rounded_to_all_and_nothing() -> None:
    assert [share(p, 10_000) for p in (0, 1, 10, 9_990, 9_999, 10_000)] == [
        "0%",
        "<0.1%",
        "0.1%",
        "99.9%",
        ">99.9%",
        "100%",
    ]
    assert share(0, 0) == "-"


def test_sizes_and_durations_are_short() -> None:
    assert [file_size(n) for n in (0, 999, 1234, 5e6, 3.21e12)] == ["0 B", "999 B", "1.23 kB", "5 MB", "3.2 TB"]
    assert [duration(s) for s in (0, 59.94, 200, 3720)] == ["0.0 s", "59.9 s", "3 min 20 s", "1 h 02 min"]


def test_nested_settings_become_lines_in_the_order_given() -> None:
    value = {"b": 1, "a": {"c": None, "d": True, "e": ["x", {"y": 2}], "f": []}}
    assert flatten(value) == [("b", "1"), ("a.c", "none"), ("a.d", "yes"), ("a.e", "x, y 2"), ("a.f", "none")]


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk. Mutation: writing to ``path`` at once."""
    path = write_page(tmp_path / "index.html", "base.html", name="old")
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(LposekitError, match="disk is full"):
            write_page(path, "base.html", name="new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    # Mutation: encode without "replace".
    assert "a?b" in write_page(tmp_path / "index.html", "base.html", name="a\udc80b").read_text()


def test_prose_escapes_before_it_sets_code() -> None:
    # Mutation: Markup(re.sub(..., text)) without escape.
    assert prose("run `a <b>` & <i>") == "run <code>a &lt;b&gt;</code> &amp; &lt;i&gt;"
