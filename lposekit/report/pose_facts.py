"""What the report of a dataset of poses says beyond `DatasetFacts`: persons, frames, coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from lposekit.errors import LposekitError
from lposekit.report.facts import DatasetFacts
from lposekit.report.row_list import Number
from lposekit.report.rows import report_rows
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.layout import DatasetLayout

MAX_PERSON_BARS = 10
COVERAGE_BARS = 10


@dataclass(slots=True, kw_only=True)
class PoseFacts(DatasetFacts):
    """Counts over all committed shards of a dataset of poses, over the clips that have poses stored.

    `persons`: clips by number of persons, from `MAX_PERSON_BARS` on together. `coverage`: clips by the share of
    their frames with the largest person, gaps filled, in steps of 1 / `COVERAGE_BARS`.
    """

    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "num_frames": pa.int64(),
        "fps": pa.float64(),
        "num_persons": pa.int64(),
        "coverage_filled": pa.float64(),
    }
    number_names: ClassVar[tuple[str, ...]] = ("persons", "coverage")
    num_frames: int = 0
    seconds: float = 0.0
    persons: Counter[int] = field(default_factory=Counter)
    coverage: Counter[int] = field(default_factory=Counter)

    def numbers_of(self, rows: pa.Table) -> Sequence[Sequence[Number]]:
        """Persons of each clip, and the share of its frames with the largest one."""
        coverages = rows["coverage_filled"].to_pylist()
        shown = [round(share, 3) if share is not None and 0 <= share <= 1 else None for share in coverages]
        return rows["num_persons"].to_pylist(), shown


def gather_pose_facts(dataset: PoseDataset) -> PoseFacts:
    """Read all rows of a dataset of poses once."""
    facts, layout = PoseFacts(), DatasetLayout(dataset.root)
    facts.expect(dataset)
    for shard in dataset.shards:
        rows = report_rows(layout, shard.shard, facts.columns)
        facts.add_shard(shard, layout.read_stats(shard.shard), rows)
        cells = (rows[name].to_pylist() for name in ("key", *facts.columns))
        for key, num_frames, fps, persons, coverage in zip(*cells, strict=True):
            if persons is None:
                continue
            if num_frames is None or not (fps or 0) > 0 or not 0 <= (coverage or 0) <= 1:
                raise LposekitError(
                    f"{layout.parquet(shard.shard)}: row {key}: its frames, fps or coverage cannot be "
                    f"({num_frames}, {fps}, {coverage}). Build the shard again."
                )
            facts.num_frames += num_frames
            facts.seconds += num_frames / fps
            facts.persons[min(persons, MAX_PERSON_BARS)] += 1
            if persons:
                # the small addition, so that 0.3 falls into the bin from 0.3 on
                facts.coverage[min(int((coverage or 0) * COVERAGE_BARS + 1e-9), COVERAGE_BARS - 1)] += 1
    return facts
