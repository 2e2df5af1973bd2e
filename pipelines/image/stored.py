"""Rows of a committed image shard, read back for `retry` and `refilter`."""

from __future__ import annotations

from dataclasses import dataclass

from lposekit.errors import LposekitError, Outcome
from lposekit.keypoints import KeypointFormat
from lposekit.records import Columns, ImageRow, Person
from lposekit.shards.card import read_card
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import person_from_record
from lposekit.shards.rows import LIST_COLUMNS, RowResult
from lposekit.shards.tables import shard_table
from lposekit.store_reads import kind_of
from pipelines.image.plan import ShardPlan
from pipelines.image.plan_rows import PlannedRow
from pipelines.image.rows import OWN_COLUMNS
from pipelines.image.shard import EarlierRows, KnownPose
from pipelines.job.stored import StoredShard, read_stored_shard

NEEDS_PIXELS = "needs_pixels.parquet"
"""Below `_dataset`: rows that `refilter` would keep, had their pixels been stored."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """Rows of one committed shard to fetch again: those with these outcomes."""

    shard: int
    outcomes: frozenset[Outcome]


def input_row(columns: Columns) -> ImageRow:
    """The input row of a stored one, as the list gave it."""
    extra = {name: value for name, value in columns.items() if name not in OWN_COLUMNS and name not in LIST_COLUMNS}
    return ImageRow(columns["key"], columns["url"], columns["caption"] or "", extra)


def stored_persons(stored: StoredShard, position: int, keypoint_format: KeypointFormat) -> list[Person] | None:
    """The persons that the pose model found; None when it never saw the image.

    Raises:
        LposekitError: they are damaged; names the row.
    """
    return persons_of(stored.columns[position], keypoint_format, f"shard {stored.index.tar_path}")


def persons_of(columns: Columns, keypoint_format: KeypointFormat, where: str) -> list[Person] | None:
    """As `stored_persons`, of one row; `where` names its table."""
    try:
        records = columns["persons"]
        return None if records is None else [person_from_record(record, keypoint_format) for record in records]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        place = f"row {columns.get('key')} of {where}"
        raise LposekitError(f"{place}: its persons cannot be read ({error}). Build the shard again.") from error


def load_retry(layout: DatasetLayout, retry: RetryPlan) -> tuple[ShardPlan, EarlierRows]:
    """The shard's plan, and what of its earlier build stays."""
    stored = read_stored_shard(layout, retry.shard)
    wanted, (_, keypoint_format) = _rows_that_need_pixels(layout), keep_rule_of(read_card(layout))
    carried: dict[str, RowResult] = {}
    known: dict[str, KnownPose] = {}
    for position, columns in enumerate(stored.columns):
        key, persons = columns["key"], stored_persons(stored, position, keypoint_format)
        if stored.outcome(position) not in retry.outcomes or (persons is not None and key not in wanted):
            carried[key] = stored.result(position)
        elif persons is not None:
            known[key] = KnownPose(columns["sha256"], persons)
    rows = tuple(PlannedRow(input_row(columns)) for columns in stored.columns)
    return ShardPlan(retry.shard, rows), EarlierRows(carried, known)


def _rows_that_need_pixels(layout: DatasetLayout) -> set[str]:
    path = layout.meta / NEEDS_PIXELS
    if kind_of(layout.store, layout.relative(path)) is None:
        return set()
    return set(shard_table(layout, path, columns=["key"])["key"].to_pylist())
