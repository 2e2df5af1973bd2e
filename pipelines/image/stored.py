"""Rows of a committed shard, read back: what `retry` and `refilter` take over unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from lposekit.errors import Outcome
from lposekit.records import ImageRow, Person
from lposekit.shards.dataset import read_members
from lposekit.shards.index import ShardIndex, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import person_from_record
from pipelines.image.plan import PlannedRow, ShardPlan
from pipelines.image.rows import OWN_COLUMNS, RowResult
from pipelines.image.shard import KnownPose, RetryInput


@dataclass(frozen=True, slots=True)
class StoredShard:
    """The rows of one committed shard, in row order."""

    columns: list[dict[str, Any]]
    thumbnails: dict[str, bytes]
    index: ShardIndex
    places: dict[str, int]
    """Key -> place of the sample in the index."""

    def row(self, position: int) -> ImageRow:
        """The input row, as the list gave it."""
        columns = self.columns[position]
        extra = {k: v for k, v in columns.items() if k not in OWN_COLUMNS and k not in ("url", "caption")}
        return ImageRow(columns["key"], columns["url"], columns["caption"] or "", extra)

    def outcome(self, position: int) -> Outcome:
        return Outcome(self.columns[position]["outcome"])

    def is_stored(self, position: int) -> bool:
        """Whether the row has a sample in the tar."""
        return self.columns[position]["key"] in self.places

    def persons(self, position: int) -> list[Person] | None:
        """The persons that the pose model found; None when it never saw the picture."""
        records = self.columns[position]["persons"]
        return None if records is None else [person_from_record(record) for record in records]

    def result(self, position: int) -> RowResult:
        """Everything that the row left, sample and thumbnail included."""
        columns = self.columns[position]
        key = columns["key"]
        members = read_members(self.index, self.places[key]) if key in self.places else {}
        return RowResult(key, self.outcome(position), columns, members, self.thumbnails.get(key))


def read_stored_shard(layout: DatasetLayout, shard: int) -> StoredShard:
    """Read one committed shard back.

    Raises:
        LposekitError: its index is missing or damaged.
    """
    index = read_shard_index(layout, shard)
    thumbnails = pq.read_table(layout.thumbnails(shard)).to_pylist() if layout.thumbnails(shard).exists() else []
    return StoredShard(
        pq.read_table(layout.parquet(shard)).to_pylist(),
        {row["key"]: row["jpeg"] for row in thumbnails},
        index,
        {key: place for place, key in enumerate(index.keys)},
    )


NEEDS_PIXELS = "needs_pixels.parquet"
"""Below ``_dataset``: rows that `refilter` would keep, had their pixels been stored."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """Rows of one committed shard to fetch again: those with these outcomes."""

    shard: int
    outcomes: frozenset[Outcome]


def load_retry(layout: DatasetLayout, retry: RetryPlan) -> tuple[ShardPlan, RetryInput]:
    """The shard's plan, and what of its earlier build stays."""
    stored = read_stored_shard(layout, retry.shard)
    wanted = _rows_that_need_pixels(layout)
    carried: dict[int, RowResult] = {}
    known: dict[int, KnownPose] = {}
    for position, columns in enumerate(stored.columns):
        outcome, persons = stored.outcome(position), stored.persons(position)
        if outcome not in retry.outcomes or (persons is not None and columns["key"] not in wanted):
            carried[position] = stored.result(position)
        elif persons is not None:
            known[position] = KnownPose(columns["sha256"], persons)
    rows = tuple(PlannedRow(stored.row(position)) for position in range(len(stored.columns)))
    return ShardPlan(retry.shard, rows), RetryInput(carried, known)


def _rows_that_need_pixels(layout: DatasetLayout) -> set[str]:
    path = layout.meta / NEEDS_PIXELS
    return set(pq.read_table(path)["key"].to_pylist()) if path.exists() else set()
