"""What the report of a dataset of poses says beyond `DatasetFacts`: persons, frames, coverage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from lposekit.report.facts import DatasetFacts
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.tables import shard_table

MAX_PERSON_BARS = 10
COVERAGE_BARS = 10


@dataclass(slots=True, kw_only=True)
class PoseFacts(DatasetFacts):
    """Counts over all committed shards of a dataset of poses, over the clips that have poses stored.

    `persons`: clips by number of persons, from `MAX_PERSON_BARS` on together. `coverage`: clips by the share of
    their frames with the largest person, gaps filled, in steps of 1 / `COVERAGE_BARS`.
    """

    num_frames: int = 0
    seconds: float = 0.0
    persons: Counter[int] = field(default_factory=Counter)
    coverage: Counter[int] = field(default_factory=Counter)


def gather_pose_facts(dataset: PoseDataset) -> PoseFacts:
    """Read all rows of a dataset of poses once."""
    facts, layout = PoseFacts(), DatasetLayout(dataset.root)
    columns = ["num_frames", "fps", "num_persons", "coverage_filled"]
    for shard in dataset.shards:
        rows = shard_table(layout, layout.parquet(shard.shard))
        facts.add_shard(shard, layout.read_stats(shard.shard), rows)
        for num_frames, fps, persons, coverage in zip(*(rows[name].to_pylist() for name in columns), strict=True):
            if persons is None:
                continue
            facts.num_frames += num_frames
            facts.seconds += num_frames / fps
            facts.persons[min(persons, MAX_PERSON_BARS)] += 1
            if persons:
                # the small addition, so that 0.3 falls into the bin from 0.3 on
                facts.coverage[min(int(coverage * COVERAGE_BARS + 1e-9), COVERAGE_BARS - 1)] += 1
    return facts
