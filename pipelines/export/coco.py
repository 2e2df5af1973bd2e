"""The labels of an image dataset as COCO writes them: boxes and keypoints of persons."""

from __future__ import annotations

from collections.abc import Mapping

from lposekit.json_values import JsonObject, JsonValue
from lposekit.keypoints import KEYPOINT_FORMATS, KeypointFormat
from lposekit.records import Person
from lposekit.shards.dataset import PoseSample
from pipelines.export.drawn import Media

COCO17 = KEYPOINT_FORMATS["coco17"]
_LABELLED = 2
"""COCO's `v`: labelled and visible. What the model did not detect has 0, and no place."""


class CocoLabels:
    """Collects what `labels.json` holds: COCO's 17 joints, of a whole-body format as well.

    `threshold`: raw score from which a keypoint counts as labelled.
    """

    def __init__(self, keypoint_format: KeypointFormat, threshold: float) -> None:
        self._format = keypoint_format
        self._threshold = threshold
        self._images: list[JsonValue] = []
        self._annotations: list[JsonValue] = []

    def add(self, sample: PoseSample, file_name: str, media: Media) -> None:
        """One image with its persons."""
        image_id = len(self._images) + 1
        metadata: Mapping[str, object] = sample.metadata
        image: JsonObject = {
            "id": image_id,
            "file_name": file_name,
            "width": media.width,
            "height": media.height,
            "caption": sample.caption,
            "coco_url": str(metadata.get("url") or ""),
        }
        self._images.append(image)
        for person in sample.persons:
            self._annotations.append(self._annotation(len(self._annotations) + 1, image_id, person))

    def as_json(self) -> JsonObject:
        """The file's content."""
        category: JsonObject = {
            "id": 1,
            "name": "person",
            "supercategory": "person",
            "keypoints": list(COCO17.names),
            "skeleton": [[a + 1, b + 1] for a, b in COCO17.limbs],
        }
        return {
            "info": {"description": "keypoints estimated by a model, not labelled by people"},
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": [category],
        }

    def _annotation(self, number: int, image_id: int, person: Person) -> JsonObject:
        left, top, right, bottom = (round(float(value), 2) for value in person.bbox_xyxy)
        keypoints: list[JsonValue] = []
        scores: list[JsonValue] = []
        for x, y, score in person.keypoints_K3[list(self._format.body17)].tolist():
            is_there = score >= self._threshold
            keypoints += [round(x, 2), round(y, 2), _LABELLED] if is_there else [0, 0, 0]
            scores.append(round(score, 4))
        return {
            "id": number,
            "image_id": image_id,
            "category_id": 1,
            "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
            "area": round((right - left) * (bottom - top), 2),
            "iscrowd": 0,
            "num_keypoints": sum(value == _LABELLED for value in keypoints[2::3]),
            "keypoints": keypoints,
            "keypoint_scores": scores,
            "score": round(float(person.bbox_score), 4),
        }
