"""A committed shard, read back: what `retry` and `refilter` take over unchanged; the same for every kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lposekit.errors import LposekitError, Outcome
from lposekit.records import Columns
from lposekit.shards.dataset import read_members, thumbnails_of
from lposekit.shards.index import ShardIndex, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult, Sample
from lposekit.shards.tables import shard_table


@dataclass(frozen=True, slots=True)
class StoredShard:
    """The rows of one committed shard, in row order."""

    columns: list[Columns]
    thumbnails: dict[str, bytes]
    index: ShardIndex
    places: dict[str, int]
    """Key -> place of the sample in the index."""

    def __len__(self) -> int:
        return len(self.columns)

    def outcome(self, position: int) -> Outcome:
        return Outcome(self.columns[position]["outcome"])

    def is_stored(self, position: int) -> bool:
        """Whether the row has a sample in the tar."""
        return bool(self._sample_keys(position))

    def result(self, position: int) -> RowResult:
        """Everything that the row left, samples and thumbnail included."""
        columns = self.columns[position]
        thumbnail = self.thumbnails.get(columns["key"])
        return RowResult(columns["key"], self.outcome(position), columns, tuple(self._samples(position)), thumbnail)

    def _samples(self, position: int) -> Iterator[Sample]:
        return ((key, read_members(self.index, self.places[key])) for key in self._sample_keys(position))

    def _sample_keys(self, position: int) -> list[str]:
        """A row's one sample carries its key; a video's clips are named in its row."""
        columns = self.columns[position]
        named = columns["clip_keys"] if "clip_keys" in columns else [columns["key"]]
        return [key for key in named or () if key in self.places]


def read_stored_shard(layout: DatasetLayout, shard: int) -> StoredShard:
    """Read one committed shard back.

    Raises:
        LposekitError: its index or its rows are missing or damaged.
    """
    index = read_shard_index(layout, shard)
    thumbnails = thumbnails_of(layout, shard)
    rows = shard_table(layout, layout.parquet(shard)).to_pylist()
    if (problem := _problem_of(rows)) is not None:
        raise LposekitError(
            f"{layout.parquet(shard)}: {problem}. Run `lposekit verify {layout.root}` to see all damage."
        )
    return StoredShard(
        rows,
        {} if thumbnails is None else {row["key"]: row["jpeg"] for row in thumbnails.to_pylist()},
        index,
        {key: place for place, key in enumerate(index.keys)},
    )


def _problem_of(rows: list[Columns]) -> str | None:
    """What keeps rows of a stranger from being taken over; None if nothing does."""
    for position, row in enumerate(rows):
        if not isinstance(row.get("key"), str):
            return f"row {position} has no key"
        try:
            Outcome(row.get("outcome"))
        except ValueError:
            return f"row {row['key']} has the outcome {row.get('outcome')!r:.60}, which does not exist"
        if not all(isinstance(key, str) for key in row.get("clip_keys") or ()):
            return f"row {row['key']} has clip_keys that are no texts"
    return None


def shards_with(layout: DatasetLayout, outcomes: frozenset[Outcome]) -> list[int]:
    """The committed shards that have a row with one of these outcomes."""
    return [
        shard
        for shard in layout.committed_shards()
        if any(outcome.value in layout.read_stats(shard).outcomes for outcome in outcomes)
    ]
