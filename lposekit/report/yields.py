"""How many images another keep rule would keep: the keep rule on whole columns instead of one image at a time.

Equal to `lposekit.keypoints.keep_verdict` row by row (a test compares them); a dataset has millions of rows and the
curves ask for dozens of thresholds.

Arrays: `R` rows (images), `P` persons of all rows, `T` thresholds; K is always COCO's 17 body keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lposekit.keypoints import KeepRule, KeypointFormat

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PersonColumns:
    """All persons of `num_rows` images, in pixels of the stored images. `row_P`: image of each person."""

    num_rows: int
    row_P: Ints
    width_P: Ints
    height_P: Ints
    bbox_xyxy_P4: Floats
    bbox_score_P: Floats
    body17_PK3: Floats

    @property
    def area_P(self) -> Floats:
        size_P2 = self.bbox_xyxy_P4[:, 2:] - self.bbox_xyxy_P4[:, :2]
        return (size_P2[:, 0] * size_P2[:, 1]).astype(np.float32)


def person_columns(rows: pa.Table, keypoint_format: KeypointFormat) -> PersonColumns:
    """The persons of a table with the columns `width`, `height`, `persons`; rows without persons have none.

    Raises:
        ValueError: a person has not as many numbers as its format asks for.
    """
    persons = rows["persons"].combine_chunks()
    counts_R = pc.fill_null(pc.list_value_length(persons), 0).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    flat = persons.flatten()
    row_P = np.repeat(np.arange(len(rows)), counts_R)
    # added in double precision, as person_from_record does: a box at the edge of a gate falls on the same side
    xywh_P4 = _numbers(flat, "bbox", 4).reshape(-1, 4).astype(np.float64)
    keypoints_PK3 = _numbers(flat, "keypoints", 3 * keypoint_format.num_keypoints).reshape(
        -1, keypoint_format.num_keypoints, 3
    )
    return PersonColumns(
        num_rows=len(rows),
        row_P=row_P,
        width_P=_ints(rows["width"])[row_P],
        height_P=_ints(rows["height"])[row_P],
        bbox_xyxy_P4=np.concatenate([xywh_P4[:, :2], xywh_P4[:, :2] + xywh_P4[:, 2:]], axis=1).astype(np.float32),
        bbox_score_P=pc.struct_field(flat, "bbox_score").to_numpy(zero_copy_only=False).astype(np.float32),  # pyright: ignore[reportAttributeAccessIssue]
        body17_PK3=keypoints_PK3[:, list(keypoint_format.body17)],
    )


def _numbers(persons: pa.Array, name: str, count: int) -> Floats:
    """The values of a list column of all persons one after the other; null (a number that was not finite) is NaN."""
    lists = pc.struct_field(persons, name)  # pyright: ignore[reportAttributeAccessIssue]
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    if (lengths != count).any():
        raise ValueError(f"persons: {name} has {lengths[lengths != count][0]} values, not {count}")
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)


def _ints(column: pa.ChunkedArray) -> Ints:
    return pc.fill_null(column, 0).to_numpy().astype(np.int64)


def valid_persons(persons: PersonColumns, rule: KeepRule) -> npt.NDArray[np.bool_]:
    """Which persons [P] are sure and large enough to count, as `lposekit.keypoints.is_valid_person`."""
    left, top, right, bottom = persons.bbox_xyxy_P4.T.astype(np.float64)
    box_width, box_height = right - left, bottom - top
    return (
        (persons.bbox_score_P >= rule.box_score_threshold)
        & (box_width * box_height >= rule.min_box_area_fraction * persons.width_P * persons.height_P)
        & (np.minimum(box_width, box_height) >= rule.min_box_side_px)
    )


def detected_keypoints(persons: PersonColumns, score_threshold: float) -> Ints:
    """How many of the 17 body keypoints of each person [P] are detected."""
    x_PK, y_PK, score_PK = persons.body17_PK3.transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        inside_PK = (x_PK >= 0) & (x_PK < persons.width_P[:, None]) & (y_PK >= 0) & (y_PK < persons.height_P[:, None])
        return (inside_PK & (score_PK >= score_threshold)).sum(axis=1)


def deciding_counts(persons: PersonColumns, rule: KeepRule) -> tuple[Ints, Ints]:
    """Per image what the rule compares: keypoints detected [R] (-1: no valid person), and of how many [R]."""
    valid_P = valid_persons(persons, rule)
    row_V = persons.row_P[valid_P]
    detected_V = detected_keypoints(persons, rule.keypoint_score_threshold)[valid_P]
    num_body = persons.body17_PK3.shape[1]
    total_R = np.full(persons.num_rows, num_body)
    if rule.person_rule == "pooled":
        people_R = np.bincount(row_V, minlength=persons.num_rows)
        sum_R = np.bincount(row_V, weights=detected_V, minlength=persons.num_rows).astype(np.int64)
        return np.where(people_R > 0, sum_R, -1), np.maximum(people_R, 1) * num_body
    count_R = np.full(persons.num_rows, -1)
    if rule.person_rule == "any":
        np.maximum.at(count_R, row_V, detected_V)
    elif rule.person_rule == "main":
        # stable, so that the first of equal areas is the main person, as in keep_verdict
        order_V = np.lexsort((-persons.area_P[valid_P], row_V))
        rows, first = np.unique(row_V[order_V], return_index=True)
        count_R[rows] = detected_V[order_V][first]
    else:
        count_R[row_V] = num_body
        np.minimum.at(count_R, row_V, detected_V)
    return count_R, total_R


def _num_reaching(count_R: Ints, total_R: Ints, min_detected: float) -> int:
    return int(((count_R >= 0) & (count_R * 1000 >= round(min_detected * 1000) * total_R)).sum())


def yield_curve(persons: PersonColumns, rule: KeepRule, min_detected_T: Sequence[float]) -> Ints:
    """Images kept [T] for each share of keypoints to be detected; the rest of the rule as it is."""
    count_R, total_R = deciding_counts(persons, rule)
    return np.array([_num_reaching(count_R, total_R, value) for value in min_detected_T], np.int64)


def score_curve(persons: PersonColumns, rule: KeepRule, score_threshold_T: Sequence[float]) -> Ints:
    """Images kept [T] for each raw score from which a keypoint counts as detected; the rest of the rule as it is."""
    rules = [replace(rule, keypoint_score_threshold=value) for value in score_threshold_T]
    return np.array([_num_reaching(*deciding_counts(persons, r), rule.min_detected) for r in rules], np.int64)
