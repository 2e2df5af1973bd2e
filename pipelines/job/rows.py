"""What one input row leaves behind, and the parquet table of a shard's rows; the same for every kind of dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lposekit.errors import Outcome
from lposekit.records import Columns, StoredQuery
from lposekit.stored_address import stored_address

MAX_ERROR_CHARS = 500
LIST_COLUMNS = ("url", "caption")
Sample = tuple[str, Mapping[str, bytes]]
"""Key and members of one sample of the tar."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """Everything that one input row leaves behind. `samples` are read once, while the row is written."""

    key: str
    outcome: Outcome
    columns: Columns
    samples: Iterable[Sample] = ()
    thumbnail: bytes | None = None


def img2dataset_status(outcome: Outcome, stored: bool) -> str:
    """img2dataset's status of a row: `success` exactly for rows that have a sample in the tar."""
    if stored:
        return "success"
    return "failed_to_download" if outcome.facts.before_decode else "failed_to_resize"


def row_columns(
    own: Iterable[str],
    *,
    key: str,
    url: str | None,
    caption: str,
    extra: Mapping[str, object],
    outcome: Outcome,
    detail: str,
    stored: bool,
    query: StoredQuery = "all",
) -> dict[str, object]:
    """The list's columns as they came, then ours (`own`): empty, but for key, status, outcome and message.

    Of addresses, user names, passwords and what `query` says are left out (see `stored_address`). Of a removed row
    nothing stays of what the list said.
    """
    own = tuple(own)
    if outcome is Outcome.REMOVED:
        return removed_columns((*LIST_COLUMNS, *extra, *own), key, detail)
    message = None if outcome is Outcome.KEPT else f"{outcome.value}: {detail}"[:MAX_ERROR_CHARS]
    return {
        "url": _shown(url, query),
        "caption": caption,
        **{name: _shown(value, query) for name, value in extra.items() if name not in own},
        **dict.fromkeys(own),
        "key": key,
        "status": img2dataset_status(outcome, stored),
        "error_message": message,
        "outcome": outcome.value,
    }


def removed_columns(names: Iterable[str], key: object, detail: str) -> dict[str, object]:
    """What stays of a row that was removed: that there was one, and its key."""
    status = img2dataset_status(Outcome.REMOVED, stored=False)
    message = f"{Outcome.REMOVED.value}: {detail}"
    return {
        **dict.fromkeys(names),
        "key": key,
        "status": status,
        "error_message": message,
        "outcome": Outcome.REMOVED.value,
    }


def _shown(value: object, query: StoredQuery) -> object:
    return stored_address(value, query) if isinstance(value, str) else value


def rows_table(rows: Sequence[Columns], own: Mapping[str, pa.DataType]) -> pa.Table:
    """The parquet table of a shard, one row per input row; `own`: our columns and their types."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or [*LIST_COLUMNS, *own]
    types = {**dict.fromkeys(LIST_COLUMNS, pa.string()), **own}
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        arrays.append(pa.array(values, types[name]) if name in types else free_column(values))
    return pa.Table.from_arrays(arrays, names=names)


def free_column(values: Sequence[object]) -> pa.Array:
    """A pass-through column; one whose values have several types becomes text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
