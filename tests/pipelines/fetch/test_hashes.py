"""An image that is no longer the one listed is told apart by its hash."""

from __future__ import annotations

import hashlib

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.hashes import listed_hash
from tests.pipelines.fetch.conftest import opener_for
from tests.support.bad_server import BadServer

pytestmark = pytest.mark.timeout(180)


# Mutation: `check` returns always, or compares the first digits only.
@pytest.mark.case(19)
def test_changed_content_is_a_hash_mismatch(server: BadServer) -> None:
    opener = opener_for(server)
    first = opener.fetch(f"{server.url}/changing").body
    listed = listed_hash({"sha256": hashlib.sha256(first).hexdigest()})
    assert listed is not None
    listed.check(first)
    with pytest.raises(Rejected) as caught:
        listed.check(opener.fetch(f"{server.url}/changing").body)
    assert caught.value.outcome is Outcome.HASH_MISMATCH


@pytest.mark.parametrize(
    ("column", "algorithm"), [("md5", "md5"), ("SHA256", "sha256"), ("hash", "md5"), ("hash", "sha256")]
)
def test_the_columns_of_lists_are_understood(column: str, algorithm: str) -> None:
    listed = listed_hash({"url": "x", column: f" {hashlib.new(algorithm, b'image').hexdigest().upper()} "})
    assert listed is not None
    assert listed.algorithm == algorithm
    listed.check(b"image")


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"hash": 4271843021},  # LAION-2B: joins its tables, made of URL and caption
        {"hash": "4271843021"},
        {"md5": None},
        {"md5": ""},
        {"md5": "0" * 40},
        {"sha256": "0" * 32},
        {"sha256": "not hexadecimal" * 5},
    ],
)
def test_what_is_no_hash_of_a_file_is_passed_over(columns: dict[str, object]) -> None:
    assert listed_hash(columns) is None
