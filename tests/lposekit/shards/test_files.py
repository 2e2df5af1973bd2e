"""Contract of files that appear whole or not at all: whatever fails on the way, the file of before stays and nothing
else does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lposekit.errors import LposekitError
from lposekit.shards.files import replacing, write_bytes, write_json


def test_the_file_of_before_stays_until_the_block_ends(tmp_path: Path) -> None:
    # Mutation tried: yielding the path itself -> the half-written file is seen.
    path = tmp_path / "new" / "file"
    write_bytes(path, b"old")
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        partial.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError("no"), ValueError("no"), KeyboardInterrupt()])
def test_after_an_error_the_file_of_before_is_all_there_is(error: BaseException, tmp_path: Path) -> None:
    # Mutation tried: removing the partial file on OSError only -> it is left by the others.
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail() -> None:
        with replacing(path, "another-name") as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(LposekitError, match=r"taken/file: .*Check the folder"):
        write_bytes(tmp_path / "taken" / "file", b"data")


def test_json_is_written_with_sorted_names_and_a_last_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"b": ["ä"], "a": 1})
    text = (tmp_path / "file").read_text(encoding="utf-8")
    assert text == '{\n "a": 1,\n "b": [\n  "ä"\n ]\n}\n'
    assert json.loads(text) == {"a": 1, "b": ["ä"]}
