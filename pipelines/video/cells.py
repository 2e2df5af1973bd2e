"""What the cells of a video list mean: texts, captions, times, numbers, lists.

A cell that cannot be understood is no value here, never an error: its row keeps less, and lists of millions of rows
have such cells. Every text that comes out is one that UTF-8 can hold.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.lists.columns import find_column
from pipelines.lists.text import MAX_CELL_CHARS, text_or_none

Record = Mapping[str, object]
MAX_CAPTION_CHARS = 10_000
OWN_NAMES = ("url", "caption")


def cell(record: Record, aliases: tuple[str, ...]) -> object:
    """The cell of the column that one of the aliases names."""
    column = find_column(record, aliases)
    return None if column is None else record[column]


def text_cell(record: Record, aliases: tuple[str, ...]) -> str:
    """The same as text; empty where there is no value."""
    return text_of(cell(record, aliases)) or ""


def text_of(value: object) -> str | None:
    """The value as text, lists and objects as JSON; None for no value, which pandas writes as NaN.
    What is longer than any text of a list is cut."""
    if isinstance(value, float) and math.isnan(value):
        return None
    value = value[:MAX_CELL_CHARS] if isinstance(value, str | bytes) else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        if isinstance(value, dict | list):
            value = json.dumps(value, ensure_ascii=False, default=str)
        return text_or_none(value)
    except (TypeError, ValueError, RecursionError):
        return None


def caption_of(value: object) -> str:
    """A caption without NUL, which ends a text in many a reader. Of a list of captions the first counts."""
    if isinstance(value, list | tuple):
        value = next((item for item in value if isinstance(item, str)), None)
    value = value[:MAX_CAPTION_CHARS] if isinstance(value, str | bytes) else value
    return "" if isinstance(value, Mapping) else (text_of(value) or "").replace("\0", "\ufffd")


def seconds(value: object) -> float | None:
    """12.5, "12.5", "00:00:12.500" or "0:12" in seconds; None where it is no time."""
    try:
        parts = [float(part) for part in str(value).strip().split(":")]
    except ValueError:
        return None
    if value is None or isinstance(value, bool) or len(parts) > 3 or not all(0 <= part < 1e9 for part in parts):
        return None
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


def seconds_of(values: object) -> tuple[float, ...]:
    """The times in a list; none where it is no list."""
    found = map(seconds, values) if isinstance(values, list | tuple) else ()
    return tuple(time_s for time_s in found if time_s is not None)


def whole_number(value: Any) -> int | None:
    """3, "3" or 3.0; None for what is no number, NaN and infinity."""
    try:
        return None if value is None else int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def literal(value: object) -> object:
    """A list in a csv cell is JSON or, in Panda-70M, a Python literal."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):  # a caption's backslashes are no concern of the user's
                return parse(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return value


def other_cells(record: Record, used: Iterable[tuple[str, ...]]) -> dict[str, str | None]:
    """The columns that nothing else used, as text: their type must not depend on which rows stand in one shard.

    `url` and `caption` mean the ones that were chosen; another column of that name keeps its values beside them.
    """
    taken = {find_column(record, aliases) for aliases in used}
    others = {name: value for name, value in record.items() if isinstance(name, str) and name not in taken}
    return {_free_name(name): text_of(value) for name, value in others.items()}


def _free_name(name: str) -> str:
    return f"list_{name}" if name in OWN_NAMES else text_of(name) or ""
