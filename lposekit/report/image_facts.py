"""What the report of an image dataset says beyond `DatasetFacts`: persons, keypoints, and the yield of other rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lposekit.errors import LposekitError, Outcome
from lposekit.keypoints import KeepRule, KeypointFormat, num_detected
from lposekit.records import Columns, Person
from lposekit.report.facts import DatasetFacts
from lposekit.report.row_list import Number
from lposekit.report.rows import report_rows
from lposekit.report.yields import (
    PersonColumns,
    deciding_counts,
    detected_keypoints,
    person_columns,
    score_curve,
    valid_persons,
    yield_curve,
)
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import person_from_record

JUDGED_OUTCOMES = (Outcome.KEPT, Outcome.FEW_KEYPOINTS, Outcome.NO_PERSON)
"""Outcomes of rows that the keep rule judged: what the yield is a share of."""
PERSON = pa.struct(
    [("bbox", pa.list_(pa.float64())), ("bbox_score", pa.float64()), ("keypoints", pa.list_(pa.float64()))]
)
MAX_PERSON_BARS = 10
MIN_DETECTED_STEPS = tuple(i * 1000 // 17 / 1000 for i in range(18))
"""0/17 to 17/17, rounded down to the thousandths that the keep rule compares: step i asks for i keypoints."""


@dataclass(slots=True, kw_only=True)
class ImageFacts(DatasetFacts):
    """Counts over all committed shards of an image dataset."""

    columns: ClassVar[Mapping[str, pa.DataType]] = {
        **dict.fromkeys(("width", "height", "num_persons"), pa.int64()),
        "persons": pa.list_(PERSON),
    }
    number_names: ClassVar[tuple[str, ...]] = ("persons", "keypoints")
    rule: KeepRule
    keypoint_format: KeypointFormat
    score_steps: tuple[float, ...]
    persons: Counter[int] = field(default_factory=Counter)
    persons_kept: Counter[int] = field(default_factory=Counter)
    detected: Counter[int] = field(default_factory=Counter)
    detected_kept: Counter[int] = field(default_factory=Counter)
    yield_counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(MIN_DETECTED_STEPS), np.int64))
    """Images kept at each of `MIN_DETECTED_STEPS`."""
    score_counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Images kept at each of `score_steps`."""
    num_passing: int = 0
    """Images that the card's own keep rule keeps, counted afresh."""

    def numbers_of(self, rows: pa.Table) -> Sequence[Sequence[Number]]:
        """Persons, and the most keypoints detected on one of them."""
        persons = person_columns(rows, self.keypoint_format)
        best_R = np.full(len(rows), -1)
        np.maximum.at(best_R, persons.row_P, detected_keypoints(persons, self.rule.keypoint_score_threshold))
        return rows["num_persons"].to_pylist(), [None if best < 0 else best for best in best_R.tolist()]

    @property
    def num_judged(self) -> int:
        return sum(self.outcomes[outcome.value] for outcome in JUDGED_OUTCOMES)


def gather_image_facts(dataset: PoseDataset) -> ImageFacts:
    """Read all rows of an image dataset once.

    Raises:
        LposekitError: the card cannot be understood.
    """
    rule, keypoint_format = keep_rule_of(dataset.card)
    top_score = max(1.0, 2 * rule.keypoint_score_threshold)
    score_steps = tuple(round(top_score * i / 40, 6) for i in range(41))
    facts = ImageFacts(
        rule=rule,
        keypoint_format=keypoint_format,
        score_steps=score_steps,
        score_counts=np.zeros(len(score_steps), np.int64),
    )
    facts.expect(dataset)
    layout = DatasetLayout(dataset.root)
    for shard in dataset.shards:
        rows = report_rows(layout, shard.shard, facts.columns)
        judged = rows.filter(pc.field("outcome").isin([outcome.value for outcome in JUDGED_OUTCOMES]))
        kept_R = np.array(judged["outcome"].to_pylist(), object) == Outcome.KEPT.value
        try:
            persons = person_columns(judged, keypoint_format)
        except ValueError as error:
            raise LposekitError(
                f"{layout.parquet(shard.shard)}: {error}. Build the shard again, or verify the dataset."
            ) from error
        facts.add_shard(shard, layout.read_stats(shard.shard), rows)
        _add_persons(facts, persons, kept_R)
    return facts


def persons_of(row: Columns, facts: ImageFacts) -> list[Person]:
    """The persons of a row.

    Raises:
        LposekitError: they are damaged; names the row.
    """
    try:
        return [person_from_record(person, facts.keypoint_format) for person in row["persons"] or []]
    except ValueError as error:
        raise LposekitError(f"row {row['key']}: persons: {error}. Build its shard again.") from error


def keypoints_detected(row: Columns, facts: ImageFacts) -> list[int]:
    """How many of the body keypoints are detected on each person of a row."""
    # a row that ended before the pose model need not have a size
    height, width = row["height"] or 1, row["width"] or 1
    threshold, body17 = facts.rule.keypoint_score_threshold, facts.keypoint_format.body17
    return [num_detected(person.keypoints_K3, width, height, threshold, body17) for person in persons_of(row, facts)]


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
