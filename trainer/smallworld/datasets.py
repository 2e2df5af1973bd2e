"""The world as ordinary dataset folders: images with poses, and clips without, through the ordinary shard writer.

`verify`, `view`, `open_dataset` and `train` take them like any other. Same arguments, same bytes of tar and parquet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from lposekit.errors import Outcome
from lposekit.json_values import JsonObject, JsonValue
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule
from lposekit.records import Person, sample_key
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import PersonRecord, person_record, pose_card, pose_json
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter, remove_partials
from trainer.smallworld.body import HEAD_RADIUS, Points
from trainer.smallworld.clip_file import FPS, clip_bytes
from trainer.smallworld.draw import SIDE, Image
from trainer.smallworld.scene import Scene, Split, still, walk
from trainer.smallworld.words import SIZES, Words

VERSION = 2
"""Of the world; raise it with every change to what is drawn."""
ROWS_PER_SHARD = 1000
CLIP_FRAMES = 16
RULE = KeepRule(keypoint_score_threshold=0.5, min_box_area_fraction=0.0, min_box_side_px=1.0)
FORMAT = KEYPOINT_FORMATS["coco17"]
POSE_MODEL = "smallworld"
"""Named as the pose model: the poses are those that the images were drawn from."""
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
_TYPES = {"url": pa.string(), "error_message": pa.string(), "cuts_s": pa.list_(pa.float64())}
"""Of parquet columns without any value to tell it from."""
Written = tuple[dict[str, object], str, Mapping[str, bytes]]
"""Parquet row, key and members of one sample."""


def write_images(root: Path, seed: int, split: Split, count: int, *, poses_shuffled: bool = False) -> None:
    """Writes, or completes, a folder of ``count`` images with captions and poses.

    ``poses_shuffled``: every image has the pose of the next one, for a training that must fail.

    Raises:
        UsageError: the folder holds something else. LposekitError: the disk is full.
    """
    card = DatasetCard(
        kind="image",
        fixed=_fixed(seed, split, count, poses_shuffled=poses_shuffled),
        keep_rule=asdict(RULE),
        keypoint_format=FORMAT.name,
        models={"pose": {"name": POSE_MODEL, "weights": "the poses that the images were drawn from"}},
    )

    def make(key: str, number: int) -> Written:
        posed = (number + 1) % count if poses_shuffled else number
        return _image(key, still(seed, split, number), still(seed, split, posed))

    _write(root, card, count, make, lambda rows: {})


def write_clips(
    root: Path, seed: int, split: Split, count: int, frames: int = CLIP_FRAMES, *, frames_shuffled: bool = False
) -> None:
    """Writes, or completes, a folder of ``count`` clips with captions, without poses.

    ``frames_shuffled``: the frames of every clip are in another order, for a training that must fail.

    Raises:
        UsageError, LposekitError: as `write_images`.
    """
    fixed = {**_fixed(seed, split, count, frames_shuffled=frames_shuffled), "frames": frames}

    def make(key: str, number: int) -> Written:
        scene = walk(seed, split, number, frames)
        if not frames_shuffled:
            return _clip(key, scene)
        order = np.random.Generator(np.random.Philox([seed, number])).permutation(frames)
        return _clip(key, replace(scene, joints_F17x2=scene.joints_F17x2[order]))

    _write(root, DatasetCard(kind="video", fixed=fixed), count, make, _windows)


def _fixed(seed: int, split: Split, count: int, **broken: bool) -> dict[str, JsonValue]:
    """What decides the bytes. `broken`: what is wrong on purpose; named only if it is."""
    wrong = {name: True for name, is_broken in broken.items() if is_broken}
    return {"smallworld": VERSION, "seed": seed, "split": split, "count": count, **wrong}


def _write(
    root: Path,
    card: DatasetCard,
    count: int,
    make: Callable[[str, int], Written],
    account: Callable[[Sequence[Mapping[str, object]]], JsonObject],
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    layout = DatasetLayout(root)
    layout.meta.mkdir(exist_ok=True)
    claim_folder(layout, card)
    remove_partials(layout)
    there = set(layout.committed_shards())
    for shard, first in enumerate(range(0, count, ROWS_PER_SHARD)):
        if shard not in there:
            numbers = range(first, min(first + ROWS_PER_SHARD, count))
            _write_shard(layout, shard, (make(sample_key(shard, n - first), n) for n in numbers), account)
    update_card(layout)


def _write_shard(
    layout: DatasetLayout,
    shard: int,
    samples: Iterator[Written],
    account: Callable[[Sequence[Mapping[str, object]]], JsonObject],
) -> None:
    writer, rows = ShardWriter(layout, shard, "smallworld"), []
    for row, key, members in samples:
        writer.add(key, members)
        rows.append(row)
    stats = ShardStats(count=len(rows), outcomes={Outcome.KEPT.value: len(rows)}, successes=len(rows))
    writer.commit(_table(rows), stats.with_facts(account(rows)))


def _table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], _TYPES.get(name)) for name in rows[0]})


def _image(key: str, scene: Scene, posed: Scene) -> Written:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(scene.frames()[0], cv2.COLOR_RGB2BGR), _JPEG)
    record = person_record(
        _person(posed.joints_F17x2[0], posed.words), SIDE, SIDE, RULE.keypoint_score_threshold, FORMAT
    )
    row = {**_row(key, scene, jpeg.tobytes()), **_pose_columns(record)}
    members = {
        "jpg": jpeg.tobytes(),
        "txt": scene.words.caption.encode(),
        "json": _json({name: value for name, value in row.items() if name != "persons"}),
        "pose.json": pose_json([record], SIDE, SIDE, pose_card(POSE_MODEL, FORMAT.name, RULE)),
    }
    return row, key, members


def _clip(key: str, scene: Scene) -> Written:
    frames_FHWC = scene.frames()
    mp4 = clip_bytes(frames_FHWC)
    clip, seconds = f"{key}0000", len(frames_FHWC) / FPS
    row = {
        **_row(key, scene, mp4),
        "fps": float(FPS),
        "num_frames": len(frames_FHWC),
        "duration_s": seconds,
        "cuts_s": list[float](),
        "num_windows": 1,
        "num_clips": 1,
        "dropped": "{}",
        "clip_keys": [clip],
        "clip_motion": [_motion(frames_FHWC)],
        "clip_duration_s": [seconds],
    }
    facts = {"key": clip, "video_key": key, "caption": scene.words.caption, "start_s": 0.0, "end_s": seconds}
    facts |= {"fps": FPS, "num_frames": len(frames_FHWC), "width": SIDE, "height": SIDE, "span": 0}
    return row, clip, {"mp4": mp4, "txt": scene.words.caption.encode(), "json": _json(facts)}


def _row(key: str, scene: Scene, file: bytes) -> dict[str, object]:
    return {
        "url": None,
        "caption": scene.words.caption,
        "key": key,
        "status": "success",
        "error_message": None,
        "outcome": Outcome.KEPT.value,
        "sha256": hashlib.sha256(file).hexdigest(),
        "width": SIDE,
        "height": SIDE,
        "original_width": SIDE,
        "original_height": SIDE,
    }


def _pose_columns(record: PersonRecord) -> dict[str, object]:
    return {
        "num_persons": 1,
        "max_detected": record["num_detected"],
        "main_detected": record["num_detected"],
        "persons": [{name: record[name] for name in ("bbox", "bbox_score", "keypoints")}],
    }


def _person(joints_17x2: Points, words: Words) -> Person:
    """The figure as a detected person, sure of every joint."""
    edge = HEAD_RADIUS * SIZES[words.size]
    box = np.concatenate([joints_17x2.min(0) - edge, joints_17x2.max(0) + edge]).clip(0, SIDE)
    keypoints_K3 = np.concatenate([joints_17x2, np.ones((17, 1))], axis=1)
    return Person(box.astype(np.float32), 1.0, keypoints_K3.astype(np.float32))


def _windows(rows: Sequence[Mapping[str, object]]) -> JsonObject:
    return {"windows": len(rows), "clips": len(rows), "dropped": {}}


def _motion(frames_FHWC: Image) -> float:
    return round(float(np.abs(np.diff(frames_FHWC.astype(np.float32), axis=0)).mean()) / 255, 5)


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
