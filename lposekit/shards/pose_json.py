"""`KEY.pose.json`: the persons of one image, in pixels of the stored image (schema 1)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from lposekit.json_values import COUNT, MAX_SHOWN_CHARS, NUMBER, OBJECT, TEXT, JsonFields, list_of, parse_json_object
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, KeypointFormat, num_detected
from lposekit.records import Columns, Person

SCHEMA = 1
PIXEL_DECIMALS = 2
SCORE_DECIMALS = 4
MAX_NUMBER = 1e6
"""Of pixels and scores: what is beyond is damage."""


class PersonRecord(TypedDict):
    """One person in `KEY.pose.json`: box as x, y, width, height, in pixels; K times x, y, score; null for NaN."""

    bbox: list[float | None]
    bbox_score: float | None
    keypoints: list[float | None]
    num_detected: int
    detected_fraction: float


def _rounded(value: float, decimals: int) -> float | None:
    # JSON has no NaN; a keypoint that the model gave no finite place is stored as null and read back as NaN.
    return round(float(value), decimals) if math.isfinite(value) else None


def person_record(
    person: Person, width: int, height: int, keypoint_score_threshold: float, keypoint_format: KeypointFormat
) -> PersonRecord:
    """One person as stored: box (x, y, w, h), scores, keypoints, and how many of the 17 are detected."""
    left, top, right, bottom = (float(v) for v in person.bbox_xyxy)
    detected = num_detected(person.keypoints_K3, width, height, keypoint_score_threshold, keypoint_format.body17)
    return {
        "bbox": [_rounded(v, PIXEL_DECIMALS) for v in (left, top, right - left, bottom - top)],
        "bbox_score": _rounded(person.bbox_score, SCORE_DECIMALS),
        "keypoints": [
            _rounded(value, SCORE_DECIMALS if column == 2 else PIXEL_DECIMALS)
            for row in person.keypoints_K3
            for column, value in enumerate(row)
        ],
        "num_detected": detected,
        "detected_fraction": round(detected / len(keypoint_format.body17), SCORE_DECIMALS),
    }


def round_person(person: Person) -> Person:
    """The person as it comes back from disk, so that a verdict now equals a verdict on the stored numbers."""
    keypoints_K3 = np.empty_like(person.keypoints_K3)
    keypoints_K3[:, :2] = np.round(person.keypoints_K3[:, :2].astype(np.float64), PIXEL_DECIMALS)
    keypoints_K3[:, 2] = np.round(person.keypoints_K3[:, 2].astype(np.float64), SCORE_DECIMALS)
    left, top, right, bottom = (float(v) for v in person.bbox_xyxy)
    x, y, w, h = (round(v, PIXEL_DECIMALS) for v in (left, top, right - left, bottom - top))
    return Person(
        np.array([x, y, x + w, y + h], np.float32), round(float(person.bbox_score), SCORE_DECIMALS), keypoints_K3
    )


class PoseHead(TypedDict):
    """What every `KEY.pose.json` of a dataset says of how its persons were found, in the order of the file."""

    keypoint_format: str
    pose_model: str
    keypoint_score_threshold: float


def pose_card(pose_model: str, keypoint_format: str, rule: KeepRule) -> PoseHead:
    """What every `KEY.pose.json` of a dataset says of how its persons were found."""
    return {
        "keypoint_format": keypoint_format,
        "pose_model": pose_model,
        "keypoint_score_threshold": rule.keypoint_score_threshold,
    }


def pose_json(records: Sequence[PersonRecord], width: int, height: int, head: PoseHead) -> bytes:
    """The bytes of `KEY.pose.json`; `head` is what `pose_card` gives."""
    value = {
        "schema": SCHEMA,
        "width": width,
        "height": height,
        **head,
        "persons": list(records),
    }
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


MAX_PIXELS = 2**26
"""Of an image with poses: as `stored_media` has it, which loads OpenCV."""


@dataclass(frozen=True, slots=True)
class StoredPose:
    """What a `KEY.pose.json` says, checked: persons in pixels of an image of `width` x `height`."""

    width: int
    height: int
    keypoint_format: KeypointFormat
    keypoint_score_threshold: float
    persons: list[Person]


def read_pose(data: bytes) -> StoredPose:
    """The persons of one image.

    Raises:
        ValueError: names the field that is missing or wrong.
    """
    pose = parse_json_object(data)
    fields = JsonFields(pose)
    name = fields.need("keypoint_format", TEXT)
    if name not in KEYPOINT_FORMATS:
        raise ValueError(f"keypoint_format is {name[:MAX_SHOWN_CHARS]!r}, none of {', '.join(KEYPOINT_FORMATS)}")
    layout = KEYPOINT_FORMATS[name]
    persons = fields.need("persons", list_of(OBJECT))
    width, height = fields.need("width", COUNT), fields.need("height", COUNT)
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"width and height are {width} x {height}, of an image with 1 to {MAX_PIXELS} pixels")
    return StoredPose(
        width,
        height,
        layout,
        fields.need("keypoint_score_threshold", NUMBER),
        [person_from_record(record, layout, f"persons[{i}].") for i, record in enumerate(persons)],
    )


def person_from_record(record: Columns, keypoint_format: KeypointFormat, where: str = "") -> Person:
    """A stored person (from `pose.json` or the parquet column) as `Person`; null becomes NaN.

    Args:
        where: what to put before the names of fields in messages.

    Raises:
        ValueError: names the field that is missing or wrong.
    """
    x, y, w, h = _numbers(record.get("bbox"), 4, f"{where}bbox")
    (score,) = _numbers([record.get("bbox_score")], 1, f"{where}bbox_score")
    keypoints = _numbers(record.get("keypoints"), 3 * keypoint_format.num_keypoints, f"{where}keypoints")
    return Person(
        np.array([x, y, x + w, y + h], np.float32),
        round(score, SCORE_DECIMALS),  # the parquet column is float32: 0.7 comes back as 0.69999
        np.array(keypoints, np.float32).reshape(-1, 3),
    )


def _numbers(values: object, count: int, name: str) -> list[float]:
    """Finite numbers as they were stored, null as NaN."""
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} values" if isinstance(values, list) else "no list"
        raise ValueError(f"{name} has {found}, not {count} numbers")
    for value in values:
        # a NaN compares false; true and false are whole numbers to Python, and texts may spell one
        if value is not None and not (type(value) in (float, int) and abs(value) <= MAX_NUMBER):
            raise ValueError(f"{name} holds {str(value)[:MAX_SHOWN_CHARS]!r}, no number within {MAX_NUMBER:g}")
    return [math.nan if value is None else value for value in values]
