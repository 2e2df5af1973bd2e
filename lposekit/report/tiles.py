"""The images of the report of an image dataset: kept samples, and rows that were seen and rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from lposekit.errors import Outcome
from lposekit.records import Columns
from lposekit.report.decode import Rgb, decode_jpeg
from lposekit.report.facts import spread_rows
from lposekit.report.image_facts import ImageFacts, keypoints_detected, persons_of
from lposekit.report.inline_images import photo_uri, skeleton_uri
from lposekit.report.row_list import Number
from lposekit.shards.dataset import PoseDataset, read_members, thumbnails_of
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from lposekit.words import counted

KEPT_SHOWN = 100
REJECTED_SHOWN = 12
IMAGE_SIDE_PX = 340
THUMBNAIL_SIDE_PX = 200
MIN_RATIO, MAX_RATIO = 0.5, 2.2
"""Width to height of a frame; images beyond are letterboxed."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of the page. `photo` is None on a public page, `skeleton` where no person was found."""

    key: str
    caption: str
    address: str | None
    photo: str | None
    skeleton: str | None
    ratio: float
    alt: str
    note: str
    outcome: str
    numbers: Sequence[Number]
    """By which it is found: as `ImageFacts.number_names`."""


def kept_tiles(dataset: PoseDataset, facts: ImageFacts, *, public: bool) -> list[Tile]:
    """Up to `KEPT_SHOWN` kept samples, spread over the shards."""
    tiles = []
    for shard, row in spread_rows(dataset, facts, Outcome.KEPT, KEPT_SHOWN):
        rgb_HWC = None if public else _stored_image(shard, row["key"])
        photo = None if rgb_HWC is None else photo_uri(rgb_HWC, IMAGE_SIDE_PX)
        tiles.append(_tile(row, facts, photo, IMAGE_SIDE_PX, public=public))
    return tiles


def rejected_tiles(dataset: PoseDataset, facts: ImageFacts) -> dict[str, list[Tile]]:
    """Up to `REJECTED_SHOWN` images of each outcome that keeps thumbnails, with what was detected, by outcome."""
    layout = DatasetLayout(dataset.root)
    shown: dict[str, list[Tile]] = {}
    for outcome in (each for each in Outcome if each.facts.thumbnail):
        tiles = []
        for shard, row in spread_rows(dataset, facts, outcome, REJECTED_SHOWN):
            # a looser rule for storing than for keeping leaves the whole image in the tar, and no thumbnail
            rgb_HWC = _stored_image(shard, row["key"])
            rgb_HWC = _thumbnail(layout, shard, row["key"]) if rgb_HWC is None else rgb_HWC
            if rgb_HWC is not None:
                photo = photo_uri(rgb_HWC, THUMBNAIL_SIDE_PX)
                tiles.append(_tile(row, facts, photo, THUMBNAIL_SIDE_PX, public=False))
        if tiles:
            shown[outcome.value] = tiles
    return shown


def _stored_image(shard: ShardIndex, key: str) -> Rgb | None:
    """The image of a sample in the tar; None if the row has no sample or its bytes are damaged."""
    row = shard.row_of(key)
    return None if row is None else decode_jpeg(read_members(shard, row).get("jpg", b""))


def _thumbnail(layout: DatasetLayout, shard: ShardIndex, key: str) -> Rgb | None:
    thumbnails = thumbnails_of(layout, shard.shard, pc.field("key") == key)
    return None if thumbnails is None or not len(thumbnails) else decode_jpeg(thumbnails["jpeg"][0].as_py())


def _tile(row: Columns, facts: ImageFacts, photo: str | None, side_px: int, *, public: bool) -> Tile:
    rule, body17 = facts.rule, facts.keypoint_format.body17
    # a row that ended before the pose model need not have a size
    height, width = row["height"] or 1, row["width"] or 1
    persons, counts = persons_of(row, facts), keypoints_detected(row, facts)
    skeleton = None
    if persons:
        keypoints_PK3 = np.stack([person.keypoints_K3 for person in persons])
        skeleton = skeleton_uri(keypoints_PK3, (height, width), side_px, rule.keypoint_score_threshold)
    return Tile(
        key=row["key"],
        caption="" if public else row.get("caption") or "",
        address=None if public else row.get("url"),
        photo=photo,
        skeleton=skeleton,
        ratio=min(max(width / height, MIN_RATIO), MAX_RATIO),
        alt=_alt_text(counts, len(body17)),
        note=_detected_text(counts, len(body17)) if row["num_persons"] is not None else _reason(row),
        outcome=row["outcome"],
        numbers=(row["num_persons"], max(counts, default=None)),
    )


def _reason(row: Columns) -> str:
    """Why a row was rejected before the pose model saw it, without the outcome's name."""
    return (row["error_message"] or "").partition(": ")[2]


def _alt_text(counts: Sequence[int], total: int) -> str:
    if not counts:
        return "no person found"
    people = counted(len(counts), "person")
    return f"{people}, at most {max(counts)} of {total} keypoints detected"


def _detected_text(counts: Sequence[int], total: int) -> str:
    if not counts:
        return "no person"
    people = counted(len(counts), "person")
    best = sorted(counts, reverse=True)
    more = ", ..." if best[3:] else ""
    return f"{people}: " + ", ".join(f"{count}/{total}" for count in best[:3]) + more
