"""Dataset folders for the report's tests: real photos with their ground truth, and rows with hostile texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lposekit.errors import Outcome
from lposekit.records import ImageRow, Person, sample_key
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult
from pipelines.image.decode import DecodedImage
from pipelines.image.rows import posed_row, unposed_row
from pipelines.video.clips.build import build_clips
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.rows import VIDEO_SHARDS, clip_members, video_row
from tests.support.dataset_folder import RULE, RULES, person, solid_image, write_shard

HOSTILE_TEXTS = (
    "<script>document.title='owned'</script>",
    '"><img src="{server}/caption.png" onerror="document.title=\'owned\'">',
    "</style><style>@import url({server}/style.css)</style>",
    "{{ 7 * 7 }} {% include 'base.html' %}",
    "a bell \x07 and \u202egnirts desrever",
    "",
)
FAILURES = (
    (Outcome.DNS, "no address for the name"),
    (Outcome.TIMEOUT, "no byte for 5.0 s"),
    (Outcome.HTTP_4XX, "status 404"),
    (Outcome.ROBOTS, "robots.txt disallows /photos"),
    (Outcome.OPT_OUT, "X-Robots-Tag: noai"),
    (Outcome.NOT_IMAGE, "text/html"),
    (Outcome.BLOCKED, "domain on the blocklist"),
)


def make_card(**fields: Any) -> dict[str, Any]:
    """A card as a build writes it; ``fields`` replace its parts."""
    return {
        "kind": "image",
        "sample": False,
        "settings": {"min_detected": 0.5, "input": ["/data/lists/part-0.parquet"], "fetch": {"total_timeout_s": 20.0}},
        "fixed": {},
        "keep_rule": {name: getattr(RULE, name) for name in RULE.__slots__},
        "keypoint_format": "coco17",
        "warnings": [],
        "models": {"detector": {"name": "stub"}, "pose": {"name": "stub", "sha256": "0" * 64, "provisional": True}},
        **fields,
    }


def make_dataset_of(root: Path, shards: Sequence[Sequence[RowResult]], **card_fields: Any) -> DatasetLayout:
    """A finished dataset folder with these rows."""
    root.mkdir(parents=True)
    layout = DatasetLayout(root)
    claim_folder(layout, DatasetCard.from_json(make_card(**card_fields)))
    for shard, results in enumerate(shards):
        write_shard(layout, shard, list(results))
    update_card(layout)
    return layout


def make_photo_dataset(
    root: Path, photos: Path, num_rows: int = 44, rows_per_shard: int = 20, **card_fields: Any
) -> DatasetLayout:
    """The first fixture photos as a dataset; their ground truth stands in for the models. Every fourth row fails."""
    results: list[RowResult] = []
    lines = (photos / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
    for position, line in enumerate(lines[:num_rows]):
        record = json.loads(line)
        row = _image_row(position, rows_per_shard, record)
        bgr_HWC = cv2.imread(str(photos / record["file"]), cv2.IMREAD_COLOR)
        if bgr_HWC is None or bgr_HWC.shape[:2] != (record["height"], record["width"]):
            results.append(unposed_row(row, Outcome.CORRUPT, "the image ends early"))
        elif position % 4 == 3:
            results.append(unposed_row(row, *FAILURES[position // 4 % len(FAILURES)]))
        else:
            image, scale = _stored(bgr_HWC[..., ::-1])
            persons = [_as_person(labelled, scale, position) for labelled in record["persons"]]
            results.append(posed_row(row, image, record["sha256"], persons, RULES))
    shards = [results[i : i + rows_per_shard] for i in range(0, len(results), rows_per_shard)]
    return make_dataset_of(root, shards, **card_fields)


def _image_row(position: int, rows_per_shard: int, record: dict[str, Any]) -> ImageRow:
    caption = record["captions"][0] if record["captions"] else record.get("people_note", "a photo")
    key = sample_key(position // rows_per_shard, position % rows_per_shard)
    return ImageRow(key, f"https://photos.example/{position}.jpg", str(caption), {"LICENSE": record["licence"][:60]})


def _stored(rgb_HWC: np.ndarray) -> tuple[DecodedImage, float]:
    height, width = rgb_HWC.shape[:2]
    scale = min(1.0, 512 / min(height, width))
    size = (round(width * scale), round(height * scale))
    small_HWC = np.ascontiguousarray(cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_AREA)).astype(np.uint8)
    return DecodedImage(small_HWC, size[0], size[1], width, height, "jpeg"), scale


def _as_person(labelled: dict[str, Any], scale: float, seed: int) -> Person:
    """A labelled person as a model would give it: heatmap scores, around 0.8 where labelled, 0.2 where not."""
    keypoints_K3 = np.array(labelled["keypoints"], np.float32)
    labelled_K = keypoints_K3[:, 2] > 0
    noise_K = np.random.default_rng(seed).normal(0, 0.12, len(keypoints_K3))
    keypoints_K3[:, :2] *= scale
    keypoints_K3[:, 2] = np.clip(np.where(labelled_K, 0.78, 0.15) + noise_K, 0, 1)
    x, y, width, height = (value * scale for value in labelled["bbox"])
    return Person(np.array([x, y, x + width, y + height], np.float32), 0.9, keypoints_K3)


def make_hostile_dataset(root: Path, server: str) -> DatasetLayout:
    """Rows whose every text attacks the page; ``server`` is the address that the attacks call."""
    results: list[RowResult] = []
    texts = [text.replace("{server}", server) for text in HOSTILE_TEXTS]
    addresses = [
        "javascript:document.title='owned'",
        f'{server}/photo.jpg" onmouseover="x',
        "data:text/html,<b>x</b>",
        None,
    ]
    for i in range(len(texts) * 4):
        text, url = texts[i % len(texts)], addresses[i % len(addresses)]
        row = ImageRow(sample_key(0, i), url, text, {"license": text})
        if i % 3 == 2:
            results.append(unposed_row(row, Outcome.TIMEOUT, text))
        else:
            results.append(posed_row(row, solid_image(i), f"{i:064x}", [person(12 if i % 3 else 4)], RULES))
    return make_dataset_of(root, [results], settings={text: text for text in texts}, warnings=texts, sample=True)


def make_empty_dataset(root: Path) -> DatasetLayout:
    """A dataset of which nothing was kept, and nothing seen."""
    rows = [ImageRow(sample_key(0, i), f"http://gone.example/{i}", f"caption {i}", {}) for i in range(5)]
    return make_dataset_of(root, [[unposed_row(row, Outcome.DNS, "no address") for row in rows]])


def make_video_dataset(
    root: Path, videos: Sequence[VideoRow], clips: BuildClipsSettings, **card_fields: Any
) -> DatasetLayout:
    """These videos as one shard of clips, through the production code, without Ray and sandbox."""
    root.mkdir(parents=True)
    layout = DatasetLayout(root)
    card = {"kind": "video", "sample": False, "settings": {}, "fixed": {}, "warnings": [], **card_fields}
    claim_folder(layout, DatasetCard.from_json(card))
    results = []
    for position, row in enumerate(videos):
        key, out_dir = sample_key(0, position), root.parent / f"clips-{position}"
        out_dir.mkdir()
        result = build_clips(Path(row.path or ""), row, clips, out_dir, beat=lambda: None)
        results.append(video_row(key, row, result, None, clip_members(key, row, result, out_dir)))
    write_shard(layout, 0, results, VIDEO_SHARDS)
    update_card(layout)
    return layout
