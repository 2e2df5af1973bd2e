"""Images of clips: first, middle and last frame, decoded with PyAV where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lposekit.errors import LposekitError
from lposekit.json_values import COUNT, NUMBER, TEXT, JsonFields, parse_json_object
from lposekit.report.clip_player import clip_uri
from lposekit.report.decode import Rgb, decode_jpeg, first_middle_last, three_frames_of_mp4
from lposekit.report.inline_images import photo_uri
from lposekit.report.spread import spread
from lposekit.report.video_facts import VideoFacts
from lposekit.shards.dataset import PoseDataset, read_members
from lposekit.shards.index import ShardIndex
from lposekit.words import counted

CLIPS_SHOWN = 24
FRAME_SIDE_PX = 320


@dataclass(frozen=True, slots=True)
class Strip:
    """One clip of the page. `frames` are data URIs: three, or none if the clip cannot be decoded; `video`: that
    of a small form that plays, if there is one."""

    key: str
    caption: str
    address: str | None
    frames: Sequence[str]
    ratio: float
    note: str
    video: str | None


def can_decode() -> bool:
    """Whether PyAV is there; the report does without it."""
    return importlib.util.find_spec("av") is not None


def clip_strips(dataset: PoseDataset, facts: VideoFacts) -> list[Strip]:
    """Up to `CLIPS_SHOWN` clips, spread over all shards."""
    return [_strip(shard, key, members) for shard, key, members in _spread_clips(dataset, facts)]


def _spread_clips(dataset: PoseDataset, facts: VideoFacts) -> Iterator[tuple[ShardIndex, str, dict[str, bytes]]]:
    counts = facts.samples_by_shard
    ordinals = spread(sum(counts), CLIPS_SHOWN)
    first = 0
    for place, count in enumerate(counts):
        for ordinal in ordinals:
            if first <= ordinal < first + count:
                shard = dataset.shards[place]
                yield shard, shard.key(ordinal - first), read_members(shard, ordinal - first)
        first += count


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What the json of a clip says of it, as far as the page shows it."""

    num_frames: int
    fps: float
    width: int
    height: int
    start_s: float
    end_s: float
    motion: float | None
    source: str | None

    @classmethod
    def of(cls, shard: ShardIndex, key: str, members: Mapping[str, bytes]) -> ClipFacts:
        """The facts of a sample.

        Raises:
            LposekitError: they are damaged; names the sample and the field.
        """
        try:
            fields = JsonFields(parse_json_object(members.get("json", b"{}")))
            return cls(
                num_frames=fields.take("num_frames", COUNT) or 0,
                fps=fields.take("fps", NUMBER) or 0,
                width=fields.take("width", COUNT) or 16,
                height=fields.take("height", COUNT) or 9,
                start_s=fields.take("start_s", NUMBER) or 0,
                end_s=fields.take("end_s", NUMBER) or 0,
                motion=fields.take("motion", NUMBER),
                source=fields.take("source", TEXT),
            )
        except ValueError as error:
            raise LposekitError(
                f"shard {shard.tar_path}: sample {key}: json: {error}. Build the shard again."
            ) from error


def _strip(shard: ShardIndex, key: str, members: Mapping[str, bytes]) -> Strip:
    facts = ClipFacts.of(shard, key, members)
    frames = three_frames(members, facts.num_frames, facts.fps) if can_decode() else []
    parts = [
        f"{facts.start_s:.2f} to {facts.end_s:.2f} s",
        f"{counted(facts.num_frames, 'frame')} at {facts.fps:.4g} fps",
        f"{facts.width} x {facts.height}",
        *([] if facts.motion is None else [f"motion {facts.motion:.3f}"]),
    ]
    return Strip(
        key=key,
        caption=members.get("txt", b"").decode("utf-8", "replace"),
        address=facts.source,
        frames=[photo_uri(rgb_HWC, FRAME_SIDE_PX) for rgb_HWC in frames],
        ratio=facts.width / facts.height,
        note=", ".join(parts),
        video=clip_uri(members, facts.num_frames, facts.fps) if len(frames) == 3 else None,
    )


def three_frames(members: Mapping[str, bytes], num_frames: int, fps: float) -> list[Rgb]:
    """First, middle and last frame of a clip stored as `mp4` or as `jpg` frames; none if it cannot be decoded."""
    if "mp4" in members:
        return three_frames_of_mp4(members["mp4"], num_frames, fps)
    names = sorted(name for name in members if name.endswith(".jpg"))
    if not names:
        return []
    found = [decode_jpeg(members[names[i]]) for i in first_middle_last(len(names))]
    return [rgb_HWC for rgb_HWC in found if rgb_HWC is not None]
