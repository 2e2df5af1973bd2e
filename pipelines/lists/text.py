"""Lists of URLs in text formats: csv, tsv, json, JSON lines, txt, plain or compressed, as rows and Arrow batches.

The numeric columns of LAION are float64 and everything else is text: the type of a column must not depend on which rows
a reader happens to see first.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
MAX_LINE_CHARS = 16 * 2**20
"""A longer line, or object of a JSON array, is no row of any list that somebody meant to be read."""
MAX_CELL_CHARS = 2**16
"""Of parquet, bytes. Longer texts are cut: they are no addresses, and captions have a limit of their own."""
MAX_COLUMNS = 1000
_CHUNK_CHARS = 2**16
_TOO_LONG = "\0\n"
_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,]*")
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"', re.DOTALL)
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


def text_rows(path: str, kind: str, max_cell_chars: int = MAX_CELL_CHARS) -> Iterator[Mapping[str, object]]:
    """The rows in order, one at a time; longer texts are cut to `max_cell_chars`. Blank lines are no rows."""
    with _open_text(path, kind) as stream:
        if kind == "txt":
            rows: Iterable[Mapping[str, object]] = (
                {TXT_COLUMN: line.strip()} for line in _lines(stream) if line.strip()
            )
        else:
            rows = _json_rows(stream) if kind == "json" else _csv_reader(kind, stream)
        yield from ({name: _cut(value, max_cell_chars) for name, value in row.items()} for row in rows)


def _cut(value: object, max_chars: int) -> object:
    return value[:max_chars] if isinstance(value, str) else value


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


def _csv_reader(kind: str, stream: IO[str]) -> csv.DictReader[str]:
    csv.field_size_limit(MAX_LINE_CHARS)
    return csv.DictReader(_csv_lines(stream), delimiter="\t" if kind == "tsv" else ",")


@dataclass(slots=True)
class _PutBack:
    """A stream that begins with what was read of it already."""

    head: str
    stream: IO[str]

    def readline(self, limit: int) -> str:
        line, newline, self.head = self.head.partition("\n")
        return line + newline if newline else line + self.stream.readline(limit - len(line))


def _lines(stream: IO[str] | _PutBack) -> Iterator[str]:
    """Lines with their ends, memory bounded: of one that is too long nothing is left but a mark that is no row of any
    kind; the next line is read as ever."""
    while line := stream.readline(MAX_LINE_CHARS):
        if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
            line = _TOO_LONG
            while (rest := stream.readline(MAX_LINE_CHARS)) and not rest.endswith("\n"):
                pass
        yield line


def _csv_lines(stream: IO[str]) -> Iterator[str]:
    """Lines within a quoted cell belong together, so one that is too long leaves nobody to say where a row begins."""
    for line in _lines(stream):
        if line == _TOO_LONG:
            raise csv.Error(f"a line of more than {MAX_LINE_CHARS} characters")
        yield line


def _json_rows(stream: IO[str]) -> Iterator[dict[str, object]]:
    """Rows of JSON lines, or of one array of objects. A line that is no object becomes a row without a URL: it is
    counted as `bad_url`, like any other row that names no image."""
    head = stream.read(_CHUNK_CHARS)
    if head.lstrip().startswith("["):
        yield from _json_array(head, stream)
        return
    for line in _lines(_PutBack(head, stream)):
        if line.strip():
            yield _object(line)


def _object(line: str) -> dict[str, object]:
    try:
        return _as_row(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def _as_row(value: object) -> dict[str, object]:
    """A row without an address stands for what is no object, and for one of more columns than any list has."""
    return value if isinstance(value, dict) and len(value) <= MAX_COLUMNS else {}


def _json_array(head: str, stream: IO[str]) -> Iterator[dict[str, object]]:
    """Objects of a JSON array, one at a time, so that a large file is never held whole."""
    buffer = head[head.index("[") + 1 :]
    while True:
        position = 0
        while (found := _next_value(buffer, position)) is not None:
            value, position = found
            yield _as_row(value)
        buffer = buffer[position:]
        if len(buffer) > MAX_LINE_CHARS:
            raise EOFError(f"the JSON array holds a value of more than {MAX_LINE_CHARS} characters")
        chunk = stream.read(max(_CHUNK_CHARS, len(buffer)))  # a value is looked at again each time: so not often
        if not chunk:
            break
        buffer += chunk
    if buffer.strip() != "]":
        raise EOFError(f"the JSON array breaks off near {buffer[:40]!r}")


def _next_value(buffer: str, position: int) -> tuple[object, int] | None:
    """The value that begins here, and where it ends; None if its end, or any value, is still to come."""
    position = cast(re.Match[str], _BETWEEN.match(buffer, position)).end()
    try:
        return _DECODER.raw_decode(buffer, position)
    except ValueError:
        return None
    except RecursionError:
        end = _end_of_nested(buffer, position)
        return None if end is None else (None, end)


def _end_of_nested(buffer: str, position: int) -> int | None:
    """Where an array or object ends, by its brackets alone, however deep they are."""
    depth = 0
    for mark in _BRACKETS.finditer(buffer, position):
        depth += 1 if mark[0] in "[{" else -1 if mark[0] in "]}" else 0
        if depth == 0:
            return mark.end()
    return None
