"""Settings of `lposekit build-video-shards`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from lposekit.setting_values import FLAG_ONLY, MAY_CHANGE, Fraction, Minutes, Positive, Seconds
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
    """Limits for one video. If a video exceeds a limit, its process is killed and the run continues without it."""

    timeout_s: Annotated[Seconds | None, MAY_CHANGE] = None
    """Time limit for one video; default: none as long as it makes progress, so that long videos are not lost."""
    heartbeat_timeout_s: Annotated[Seconds, MAY_CHANGE] = 60.0
    """Longest time without a frame decoded or written; then the video ends as `decode_hang`."""
    memory_bytes: Annotated[Positive, MAY_CHANGE] = 4 * 2**30
    """Memory limit of the decoder process; a video that exceeds it ends as `corrupt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildVideoSettings:
    """Settings of `lposekit build-video-shards`."""

    input: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Lists (generic csv/jsonl/parquet, WebVid csv, HD-VILA jsonl, Panda-70M csv) or folders of videos."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The dataset folder."""
    format: VideoFormat | None = None
    """Format of the list; default: detected from the column names."""
    caption_column: str | None = None
    """Caption column of the list; default: found by its name."""
    # Another file of the same content continues a folder: see `input_fingerprint`.
    captions: Annotated[str | None, MAY_CHANGE] = None
    """A file of captions, joined by key: csv, jsonl or parquet; a local path or an fsspec URL."""
    video_root: Annotated[Path | None, MAY_CHANGE] = None
    """Base folder of relative paths in lists; default: the folder of the list. What lies
    outside ends as `bad_url`."""
    rows_per_shard: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    """Videos per shard. Default: as many as come to `shard_mb`. They are built one after the other, and after a kill
    the shard starts again."""
    # binds a folder only where it decides what a shard holds: see `VideoRecipe.fixed_facts`
    shard_mb: Annotated[int, Interval(ge=1, le=100_000), MAY_CHANGE] = 512
    """Size in MB that the clips of a shard should come to, by the lengths that the list states (spans, or a column
    `duration`); videos of unknown length are taken 32 at a time."""
    workers: Annotated[Positive | None, MAY_CHANGE] = None
    """Shards built in parallel; default: one per core."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY, MAY_CHANGE] = False
    """Also fetch from private addresses. Flag only: refused in settings files and the environment."""
    allow_outside_paths: Annotated[bool, FLAG_ONLY, MAY_CHANGE] = False
    """Also read files that a list names, or a link leads to, outside of `video_root`. Flag only: refused in settings
    files and the environment."""
    ray_address: Annotated[str | None, MAY_CHANGE] = None
    """Address of a running Ray cluster; default: start a local one."""
    min_success: Annotated[Fraction | None, MAY_CHANGE] = None
    """Exit with code 3 if a smaller fraction of the videos was decoded."""
    shard_attempts: Annotated[Positive, MAY_CHANGE] = 3
    """Attempts at a shard whose worker process dies."""
    stall_minutes: Annotated[Minutes, MAY_CHANGE] = 60.0
    """End (exit code 1) after so many minutes without any progress, and say what was waited for. A fetch may take as
    long as `fetch.total_timeout_s`."""
    worker_memory_bytes: Annotated[Positive, MAY_CHANGE] = 8 * 2**30
    """Memory limit of a worker process, beyond what its start takes; a shard that exceeds it fails, and is named."""
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
