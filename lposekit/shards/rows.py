"""What one input row leaves behind, the parquet table of a shard's rows, and its commit marker; the same for every kind
of dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lposekit.errors import Outcome
from lposekit.json_values import JsonObject
from lposekit.records import Columns
from lposekit.shards.stats import ShardStats

LIST_COLUMNS = ("url", "caption")
Sample = tuple[str, Mapping[str, bytes]]
"""Key and members of one sample of the tar."""
RowResults = Generator["RowResult", None, None]


@dataclass(frozen=True, slots=True)
class RowResult:
    """Everything that one input row leaves behind. `samples` are read once, while the row is written."""

    key: str
    outcome: Outcome
    columns: Columns
    samples: Iterable[Sample] = ()
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class ShardKind:
    """What shards of one kind have of their own: their parquet columns, and what they count beside rows."""

    columns: Mapping[str, pa.DataType]
    account: Callable[[Sequence[Columns]], JsonObject] = lambda rows: {}


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


def outcome_counts(rows: Sequence[Columns]) -> dict[str, int]:
    """Rows by outcome, sorted by name."""
    return dict(sorted(Counter(row["outcome"] for row in rows).items()))


def commit_marker(rows: Sequence[Columns], start: float, end: float) -> ShardStats:
    """The account of a shard's parquet rows: the fields of img2dataset's stats, and the outcomes.

    Args:
        rows: with `status` and `outcome`.
        start, end: Unix times.
    """
    statuses, outcomes = Counter(row["status"] for row in rows), outcome_counts(rows)
    return ShardStats(
        count=len(rows),
        successes=statuses["success"],
        failed_to_download=statuses["failed_to_download"],
        failed_to_resize=statuses["failed_to_resize"],
        duration=end - start,
        start_time=start,
        end_time=end,
        status_dict={"success" if name == "kept" else name: number for name, number in outcomes.items()},
        outcomes=outcomes,
    )
