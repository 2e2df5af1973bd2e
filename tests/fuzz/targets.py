"""What the fuzzer calls in its confined child: the readers of strangers' files, each with the errors that it may raise.

A target answers "read" or "refused". Everything else that happens (another error, a crash, a hang, too much memory) is
a finding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lposekit.errors import LposekitError, Rejected
from lposekit.jpeg import read_jpeg_header
from lposekit.report.decode import decoded
from lposekit.report.image_facts import gather_image_facts
from lposekit.report.tiles import kept_tiles
from lposekit.report.video_facts import gather_video_facts
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.image.decode import decode_image
from pipelines.image.plan import iter_shards, list_warnings
from pipelines.image.settings import BuildImagesSettings, ImageSettings
from pipelines.job.stored import read_stored_shard
from pipelines.video.clips.build import build_clips
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import BuildClipsSettings, ClipSettings, EncodeSettings, VideoSettings
from pipelines.video.poses.frames import serve
from trainer.data.decode import (
    ClipPlan,
    DamagedSample,
    Framing,
    Skeleton,
    decode_clip,
    decode_skeleton,
    decode_training_image,
    image_geometry,
    read_clip_facts,
)
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom

_HOW = BuildClipsSettings(
    video=VideoSettings(max_frame_pixels=2**22),
    clips=ClipSettings(length_s=0.4, min_length_s=0.2),
    encode=EncodeSettings(size=32, preset="ultrafast"),
)
_FRAMING = Framing(32, "random", 0.5)
_DRAW = SampleRandom(0, SampleRef(0, 0, 0, 0))


def image(data: bytes, name: str, folder: Path) -> None:
    """An image of the web."""
    image = decode_image(data, ImageSettings(min_size=16, keep_jpeg=True))
    if image.kept_jpeg is not None:
        kept = decode_image(image.kept_jpeg, ImageSettings(min_size=16))
        assert np.array_equal(kept.rgb_HWC, image.rgb_HWC), "a kept file has other pixels"


def stored_image(data: bytes, name: str, folder: Path) -> None:
    """An image of a dataset, for the report and for training."""
    images = decoded({"jpeg": data})["images"]
    try:
        read_jpeg_header(data)
    except ValueError as error:
        if images:
            raise AssertionError("decoded without a header") from error
    decode_training_image(data, _FRAMING, _DRAW)


def video(data: bytes, name: str, folder: Path) -> None:
    """A video of the web: its clips."""
    path, out = folder / "source", folder / "clips"
    path.write_bytes(data)
    for leftover in out.iterdir():
        leftover.unlink()
    result = build_clips(path, VideoRow("a"), _HOW, out)
    if len(list(out.iterdir())) != len(result.clips):
        raise AssertionError(f"{len(result.clips)} clips, {len(list(out.iterdir()))} files")
    if len(result.windows) != len(result.clips) + sum(result.dropped.values()):
        raise AssertionError("windows do not add up")


def video_frames(data: bytes, name: str, folder: Path) -> None:
    """A video of the web: its frames, for poses."""
    path = folder / "source"
    path.write_bytes(data)
    serve({"open": str(path), "max_frame_pixels": 2**22, "max_frames": 5000})
    while serve({"count": 16})["frames"]:
        pass


def stored_clip(data: bytes, name: str, folder: Path) -> None:
    """A clip of a dataset, for the report and for training."""
    decoded({"mp4": data, "indices": [0, 3, 5], "fps": 10.0})
    decode_clip(data, np.arange(4), _FRAMING, _DRAW)


def address_list(data: bytes, name: str, folder: Path) -> None:
    """A list of addresses."""
    path = folder / f"list{Path(name).suffix}"
    path.write_bytes(data)
    try:
        settings = BuildImagesSettings(input=(str(path),), output=folder / "none", rows_per_shard=5)
        list_warnings(settings)
        for plan in iter_shards(settings):
            for row in plan.rows:
                json.dumps(row.row.caption, allow_nan=False).encode()
    finally:
        path.unlink()


def image_dataset(data: bytes, name: str, folder: Path) -> None:
    """A file of a dataset of images."""
    _with_file(folder / "images", name, data, _read_images)


def clip_dataset(data: bytes, name: str, folder: Path) -> None:
    """A file of a dataset of clips."""
    _with_file(folder / "clips-dataset", name, data, _read_clips)


def _with_file(root: Path, name: str, data: bytes, read: Callable[[Path], None]) -> None:
    """`read` the dataset while its file `name` is `data`; every second time its shard's marker vouches for it."""
    before = {path: path.read_bytes() for path in (root / name, *root.glob("*_stats.json"))}
    try:
        (root / name).write_bytes(data)
        if data and data[-1] % 2:
            _vouch(root, name, data)
        findings: list[object] = list(verify_dataset(root))
        assert all(map(str, findings))
        read(root)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def _vouch(root: Path, name: str, data: bytes) -> None:
    for marker in root.glob("*_stats.json"):
        stats = json.loads(marker.read_bytes()) if marker.name != name else {}
        if name in stats.get("files", {}):
            stats["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            marker.write_text(json.dumps(stats), encoding="utf-8")


def _read_images(root: Path) -> None:
    dataset = open_dataset(root)
    for sample in dataset:
        _attempt(lambda sample=sample: (sample.rgb_HWC, sample.caption, sample.metadata))
        _attempt(lambda sample=sample: (sample.persons, sample.skeleton(size=(32, 32))))
        members = sample.members
        _attempt(lambda members=members: _train_on(members))
    _attempt(lambda: dataset.rows().to_pylist())
    _attempt(lambda: [kept_tiles(dataset, gather_image_facts(dataset), public=True)])
    _read_stored(root)


def _read_clips(root: Path) -> None:
    dataset = open_dataset(root)
    for sample in dataset:
        members = sample.members
        _attempt(lambda members=members: _train_on_clip(members))
    _attempt(lambda: gather_video_facts(dataset))
    _read_stored(root)


def _read_stored(root: Path) -> None:
    """As `retry` and `refilter` read a folder."""
    layout = DatasetLayout(root)
    for number in layout.committed_shards():
        stored = read_stored_shard(layout, number)
        for position in range(len(stored)):
            _attempt(lambda stored=stored, position=position: stored.result(position))


def _train_on(members: Mapping[str, bytes]) -> None:
    geometry = image_geometry(members.get("jpg", b""), _FRAMING, _DRAW)
    decode_training_image(members["jpg"], _FRAMING, _DRAW)
    decode_skeleton(members.get("pose.json", b""), geometry, Skeleton())


def _train_on_clip(members: Mapping[str, bytes]) -> None:
    num_frames, fps = read_clip_facts(members.get("json", b""))
    decode_clip(members.get("mp4", b""), ClipPlan(4).indices(num_frames, fps, _DRAW), _FRAMING, _DRAW)


def _attempt(read: Callable[[], object]) -> None:
    with contextlib.suppress(LposekitError, DamagedSample):
        read()


TARGETS: dict[str, Callable[[bytes, str, Path], None]] = {
    each.__name__: each
    for each in (image, stored_image, video, video_frames, stored_clip, address_list, image_dataset, clip_dataset)
}


def tried(payload: Mapping[str, Any], folder: str) -> str:
    """The sandbox's target: {"target", "data", "name"}."""
    try:
        TARGETS[payload["target"]](payload["data"], payload["name"], Path(folder))
    except (Rejected, LposekitError, DamagedSample, MemoryError) as error:
        if isinstance(error, MemoryError):
            raise
        return "refused"
    return "read"
