"""`KEY.pose.json`: the persons of one image, in pixels of the stored image (schema 1)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from lposekit.keypoints import KeepRule, KeypointFormat, num_detected
from lposekit.records import Columns, Person

SCHEMA = 1
PIXEL_DECIMALS = 2
SCORE_DECIMALS = 4


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


def person_from_record(record: Columns) -> Person:
    """A stored person (from `pose.json` or the parquet column) as `Person`; null becomes NaN."""
    x, y, w, h = (float(v) for v in record["bbox"])
    values = [math.nan if v is None else float(v) for v in record["keypoints"]]
    return Person(
        np.array([x, y, x + w, y + h], np.float32),
        round(float(record["bbox_score"]), SCORE_DECIMALS),  # the parquet column is float32: 0.7 comes back as 0.69999
        np.array(values, np.float32).reshape(-1, 3),
    )
