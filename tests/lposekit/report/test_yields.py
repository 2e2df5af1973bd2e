"""Contract of `lposekit.report.yields`: on whole columns, exactly what `keep_verdict` says image by image."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from lposekit.errors import Outcome
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, PersonRule, keep_verdict
from lposekit.records import Person
from lposekit.report.yields import person_columns, score_curve, yield_curve
from lposekit.shards.pose_json import person_from_record, person_record, round_person
from pipelines.image.rows import PERSON_TYPE

FORMATS = ["coco17", "wholebody133"]


def random_person(rng: np.random.Generator, width: int, height: int, num_keypoints: int) -> Person:
    """Boxes around all three gates of validity, keypoints around the threshold and the border, some not finite."""
    x, y = rng.uniform(-5, width - 60), rng.uniform(-5, height - 60)
    box_width, box_height = rng.choice([30, 47.99, 48, 60, 200]), rng.choice([30, 48, 48.01, 150])
    keypoints_K3 = rng.uniform(-0.05, 1.05, (num_keypoints, 3)).astype(np.float32) * (width, height, 1)
    keypoints_K3[rng.random(num_keypoints) < 0.03] = np.nan
    keypoints_K3[rng.random(num_keypoints) < 0.1, 2] = 0.4
    bbox = np.array([x, y, x + box_width, y + box_height], np.float32)
    return round_person(Person(bbox, float(rng.choice([0.3, 0.5, 0.9])), keypoints_K3.astype(np.float32)))


def random_rows(seed: int, format_name: str, num_rows: int = 80) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    keypoint_format = KEYPOINT_FORMATS[format_name]
    rows = []
    for _ in range(num_rows):
        width, height = int(rng.integers(200, 700)), int(rng.integers(200, 700))
        persons = [random_person(rng, width, height, keypoint_format.num_keypoints) for _ in range(rng.integers(0, 5))]
        if len(persons) > 1 and rng.random() < 0.3:  # two persons of the same area
            persons[1] = Person(persons[0].bbox_xyxy, persons[0].bbox_score, persons[1].keypoints_K3)
        records = [person_record(person, width, height, 0.4, keypoint_format) for person in persons]
        rows.append({"width": width, "height": height, "persons": records if rng.random() > 0.1 else None})
    return rows


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([("width", pa.int32()), ("height", pa.int32()), ("persons", pa.list_(PERSON_TYPE))])
    # two chunks, as rows of several shards have
    half = len(rows) // 2
    return pa.concat_tables([pa.Table.from_pylist(part, schema=schema) for part in (rows[:half], rows[half:])])


def verdicts(rows: list[dict[str, Any]], rule: KeepRule, format_name: str) -> int:
    kept = 0
    for row in table_of(rows).to_pylist():
        persons = [person_from_record(record, KEYPOINT_FORMATS[format_name]) for record in row["persons"] or []]
        kept += keep_verdict(persons, row["width"], row["height"], rule, KEYPOINT_FORMATS[format_name]) is Outcome.KEPT
    return kept


@pytest.mark.parametrize("person_rule", get_args(PersonRule))
@pytest.mark.parametrize("format_name", FORMATS)
def test_yield_equals_the_verdicts_row_by_row(person_rule: PersonRule, format_name: str) -> None:
    # Mutations, each red: np.maximum.at -> np.minimum.at; lexsort without the area; >= -> > in valid_persons.
    rows = random_rows(11, format_name)
    rule = KeepRule(0.4, person_rule=person_rule)
    shares = [0.0, 0.25, 7 / 17, 0.5, 9 / 17, 0.53, 0.75, 1.0]
    curve = yield_curve(person_columns(table_of(rows), KEYPOINT_FORMATS[format_name]), rule, shares)
    expected = [verdicts(rows, KeepRule(0.4, share, person_rule), format_name) for share in shares]
    assert curve.tolist() == expected
    assert expected[0] > expected[-1] >= 0


@pytest.mark.parametrize("person_rule", get_args(PersonRule))
def test_score_curve_equals_the_verdicts_row_by_row(person_rule: PersonRule) -> None:
    rows = random_rows(7, "coco17")
    thresholds = [0.0, 0.2, 0.4, 0.6, 1.5]
    columns = person_columns(table_of(rows), KEYPOINT_FORMATS["coco17"])
    curve = score_curve(columns, KeepRule(0.4, person_rule=person_rule), thresholds)
    assert curve.tolist() == [verdicts(rows, KeepRule(t, person_rule=person_rule), "coco17") for t in thresholds]


def test_stored_nulls_count_as_not_detected() -> None:
    columns = person_columns(table_of(random_rows(3, "coco17")), KEYPOINT_FORMATS["coco17"])
    assert np.isnan(columns.body17_PK3).any()


def test_a_table_without_persons_keeps_nothing() -> None:
    for rows in ([], [{"width": 10, "height": 10, "persons": None}, {"width": 10, "height": 10, "persons": []}]):
        columns = person_columns(table_of(rows), KEYPOINT_FORMATS["coco17"])
        assert yield_curve(columns, KeepRule(0.4), [0.0, 1.0]).tolist() == [0, 0]


def test_yield_never_rises_with_a_stricter_rule() -> None:
    columns = person_columns(table_of(random_rows(5, "coco17")), KEYPOINT_FORMATS["coco17"])
    for curve in (
        yield_curve(columns, KeepRule(0.4), np.linspace(0, 1, 18).tolist()),
        score_curve(columns, KeepRule(0.4), np.linspace(0, 2, 21).tolist()),
    ):
        assert (np.diff(curve) <= 0).all()
        assert not math.isnan(float(curve[0]))
