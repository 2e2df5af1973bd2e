"""From an image and its persons to what is stored: parquet row, tar members, thumbnail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lposekit.errors import Outcome
from lposekit.json_values import strict_json
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, KeypointFormat, is_valid_person, keep_verdict
from lposekit.records import Columns, ImageRow, Person, PoseFailure
from lposekit.shards.pose_json import PersonRecord, PoseHead, person_record, pose_json, round_person
from lposekit.shards.rows import RowResult
from pipelines.image.decode import DecodedImage, encode_jpeg, thumbnail
from pipelines.job.rows import row_columns

PERSON_TYPE = pa.struct(
    [("bbox", pa.list_(pa.float32())), ("bbox_score", pa.float32()), ("keypoints", pa.list_(pa.float32()))]
)
OWN_COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "status": pa.string(),
    "error_message": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "exif": pa.string(),
    "sha256": pa.string(),
    "outcome": pa.string(),
    "num_persons": pa.int16(),
    "max_detected": pa.int16(),
    "main_detected": pa.int16(),
    "persons": pa.list_(PERSON_TYPE),
}


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What decides about an image with known persons, and how it is stored."""

    keep: KeepRule
    store: KeepRule
    """What goes into the tars: `keep` with `store_min_detected`."""
    pose_card: PoseHead
    jpeg_quality: int

    @property
    def keypoint_format(self) -> KeypointFormat:
        return KEYPOINT_FORMATS[self.pose_card["keypoint_format"]]


def unposed_row(
    row: ImageRow, outcome: Outcome, detail: str, image: DecodedImage | None = None, sha256: str | None = None
) -> RowResult:
    """A row that ended before the pose model saw it."""
    columns = _columns(row, outcome, detail, stored=False) | {"sha256": sha256}
    if image is not None:
        columns |= _size_columns(image, sha256)
    small = thumbnail(image.rgb_HWC) if image is not None and outcome.facts.thumbnail else None
    return RowResult(row.key, outcome, columns, thumbnail=small)


def posed_row(
    row: ImageRow, image: DecodedImage, sha256: str | None, poses: Sequence[Person] | PoseFailure, rules: ImageRules
) -> RowResult:
    """A row whose image was given to the pose model."""
    size = _size_columns(image, sha256)
    if isinstance(poses, PoseFailure):
        outcome = Outcome.WORKER_CRASH if poses.outcome_crash else Outcome.POSE_FAILED
        return RowResult(row.key, outcome, _columns(row, outcome, poses.detail, stored=False) | size)
    persons = [round_person(person) for person in poses]
    width, height, layout = image.width, image.height, rules.keypoint_format
    outcome = keep_verdict(persons, width, height, rules.keep, layout)
    stored = outcome is Outcome.KEPT or keep_verdict(persons, width, height, rules.store, layout) is Outcome.KEPT
    threshold = rules.keep.keypoint_score_threshold
    records = [person_record(person, width, height, threshold, layout) for person in persons]
    detail = "" if outcome is Outcome.KEPT else _why(outcome, persons, records, width, height, rules.keep)
    columns = _columns(row, outcome, detail, stored) | size | _pose_columns(persons, records)
    if not stored:
        small = thumbnail(image.rgb_HWC) if outcome.facts.thumbnail else None
        return RowResult(row.key, outcome, columns, thumbnail=small)
    members = {
        "jpg": image.kept_jpeg or encode_jpeg(image.rgb_HWC, rules.jpeg_quality),
        "txt": row.caption.encode("utf-8"),
        "json": _json_bytes({name: value for name, value in columns.items() if name != "persons"}),
        "pose.json": pose_json(records, width, height, rules.pose_card),
    }
    return RowResult(row.key, outcome, columns, ((row.key, members),))


def _why(
    outcome: Outcome,
    persons: Sequence[Person],
    records: Sequence[PersonRecord],
    width: int,
    height: int,
    rule: KeepRule,
) -> str:
    if outcome is Outcome.NO_PERSON:
        return f"{len(persons)} boxes, none sure and large enough" if persons else "no box"
    counts = [
        record["num_detected"]
        for person, record in zip(persons, records, strict=True)
        if is_valid_person(person, width, height, rule)
    ]
    return f"{max(counts)} of 17 keypoints detected on the best of {len(counts)} persons ({rule.person_rule})"


def _columns(row: ImageRow, outcome: Outcome, detail: str, stored: bool) -> dict[str, object]:
    return row_columns(
        OWN_COLUMNS,
        key=row.key,
        url=row.url,
        caption=row.caption,
        extra=row.extra,
        outcome=outcome,
        detail=detail,
        stored=stored,
        query=row.query,
    )


def _size_columns(image: DecodedImage, sha256: str | None) -> dict[str, object]:
    return {
        "width": image.width,
        "height": image.height,
        "original_width": image.original_width,
        "original_height": image.original_height,
        "sha256": sha256,
    }


def _pose_columns(persons: Sequence[Person], records: Sequence[PersonRecord]) -> dict[str, object]:
    counts = [record["num_detected"] for record in records]
    areas = [(width or 0.0) * (height or 0.0) for _, _, width, height in (record["bbox"] for record in records)]
    return {
        "num_persons": len(persons),
        "max_detected": max(counts, default=None),
        "main_detected": counts[areas.index(max(areas))] if areas else None,
        "persons": [
            {"bbox": record["bbox"], "bbox_score": record["bbox_score"], "keypoints": record["keypoints"]}
            for record in records
        ],
    }


def _json_bytes(value: Columns) -> bytes:
    return strict_json(value, ensure_ascii=False, sort_keys=True, default=str).encode("utf-8", "replace")
