"""Settings of `lposekit build-video-shards`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from lposekit.setting_values import FLAG_ONLY, MAY_CHANGE, Fraction, Positive, Seconds
from pipelines.fetch.settings import TransportSettings
from pipelines.video.clips.settings import (
    BuildClipsSettings,
    ClipFilterSettings,
    ClipSettings,
    EncodeSettings,
    ShotSettings,
    VideoSettings,
)

VideoFormat = Literal["generic", "webvid", "hdvila", "hdvila_captions", "panda70m"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one video may cost. A video that exceeds a limit is killed and set aside; the run goes on."""

    timeout_s: Annotated[Seconds | None, MAY_CHANGE] = None
    """Longest time for one video; default: as long as it makes progress, so that long videos are not thrown away."""
    heartbeat_timeout_s: Annotated[Seconds, MAY_CHANGE] = 60.0
    """Longest time without a frame, decoded or written; then the video ends as `decode_hang`."""
    memory_bytes: Annotated[Positive, MAY_CHANGE] = 4 * 2**30
    """Largest memory of the decoder child; a video that takes more ends as `corrupt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildVideoSettings:
    """Settings of `lposekit build-video-shards`."""

    input: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Manifests (generic csv/jsonl/parquet, WebVid csv, HD-VILA jsonl, Panda-70M csv) or folders of videos."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The dataset folder."""
    format: VideoFormat | None = None
    """The manifest's layout; default: detected from its columns."""
    caption_column: str | None = None
    """The manifest's column of captions; default: found by its name."""
    # Another file of the same content continues a folder: see `input_fingerprint`.
    captions: Annotated[str | None, MAY_CHANGE] = None
    """A file of captions that is joined by key: csv, jsonl or parquet; local or fsspec URL."""
    video_root: Annotated[Path | None, MAY_CHANGE] = None
    """Folder that relative paths of manifests count from; default: the manifest's own."""
    rows_per_shard: Annotated[int, Interval(ge=1, le=10_000)] = 32
    """Videos of one shard. They are built one after the other, and a killed worker begins its shard anew: take few
    where they are long, many where they last seconds."""
    workers: Annotated[Positive | None, MAY_CHANGE] = None
    """Shards in work at the same time; default: one a core."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY, MAY_CHANGE] = False
    """Fetch from private addresses too. A flag only: refused in files and environment."""
    ray_address: Annotated[str | None, MAY_CHANGE] = None
    """Address of a running Ray cluster; default: a local one."""
    min_success: Annotated[Fraction | None, MAY_CHANGE] = None
    """Exit 3 when a smaller share of the videos was decoded."""
    shard_attempts: Annotated[Positive, MAY_CHANGE] = 3
    """Tries of a shard whose worker process died."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    fetch: TransportSettings = field(
        default_factory=lambda: TransportSettings(max_body_bytes=4 * 2**30, total_timeout_s=1800.0, idle_timeout_s=20.0)
    )
    video: VideoSettings = field(default_factory=VideoSettings)
    shots: ShotSettings = field(default_factory=ShotSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    filters: ClipFilterSettings = field(default_factory=ClipFilterSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)


def clips_settings(settings: BuildVideoSettings) -> BuildClipsSettings:
    """What the clip builder needs of the build's settings."""
    return BuildClipsSettings(
        video=settings.video,
        shots=settings.shots,
        clips=settings.clips,
        filters=settings.filters,
        encode=settings.encode,
    )
