"""What the report of an image dataset says, gathered in one pass over the shards.

One shard's columns are in memory at a time; what stays are counts, and the rows that the page shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lposekit.errors import LposekitError, Outcome
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, KeypointFormat
from lposekit.report.yields import (
    PersonColumns,
    deciding_counts,
    person_columns,
    score_curve,
    valid_persons,
    yield_curve,
)
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout

THUMBNAIL_OUTCOMES = (Outcome.FEW_KEYPOINTS, Outcome.NO_PERSON, Outcome.TOO_SMALL)
JUDGED_OUTCOMES = (Outcome.KEPT, Outcome.FEW_KEYPOINTS, Outcome.NO_PERSON)
"""Outcomes of rows that the keep rule judged: what the yield is a share of."""
LICENCE_COLUMNS = ("license", "licence")
MAX_PERSON_BARS = 10
EXAMPLES_PER_OUTCOME = 3
MIN_DETECTED_STEPS = tuple(i * 1000 // 17 / 1000 for i in range(18))
"""0/17 to 17/17, rounded down to the thousandths that the keep rule compares: step i asks for i keypoints."""


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


@dataclass(slots=True)
class ImageFacts:
    """Counts over all committed shards of an image dataset."""

    rule: KeepRule
    keypoint_format: KeypointFormat
    score_steps: tuple[float, ...]
    shards: list[ShardFacts] = field(default_factory=list)
    num_rows_stated: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    persons: Counter[int] = field(default_factory=Counter)
    persons_kept: Counter[int] = field(default_factory=Counter)
    detected: Counter[int] = field(default_factory=Counter)
    detected_kept: Counter[int] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    has_licence_column: bool = False
    yield_counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(MIN_DETECTED_STEPS), np.int64))
    """Pictures kept at each of `MIN_DETECTED_STEPS`."""
    score_counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Pictures kept at each of ``score_steps``."""
    num_passing: int = 0
    """Pictures that the card's own keep rule keeps, counted afresh."""
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(self.outcomes.values())

    @property
    def num_judged(self) -> int:
        return sum(self.outcomes[outcome.value] for outcome in JUDGED_OUTCOMES)

    @property
    def num_kept(self) -> int:
        return self.outcomes[Outcome.KEPT.value]


