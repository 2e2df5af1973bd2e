"""Lists of URLs in text formats: csv, tsv, json, JSON lines, txt, plain or compressed, as rows and Arrow batches.

The numeric columns of LAION are float64 and everything else is text: the type of a column must not depend on which rows
a reader happens to see first.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

import fsspec
import pyarrow as pa

NUMERIC_COLUMNS = frozenset(
    {"punsafe", "pwatermark", "similarity", "aesthetic", "aesthetic_score", "width", "height", "original_width"}
    | {"original_height", "clip_b32_similarity_score", "clip_l14_similarity_score"}
)
JSON_ROWS_FOR_COLUMNS = 1000
"""The columns of a JSON list are those of its first rows: reading it whole to know them would read it twice."""
TXT_COLUMN = "url"
_MAX_FIELD_CHARS = 64 * 2**20
_CHUNK_CHARS = 2**16
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_columns(path: str, kind: str) -> list[str]:
    """Names of the columns: a csv's header, the keys of a JSON list's first rows; empty for an empty file."""
    if kind == "txt":
        return [TXT_COLUMN]
    with _open_text(path, kind) as stream:
        if kind == "json":
            rows = itertools.islice(_json_rows(stream), JSON_ROWS_FOR_COLUMNS)
            return list(dict.fromkeys(name for row in rows for name in row))
        return list(dict.fromkeys(_csv_reader(kind, stream).fieldnames or []))


def text_rows(path: str, kind: str) -> Iterator[Mapping[str, object]]:
    """The rows in order, one at a time. Blank lines are no rows."""
    with _open_text(path, kind) as stream:
        if kind == "txt":
            yield from ({TXT_COLUMN: line.strip()} for line in stream if line.strip())
        elif kind == "json":
            yield from _json_rows(stream)
        else:
            yield from _csv_reader(kind, stream)


def text_batch(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> pa.RecordBatch:
    """Rows as a batch of exactly these columns."""
    arrays = []
    for name in columns:
        kind = text_type(name)
        convert = number_or_none if kind == pa.float64() else text_or_none
        arrays.append(pa.array([convert(row.get(name)) for row in rows], kind))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def text_type(name: str) -> pa.DataType:
    return pa.float64() if name.lower() in NUMERIC_COLUMNS else pa.string()


def number_or_none(value: Any) -> float | None:
    """The value as a number; None where it is none."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def text_or_none(value: object) -> str | None:
    """The value as text that UTF-8 can hold: a lone surrogate, which JSON can smuggle in, becomes U+FFFD."""
    if value is None:
        return None
    if isinstance(value, (dict, list)):
        value = json.dumps(value)
    return _SURROGATE.sub("\ufffd", str(value))


@contextmanager
def _open_text(path: str, kind: str) -> Iterator[IO[str]]:
    # newline="" lets the csv module see line breaks within quotes; a BOM is not part of the first column's name.
    newline = "" if kind in ("csv", "tsv") else "\n"
    opened = fsspec.open(path, "rt", newline=newline, encoding="utf-8-sig", errors="replace", compression="infer")
    with cast(Any, opened) as stream:
        yield stream


def _csv_reader(kind: str, stream: Iterable[str]) -> csv.DictReader[str]:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    return csv.DictReader(stream, delimiter="\t" if kind == "tsv" else ",")


def _json_rows(stream: IO[str]) -> Iterator[dict[str, object]]:
    """Rows of JSON lines, or of one array of objects. A line that is no object becomes a row without a URL: it is
    counted as `bad_url`, like any other row that names no image."""
    head = stream.read(_CHUNK_CHARS)
    if head.lstrip().startswith("["):
        yield from _json_array(itertools.chain([head], iter(lambda: stream.read(_CHUNK_CHARS), "")))
        return
    for line in itertools.chain(io.StringIO(head + stream.readline()), stream):
        if line.strip():
            yield _object(line)


def _object(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _json_array(chunks: Iterable[str]) -> Iterator[dict[str, object]]:
    """Objects of a JSON array, one at a time, so that a large file is never held whole."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    buffer, opened = "", False
    for chunk in chunks:
        buffer, position = buffer + chunk, 0
        if not opened:
            position, opened = buffer.index("[") + 1, True
        while True:
            position = cast(re.Match[str], between.match(buffer, position)).end()
            try:
                value, position = decoder.raw_decode(buffer, position)
            except ValueError:
                break
            yield value if isinstance(value, dict) else {}
        buffer = buffer[position:]
    if buffer.strip() != "]":
        raise EOFError(f"the JSON array breaks off near {buffer[:40]!r}")
