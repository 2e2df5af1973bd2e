"""Contract: JSON of strangers is read up to a limit, and a wrong value is refused with its key and what it may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from lposekit.json_values import (
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    JsonFields,
    Kind,
    list_of,
    object_of,
    read_json_object,
)
from lposekit.store import LocalStore

WRONG = [
    (COUNT, True, "true, not a whole number from 0 on"),
    (COUNT, -1, "-1, not a whole number"),
    (COUNT, 2**63, "not a whole number"),
    (COUNT, 1.0, "1.0, not a whole number"),
    (NUMBER, float("nan"), "NaN, not a finite number"),
    (NUMBER, "1", '"1", not a finite number'),
    (FLAG, 1, "1, not true or false"),
    (TEXT, ["a"], "not a text"),
    (OBJECT, [], "[], not an object"),
    (list_of(TEXT), "abc", "not a list of which each is a text"),
    (list_of(TEXT), ["a", 1], "not a list of which each is a text"),
    (object_of(COUNT), {"kept": "8"}, "not an object of which each value is a whole number"),
]


# Mutations tried: each check of a kind left out -> its own case; the length of a shown value not cut -> the last test.
@pytest.mark.parametrize(("kind", "value", "words"), WRONG)
def test_a_value_of_another_kind_is_refused_with_its_key(kind: Kind[object], value: object, words: str) -> None:
    with pytest.raises(ValueError, match=r"^totals\.rows is ") as refused:
        JsonFields({"rows": value}, "totals.").take("rows", kind)  # pyright: ignore[reportArgumentType]
    assert words in str(refused.value)


def test_what_is_missing_or_null_is_none_or_refused_and_the_rest_stays() -> None:
    fields = JsonFields({"rows": None, "count": 0, "new": [1]})
    assert (fields.take("rows", COUNT), fields.take("count", COUNT)) == (None, 0)
    assert fields.rest == {"new": [1]}
    with pytest.raises(ValueError, match=r"^shards is missing$"):
        fields.need("shards", COUNT)


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(ValueError, match="x") as refused:
        JsonFields({"rows": "x" * 10**6}).take("rows", COUNT)
    assert len(str(refused.value)) < 200


# Mutations tried: without the limit, without `except RecursionError` -> red each.
@pytest.mark.case(73)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[1]", "no JSON object"),
        (b'{"a": ', "Expecting value"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "more than 1048576 bytes"),
    ],
)
def test_a_file_that_holds_no_small_object_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_json_object(LocalStore(tmp_path), "a.json", 2**20)