def keep_rule_of(card: dict[str, Any]) -> tuple[KeepRule, KeypointFormat]:
    """The keep rule and the keypoint format that a card names.

    Raises:
        LposekitError: the card lacks them, or names a format that this version does not know.
    """
    try:
        names = KeepRule.__dataclass_fields__.keys()
        rule = KeepRule(**{name: value for name, value in card["keep_rule"].items() if name in names})
        return rule, KEYPOINT_FORMATS[card["keypoint_format"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise LposekitError(
            f"the dataset card has no keep rule and keypoint format that this version reads ({error!r}). "
            "Run `lposekit verify` on the folder, or upgrade lposekit."
        ) from error


def gather_facts(dataset: PoseDataset) -> ImageFacts:
    """Read all rows of an image dataset once.

    Raises:
        LposekitError: the card cannot be understood.
    """
    rule, keypoint_format = keep_rule_of(dataset.card)
    top_score = max(1.0, 2 * rule.keypoint_score_threshold)
    score_steps = tuple(round(top_score * i / 40, 6) for i in range(41))
    facts = ImageFacts(rule, keypoint_format, score_steps, score_counts=np.zeros(len(score_steps), np.int64))
    layout = DatasetLayout(dataset.root)
    for shard in dataset.shards:
        _add_shard(facts, shard, layout.read_stats(shard.shard), pq.read_table(layout.parquet(shard.shard)))
    return facts


def _add_shard(facts: ImageFacts, shard: ShardIndex, stats: dict[str, Any], rows: pa.Table) -> None:
    outcomes = Counter(rows["outcome"].to_pylist())
    facts.outcomes.update(outcomes)
    facts.num_rows_stated += stats["count"]
    facts.shards.append(
        ShardFacts(
            name=shard.name,
            num_rows=stats["count"],
            num_samples=len(shard.keys),
            num_kept=outcomes[Outcome.KEPT.value],
            num_bytes=sum(entry["bytes"] for entry in stats.get("files", {}).values()),
            duration_s=float(stats.get("duration", 0.0)),
            outcomes=dict(outcomes),
        )
    )
    judged = rows.filter(pc.field("outcome").isin([outcome.value for outcome in JUDGED_OUTCOMES]))
    kept_R = np.array(judged["outcome"].to_pylist(), object) == Outcome.KEPT.value
    _add_persons(facts, person_columns(judged, facts.keypoint_format), kept_R)
    _add_licences(facts, rows)
    _add_examples(facts, rows)


def _add_persons(facts: ImageFacts, persons: PersonColumns, kept_R: npt.NDArray[np.bool_]) -> None:
    rule = facts.rule
    facts.yield_counts += yield_curve(persons, rule, MIN_DETECTED_STEPS)
    facts.score_counts += score_curve(persons, rule, facts.score_steps)
    people_R = np.bincount(persons.row_P[valid_persons(persons, rule)], minlength=persons.num_rows)
    people_R = np.minimum(people_R, MAX_PERSON_BARS)
    count_R, total_R = deciding_counts(persons, rule)
    facts.num_passing += int(yield_curve(persons, rule, [rule.min_detected])[0])
    of_17_R = np.where(count_R >= 0, count_R * len(facts.keypoint_format.body17) // total_R, -1)
    facts.persons.update(people_R.tolist())
    facts.persons_kept.update(people_R[kept_R].tolist())
    facts.detected.update(of_17_R[of_17_R >= 0].tolist())
    facts.detected_kept.update(of_17_R[kept_R & (of_17_R >= 0)].tolist())


def _add_licences(facts: ImageFacts, rows: pa.Table) -> None:
    for name in rows.column_names:
        if name.lower() in LICENCE_COLUMNS:
            facts.has_licence_column = True
            kept = rows.filter(pc.field("outcome") == Outcome.KEPT.value)
            facts.licences.update(
                str(value) if value not in (None, "", "?") else "not stated" for value in kept[name].to_pylist()
            )
            return


def _add_examples(facts: ImageFacts, rows: pa.Table) -> None:
    """The first few rows of each outcome that has no picture, for the table of outcomes."""
    columns = rows.select(["key", "url", "outcome", "error_message"])
    shown = {outcome.value for outcome in (*JUDGED_OUTCOMES, Outcome.TOO_SMALL)}
    for outcome in sorted(set(columns["outcome"].to_pylist()) - shown):
        found = facts.examples.setdefault(outcome, [])
        if len(found) < EXAMPLES_PER_OUTCOME:
            matching = columns.filter(pc.field("outcome") == outcome)
            found.extend(matching.slice(0, EXAMPLES_PER_OUTCOME - len(found)).to_pylist())


def spread(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` of the numbers 0 .. total - 1, evenly spread: the same choice for the same dataset."""
    wanted = min(total, wanted)
    return [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]


def spread_rows(
    dataset: PoseDataset, facts: ImageFacts, outcome: Outcome, wanted: int
) -> Iterator[tuple[ShardIndex, dict[str, Any]]]:
    """Rows of one outcome, spread evenly over all shards, with the shard that each belongs to."""
    counts = [shard.outcomes.get(outcome.value, 0) for shard in facts.shards]
    layout = DatasetLayout(dataset.root)
    ordinals = spread(sum(counts), wanted)
    first = 0
    for shard, count in zip(dataset.shards, counts, strict=True):
        here = [ordinal - first for ordinal in ordinals if first <= ordinal < first + count]
        first += count
        if here:
            rows = pq.read_table(layout.parquet(shard.shard), filters=pc.field("outcome") == outcome.value)
            yield from ((shard, row) for row in _take(rows, here))


def _take(rows: pa.Table, positions: Sequence[int]) -> list[dict[str, Any]]:
    return rows.take(pa.array(positions, pa.int64())).to_pylist()
