"""Images of clips: first, middle and last frame, decoded with PyAV where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lposekit.report.facts import spread
from lposekit.report.inline_images import Rgb, decode_jpeg, photo_uri
from lposekit.report.video_facts import VideoFacts
from lposekit.shards.dataset import PoseDataset, read_members
from lposekit.stored_media import open_clip

CLIPS_SHOWN = 24
FRAME_SIDE_PX = 260


@dataclass(frozen=True, slots=True)
class Strip:
    """One clip of the page. `frames` are data URIs: three, or none if the clip cannot be decoded."""

    key: str
    caption: str
    address: str | None
    frames: Sequence[str]
    ratio: float
    note: str


def can_decode() -> bool:
    """Whether PyAV is there; the report does without it."""
    return importlib.util.find_spec("av") is not None


def clip_strips(dataset: PoseDataset, facts: VideoFacts) -> list[Strip]:
    """Up to `CLIPS_SHOWN` clips, spread over all shards."""
    return [_strip(key, members) for key, members in _spread_clips(dataset, facts)]


def _spread_clips(dataset: PoseDataset, facts: VideoFacts) -> Iterator[tuple[str, dict[str, bytes]]]:
    counts = [shard.num_samples for shard in facts.shards]
    ordinals = spread(sum(counts), CLIPS_SHOWN)
    first = 0
    for shard, count in zip(dataset.shards, counts, strict=True):
        for ordinal in ordinals:
            if first <= ordinal < first + count:
                yield str(shard.keys[ordinal - first]), read_members(shard, ordinal - first)
        first += count


def _strip(key: str, members: Mapping[str, bytes]) -> Strip:
    metadata: dict[str, Any] = json.loads(members.get("json", b"{}"))
    num_frames = int(metadata.get("num_frames") or 0)
    frames = three_frames(members, num_frames, float(metadata.get("fps") or 0)) if can_decode() else []
    width, height = metadata.get("width") or 16, metadata.get("height") or 9
    motion = metadata.get("motion")
    parts = [
        f"{metadata.get('start_s', 0):.2f} to {metadata.get('end_s', 0):.2f} s",
        f"{num_frames} frames at {metadata.get('fps', 0):.4g} fps",
        f"{width} x {height}",
        *([] if motion is None else [f"motion {motion:.3f}"]),
    ]
    return Strip(
        key=key,
        caption=members.get("txt", b"").decode("utf-8", "replace"),
        address=metadata.get("source"),
        frames=[photo_uri(rgb_HWC, FRAME_SIDE_PX) for rgb_HWC in frames],
        ratio=width / height,
        note=", ".join(parts),
    )


def three_frames(members: Mapping[str, bytes], num_frames: int, fps: float) -> list[Rgb]:
    """First, middle and last frame of a clip stored as `mp4` or as `jpg` frames; none if it cannot be decoded."""
    if "mp4" in members:
        return _frames_of_mp4(members["mp4"], num_frames, fps)
    names = sorted(name for name in members if name.endswith(".jpg"))
    if not names:
        return []
    found = [decode_jpeg(members[names[i]]) for i in _first_middle_last(len(names))]
    return [rgb_HWC for rgb_HWC in found if rgb_HWC is not None]


def _first_middle_last(count: int) -> tuple[int, int, int]:
    return 0, count // 2, max(count - 1, 0)


def _frames_of_mp4(mp4: bytes, num_frames: int, fps: float) -> list[Rgb]:
    import av.error

    frames: list[Rgb] = []
    try:
        with open_clip(mp4) as container:
            stream = container.streams.video[0]
            for index in _first_middle_last(num_frames):
                # clips have a constant rate and a key frame every dozen frames, so that seeking is cheap
                target = round(index / fps / stream.time_base) if fps and stream.time_base else 0
                container.seek(target, stream=stream)
                for frame in container.decode(stream):
                    if frame.pts is not None and frame.pts >= target:
                        frames.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
                        break
    except (av.error.FFmpegError, IndexError):
        return []
    return frames if len(frames) == 3 else []
