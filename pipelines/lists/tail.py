"""Whether a text list is there to its end, as far as that is cheap to see before any work starts."""

from __future__ import annotations

import json
from typing import Any, cast

import fsspec

from pipelines.lists.files import ListFile, damage_named

_TAIL_BYTES = 4 * 2**20


def check_tail(file: ListFile, *, limit_bytes: int = 256 * 2**20) -> None:
    """Finds a truncated text before any work starts, as far as that is cheap: a compressed one by decompressing up to
    `limit_bytes`, JSON lines by their last line. Parquet shows it when it is opened.

    Raises:
        LposekitError: the file is damaged.
    """
    if file.kind == "parquet":
        return
    with damage_named(file):
        filesystem, path = fsspec.core.url_to_fs(file.path)
        size = filesystem.size(path)
        if file.compressed:
            if size is not None and size <= limit_bytes:
                _decompress(file)
        elif file.kind == "json" and size:
            tail = filesystem.cat_file(path, start=max(0, size - _TAIL_BYTES))
            _check_last_json_line(tail, whole=size <= _TAIL_BYTES)


def _decompress(file: ListFile) -> None:
    with cast(Any, fsspec.open(file.path, "rb", compression="infer")) as stream:
        while stream.read(2**20):
            pass


def _check_last_json_line(tail: bytes, *, whole: bool) -> None:
    text = tail.decode("utf-8", "replace").rstrip().removeprefix("\ufeff")
    if whole and text.lstrip().startswith("["):
        complete = text.endswith("]")
    else:
        _, newline, last = text.rpartition("\n")
        complete = text.endswith("]") or (not newline and not whole) or _is_json(last)
    if not complete:
        raise EOFError("its last line is not complete JSON")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    except RecursionError:
        pass  # too deep, and a row that says nothing; no sign that the file ends too early
    return True
