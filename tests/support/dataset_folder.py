"""Makes small, real dataset folders through the production writer: images of one colour with a known pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lposekit.errors import Outcome
from lposekit.keypoints import KeepRule
from lposekit.records import ImageRow, Person, PoseFailure, sample_key
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult, ShardKind, commit_marker, rows_table
from lposekit.shards.writer import ShardWriter
from pipelines.image.decode import DecodedImage
from pipelines.image.rows import ImageRules, posed_row, unposed_row
from pipelines.image.worker import IMAGE_SHARDS

THRESHOLD = 0.4
RULE = KeepRule(keypoint_score_threshold=THRESHOLD)
POSE_CARD = {"keypoint_format": "coco17", "pose_model": "stub", "keypoint_score_threshold": THRESHOLD}
RULES = ImageRules(RULE, RULE, POSE_CARD, 95)


def person(num_detected: int, left: float = 10.0, size: float = 150.0, box_score: float = 0.9) -> Person:
    """A person in a 200 x 200 image, whose first ``num_detected`` keypoints reach the threshold."""
    keypoints_K3 = np.zeros((17, 3), np.float32)
    keypoints_K3[:, 0] = left + np.arange(17) * size / 17
    keypoints_K3[:, 1] = 20 + np.arange(17) * size / 17
    keypoints_K3[:, 2] = np.where(np.arange(17) < num_detected, 0.9, 0.1)
    return Person(np.array([left, 20, left + size, 20 + size], np.float32), box_score, keypoints_K3)


def solid_image(row: int, height: int = 200, width: int = 200) -> DecodedImage:
    """An image whose colour tells its row."""
    rgb_HWC = np.full((height, width, 3), (row * 7 % 256, row * 31 % 256, 128), np.uint8)
    return DecodedImage(rgb_HWC, width, height, width, height, "JPEG")


def make_results(shard: int, num_rows: int) -> list[RowResult]:
    """Rows of mixed outcomes: kept (two in four), few keypoints, and one that no server had."""
    results = []
    for row in range(num_rows):
        image_row = ImageRow(
            sample_key(shard, row), f"http://a.example/{shard}/{row}.jpg", f"caption {row}", {"licence": "cc0"}
        )
        if row % 4 == 3:
            results.append(unposed_row(image_row, Outcome.HTTP_4XX, "status 404"))
            continue
        poses: list[Person] | PoseFailure = [person(12 if row % 4 < 2 else 5)]
        results.append(posed_row(image_row, solid_image(row), f"{shard:032x}{row:032x}", poses, RULES))
    return results


def write_shard(
    layout: DatasetLayout, shard: int, results: list[RowResult], kind: ShardKind = IMAGE_SHARDS, run_id: str = "test"
) -> None:
    """Commit rows as a shard, without a lock."""
    writer = ShardWriter(layout, shard, run_id)
    for result in results:
        for key, members in result.samples:
            writer.add(key, members)
        if result.thumbnail:
            writer.add_thumbnail(result.key, result.outcome.value, result.thumbnail)
    columns = [result.columns for result in results]
    writer.commit(rows_table(columns, kind.columns), commit_marker(columns, 0.0, 1.0).with_facts(kind.account(columns)))


def make_dataset(root: Path, num_shards: int = 2, rows_per_shard: int = 8) -> DatasetLayout:
    """A finished dataset folder: half of its rows are kept."""
    root.mkdir(parents=True)
    layout = DatasetLayout(root)
    card = {
        "kind": "image",
        "sample": False,
        "settings": {"pose_model": "stub", "detector": "stub"},
        "fixed": {},
        "keep_rule": {name: getattr(RULE, name) for name in RULE.__slots__},
        "keypoint_format": "coco17",
        "warnings": [],
        "models": {},
    }
    claim_folder(layout, DatasetCard.from_json(card))
    for shard in range(num_shards):
        write_shard(layout, shard, make_results(shard, rows_per_shard))
    update_card(layout)
    return layout
