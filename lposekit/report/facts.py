"""What every report says about a dataset folder, gathered in one pass over its shards.

One shard's columns are in memory at a time; what stays are counts, and the rows that the page shows.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from lposekit.errors import Outcome
from lposekit.records import Columns
from lposekit.report.row_list import Number, RowList
from lposekit.report.rows import report_rows
from lposekit.report.spread import spread
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.stage_times import sum_times

LICENCE_COLUMNS = ("license", "licence")
EXAMPLES_PER_OUTCOME = 3
MAX_SHARDS_LISTED = 200


@dataclass(slots=True)
class ShardFacts:
    """One committed shard in a line."""

    name: str
    num_rows: int
    num_samples: int
    num_kept: int
    num_bytes: int
    duration_s: float
    outcomes: dict[str, int]

    @property
    def main_loss(self) -> str:
        """The most frequent outcome other than kept."""
        lost = {name: n for name, n in self.outcomes.items() if name != Outcome.KEPT and n}
        return max(lost, key=lambda name: lost[name]) if lost else ""


@dataclass(slots=True, kw_only=True)
class DatasetFacts:
    """Counts over all committed shards. `num_rows_stated`: rows by the commit markers; `num_rows`: by the tables."""

    columns: ClassVar[Mapping[str, pa.DataType]] = {}
    """Of the table of this kind, beside those of all kinds."""
    number_names: ClassVar[tuple[str, ...]] = ()
    """Of the numbers by which rows of this kind are found."""
    shards: list[ShardFacts] = field(default_factory=list)
    """The first `MAX_SHARDS_LISTED`: there may be 400,000."""
    samples_by_shard: array[int] = field(default_factory=lambda: array("q"))
    outcomes_by_shard: dict[str, array[int]] = field(default_factory=dict)
    """Outcome -> rows of each shard up to the last that has it."""
    num_bytes: int = 0
    num_rows_stated: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    has_licence_column: bool = False
    examples: dict[str, list[Columns]] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, added up over the shards that state them."""
    listed: RowList = field(default_factory=RowList)

    def numbers_of(self, rows: pa.Table) -> Sequence[Sequence[Number]]:
        """The columns of `number_names` of some rows."""
        return ()

    def expect(self, dataset: PoseDataset) -> None:
        """Before the first shard: how many rows there will be decides which are listed."""
        layout = DatasetLayout(dataset.root)
        total = sum(layout.read_stats(shard.shard).count for shard in dataset.shards)
        self.listed = RowList.of(total, self.number_names)

    @property
    def num_shards(self) -> int:
        return len(self.samples_by_shard)

    @property
    def num_samples(self) -> int:
        return sum(self.samples_by_shard)

    @property
    def num_rows(self) -> int:
        return sum(self.outcomes.values())

    @property
    def num_kept(self) -> int:
        return self.outcomes[Outcome.KEPT.value]

    def add_shard(self, shard: ShardIndex, stats: ShardStats, rows: pa.Table) -> None:
        """Count one shard: its index, its commit marker, its table."""
        outcomes = Counter(rows["outcome"].to_pylist())
        self.outcomes.update(outcomes)
        self.num_rows_stated += stats.count
        num_bytes = sum(entry.bytes for entry in stats.files.values())
        if self.num_shards < MAX_SHARDS_LISTED:
            self.shards.append(
                ShardFacts(
                    name=shard.name,
                    num_rows=stats.count,
                    num_samples=len(shard),
                    num_kept=outcomes[Outcome.KEPT.value],
                    num_bytes=num_bytes,
                    duration_s=stats.duration or 0.0,
                    outcomes=dict(outcomes),
                )
            )
        self.num_bytes += num_bytes
        for outcome, number in outcomes.items():
            counts = self.outcomes_by_shard.setdefault(outcome, array("q"))
            counts.extend([0] * (self.num_shards - len(counts)))
            counts.append(number)
        self.samples_by_shard.append(len(shard))
        self.timings_s = sum_times([self.timings_s, stats.timings_s or {}])
        self._add_licences(rows)
        self._add_examples(rows)
        self.listed.add(rows, self.numbers_of)

    def _add_licences(self, rows: pa.Table) -> None:
        for name in rows.column_names:
            if name.lower() in LICENCE_COLUMNS:
                self.has_licence_column = True
                kept = rows.filter(pc.field("outcome") == Outcome.KEPT.value)
                self.licences.update(_licence(value) for value in kept[name].to_pylist())
                return

    def _add_examples(self, rows: pa.Table) -> None:
        """The first few rows of each outcome, for the table of outcomes."""
        columns = rows.select(["key", "url", "outcome", "error_message"])
        for outcome in sorted(set(columns["outcome"].to_pylist()) - {Outcome.KEPT.value}):
            found = self.examples.setdefault(outcome, [])
            if len(found) < EXAMPLES_PER_OUTCOME:
                matching = columns.filter(pc.field("outcome") == outcome)
                found.extend(matching.slice(0, EXAMPLES_PER_OUTCOME - len(found)).to_pylist())


def _licence(value: object) -> str:
    # "?" is LAION's own word for it
    return "not stated" if value in (None, "", "?") else str(value)


def spread_rows(
    dataset: PoseDataset, facts: DatasetFacts, outcome: Outcome, wanted: int
) -> Iterator[tuple[ShardIndex, Columns]]:
    """Rows of one outcome, spread evenly over all shards, with the shard that each belongs to."""
    counts = facts.outcomes_by_shard.get(outcome.value, array("q"))
    layout = DatasetLayout(dataset.root)
    ordinals = spread(sum(counts), wanted)
    first = 0
    for place, count in enumerate(counts):
        here = [ordinal - first for ordinal in ordinals if first <= ordinal < first + count]
        first += count
        if here:
            shard = dataset.shards[place]
            rows = report_rows(layout, shard.shard, facts.columns, pc.field("outcome") == outcome.value)
            yield from ((shard, row) for row in _take(rows, here))


def _take(rows: pa.Table, positions: Sequence[int]) -> list[Columns]:
    return rows.take(pa.array(positions, pa.int64())).to_pylist()
