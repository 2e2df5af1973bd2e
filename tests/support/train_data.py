"""Small dataset folders for the trainer's tests, written with the real writer.

Every image shows its own number: its colour and its keypoints are functions of (shard, row), so that pixels, pose and
caption can be checked to belong together wherever they end up.
"""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa

from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.records import Person, sample_key
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import PoseHead, person_record, pose_json
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter

POSE_CARD: PoseHead = {"keypoint_format": "coco17", "pose_model": "drawn", "keypoint_score_threshold": 0.5}


def color_of(number: int) -> tuple[int, int, int]:
    """RGB of sample ``number``; neighbours differ clearly."""
    return (40 + 53 * number % 200, 40 + 91 * number % 200, 40 + 17 * number % 200)


def keypoints_of(number: int, height: int, width: int) -> np.ndarray:
    """Keypoints [17, 3] of sample ``number``, all inside the image."""
    random = np.random.default_rng(number)
    xy = random.uniform(0.15, 0.85, (17, 2)) * (width, height)
    return np.concatenate([xy, np.ones((17, 1))], 1).astype(np.float32)


def image_of(number: int, height: int, width: int) -> np.ndarray:
    """RGB uint8 image of sample ``number``: its colour, with its keypoints as white dots."""
    rgb_HWC = np.full((height, width, 3), color_of(number), np.uint8)
    for x, y, _ in keypoints_of(number, height, width):
        cv2.circle(rgb_HWC, (round(float(x)), round(float(y))), max(2, width // 40), (255, 255, 255), -1)
    return rgb_HWC


def image_members(number: int, height: int = 80, width: int = 64) -> dict[str, bytes]:
    rgb_HWC = image_of(number, height, width)
    person = Person(np.array([0, 0, width, height], np.float32), 1.0, keypoints_of(number, height, width))
    record = person_record(person, width, height, 0.5, KEYPOINT_FORMATS["coco17"])
    jpg = cv2.imencode(".jpg", rgb_HWC[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return {
        "jpg": jpg,
        "json": json.dumps({"number": number, "width": width, "height": height}).encode(),
        "pose.json": pose_json([record], width, height, POSE_CARD),
        "txt": f"image number {number}".encode(),
    }


def clip_members(
    number: int, num_frames: int = 20, height: int = 64, width: int = 64, fps: int = 10
) -> dict[str, bytes]:
    """A clip whose frame f is grey of level 10 f, so that a decoded frame says which it was."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "12", "bf": "0", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for frame in range(num_frames):
            image = np.full((height, width, 3), (10 * frame) % 250, np.uint8)
            image[: height // 4, : width // 4] = color_of(number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    facts = {"number": number, "num_frames": num_frames, "fps": fps, "source": f"{number}.mp4"}
    return {"json": json.dumps(facts).encode(), "mp4": buffer.getvalue(), "txt": f"clip number {number}".encode()}


def write_dataset(root: Path, shard_sizes: list[int], kind: str = "image", **sizes: Any) -> Path:
    """A dataset folder with that many samples in each shard; sample numbers count through all of them."""
    root.mkdir(parents=True, exist_ok=True)
    layout = DatasetLayout(root)
    claim_folder(layout, DatasetCard.from_json({"kind": kind, "fixed": {"made_by": "tests"}, **POSE_CARD}))
    number = 0
    for shard, size in enumerate(shard_sizes):
        writer = ShardWriter(layout, shard, "test")
        rows = []
        for row in range(size):
            key = sample_key(shard, row) + ("000" if kind == "video" else "")
            make = clip_members if kind == "video" else image_members
            writer.add(key, make(number, **sizes))
            rows.append({"key": key, "number": number, "outcome": "kept"})
            number += 1
        writer.commit(pa.Table.from_pylist(rows), ShardStats(count=size, outcomes={"kept": size}))
    update_card(layout)
    return root
