"""Settings of the image and video builds. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lposekit.keypoints import PersonRule
from lposekit.setting_values import FLAG_ONLY
from pipelines.decode.video_settings import (
    ClipFilterSettings,
    ClipSettings,
    EncodeSettings,
    ShotSettings,
    VideoSettings,
)

Positive = Annotated[int, Ge(1)]
Seconds = Annotated[float, Interval(gt=0, lt=math.inf)]
Share = Annotated[float, Interval(ge=0, le=1)]
VideoFormat = Literal["generic", "webvid", "hdvila", "hdvila_captions", "panda70m"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFetchSettings:
    """How files are fetched."""

    connect_timeout_s: Seconds = 5.0
    """Longest wait for a connection, TLS handshake included."""
    idle_timeout_s: Seconds = 5.0
    """Longest silence of a server in the middle of an answer."""
    total_timeout_s: Seconds = 20.0
    """Longest time for one row, all redirects and retries included."""
    max_body_bytes: Positive = 32 * 2**20
    """Largest body, as sent and after decoding; larger ones end as `too_big`."""
    max_redirects: Annotated[int, Ge(0)] = 5
    """Redirects followed for one row; more end as `redirect`."""
    retries: Annotated[int, Ge(0)] = 2
    """Further tries after a temporary failure (429, 5xx, reset), with jittered back-off and Retry-After."""
    user_agent: str = "lposekit/0.1 (dataset builder; +https://github.com/lposekit/lposekit)"
    """Who asks, as servers see it. Set it to a name and contact of your own."""
    robots: bool = True
    """Obey robots.txt (fetched once an origin, cached)."""
    opt_out_headers: bool = True
    """Obey X-Robots-Tag (noai, noimageai, noindex, noimageindex, noml) and TDM reservation."""
    verify_hash: bool = True
    """Check the list's md5, sha256 or hash column, where there is one."""
    blocklist: tuple[Path, ...] = ()
    """Files with one URL, domain or sha256 a line: never fetched, and refused by hash after the fetch."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings(VideoFetchSettings):
    """How pictures are fetched: as other files, many at the same time."""

    per_host_connections: Positive = 8
    """Connections open to one host at the same time, in one worker."""
    threads: Positive = 64
    """Downloads at the same time, in one worker."""
    dedup: bool = False
    """Turn down a picture whose sha256 already occurred in its shard."""


FREE_FETCH_SETTINGS = frozenset(
    f"fetch.{name}"
    for name in (
        "connect_timeout_s",
        "idle_timeout_s",
        "total_timeout_s",
        "retries",
        "user_agent",
        "ca_file",
        "blocklist",
    )
)
"""Settings of a fetch that a run may change when it continues a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """What a stored picture is."""

    size: Positive = 512
    """Shorter side in pixels; the ratio is kept, and no picture is enlarged."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 95
    """Of the stored JPEG, 1 to 100. Every picture is coded anew."""
    min_size: Positive = 64
    """Pictures with a shorter side below this end as `too_small`."""
    max_aspect_ratio: float = 8.0
    """Pictures whose longer side is more than this many times the shorter one end as `too_small`."""
    max_pixels: Positive = 100_000_000
    """Largest width x height, read from the header before anything is decoded."""
    decode_memory_bytes: Positive = 2 * 2**30
    """Largest memory of a decoder child; a picture that takes more ends as `worker_crash`."""
    decode_timeout_s: Seconds = 20.0
    """Longest time for one picture; then its child is killed, and it ends as `worker_crash`."""
    decode_processes: Annotated[int, Ge(0)] = 1
    """Killable decoder children in one worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseSettings:
    """How persons and their keypoints are found."""

    box_score_threshold: Share | None = None
    """Box score from which a person counts; default: the detector's own, from the zoo."""
    min_box_area_fraction: Share = 0.01
    """Share of the picture that a person's box has to cover to count."""
    min_box_side_px: float = 48.0
    """Shorter side that a person's box needs to count, in pixels of the stored picture."""
    keypoint_score_threshold: float | None = None
    """Raw score from which a keypoint is detected; default: the model's own, from the zoo."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one."""
    precision: Literal["auto", "float32", "half", "bfloat16"] = "auto"
    """Of the models' arithmetic; `auto`: half on a GPU, float32 elsewhere. Some models always take float32."""
    actors: Positive | None = None
    """Pose model processes; default: `actors_per_gpu` a GPU, or one per `threads` cores."""
    actors_per_gpu: Positive = 2
    """Pose model processes that share one GPU."""
    threads: Positive = 1
    """Torch threads of one pose actor. Other thread counts give other last digits."""
    batch_size: Positive = 16
    """Pictures of one batch. Batches never cross shards."""
    crop_batch_size: Positive = 32
    """Persons of one forward pass of the pose model."""
    attempts: Positive = 2
    """Tries of a batch whose model process died before it is bisected to the picture that kills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """Metadata filters, applied before any fetch. A row that lacks the column passes."""

    max_punsafe: float | None = None
    """Largest value of the list's `punsafe` column."""
    max_pwatermark: float | None = None
    """Largest value of `pwatermark`."""
    min_similarity: float | None = None
    """Smallest value of `similarity`."""
    min_aesthetic: float | None = None
    """Smallest value of `aesthetic`."""
    min_width: Positive | None = None
    """Smallest width that the list states, in pixels."""
    min_height: Positive | None = None
    """Smallest height that the list states, in pixels."""
    caption_pattern: str | None = None
    """A regular expression that the caption must contain."""
    max_caption_chars: Positive = 10_000
    """Longer captions are cut, which the commit marker counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildImagesSettings:
    """Settings of `lposekit build-laion-pose`."""

    input: tuple[str, ...] = ()
    """Lists of URLs and captions: parquet, csv, tsv, json, jsonl(.gz), txt; local or fsspec URL."""
    output: Path | None = None
    """The dataset folder."""
    caption_column: str | None = None
    """The list's column of captions; default: found by its name (caption, text, alt, ...)."""
    url_column: str | None = None
    """The list's column of addresses; default: found by its name (url, image_url, ...)."""
    rows_per_shard: Annotated[int, Interval(ge=1, le=10_000)] = 1000
    """Rows of one shard: the unit of work, loss and resume."""
    workers: Positive | None = None
    """Shards in work at the same time; default: one a core."""
    min_detected: Share = 0.5
    """Share of the 17 body keypoints that a person needs."""
    store_min_detected: Share | None = None
    """The same for what goes into the tars; default: `min_detected`."""
    person_rule: PersonRule = "any"
    """Which persons have to have them: `any` one, `main` (the largest), `all`, or `pooled`: all of them together."""
    detector: str = "rtmdet-m"
    """Person detector: rtmdet-m, rtmdet-nano, rtmdet-nano-rebuilt (docs/guide/models.md)."""
    pose_model: str = "hrnet-w48"
    """Pose model: hrnet-w48, hrnet-w32, rtmpose-t, rtmpose-s, rtmpose-m, rtmpose-m-wholebody, tinypose."""
    weights_dir: Path | None = None
    """Where weights are looked for first; then in LPOSEKIT_WEIGHTS, in the user's cache, and at their publisher."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY] = False
    """Fetch from private addresses too. A flag only: refused in settings files and environment."""
    ray_address: str | None = None
    """Address of a running Ray cluster; default: a local one."""
    min_success: Share | None = None
    """Exit 3 when a smaller share of the rows was fetched and decoded."""
    shuffle_seed: int | None = None
    """Shuffle the rows before sharding, against bursts to one host."""
    max_rows: Positive | None = None
    """Take the first rows only, to try a part."""
    shard_attempts: Positive = 3
    """Tries of a shard whose worker process died."""
    network_failure_limit: Share | None = 0.9
    """Stop (exit 3) when more than this share of the last rows failed by the network; none: never."""
    network_failure_window: Positive = 500
    """How many rows these last ones are."""
    fetch: FetchSettings = field(default_factory=FetchSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    pose: PoseSettings = field(default_factory=PoseSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one video may cost. A video that exceeds a limit is killed and set aside; the run goes on."""

    timeout_s: Seconds | None = None
    """Longest time for one video; default: as long as it makes progress, so that long videos are not thrown away."""
    heartbeat_timeout_s: Seconds = 60.0
    """Longest time without a frame, decoded or written; then the video ends as `decode_hang`."""
    memory_bytes: Positive = 4 * 2**30
    """Largest memory of the decoder child; a video that takes more ends as `corrupt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildVideoSettings:
    """Settings of `lposekit build-video-shards`."""

    input: tuple[str, ...] = ()
    """Manifests (generic csv/jsonl/parquet, WebVid csv, HD-VILA jsonl, Panda-70M csv) or folders of videos."""
    output: Path | None = None
    """The dataset folder."""
    format: VideoFormat | None = None
    """The manifest's layout; default: detected from its columns."""
    caption_column: str | None = None
    """The manifest's column of captions; default: found by its name."""
    captions: str | None = None
    """A file of captions that is joined by key: csv, jsonl or parquet; local or fsspec URL."""
    video_root: Path | None = None
    """Folder that relative paths of manifests count from; default: the manifest's own."""
    rows_per_shard: Annotated[int, Interval(ge=1, le=10_000)] = 32
    """Videos of one shard. They are built one after the other, and a killed worker begins its shard anew: take few
    where they are long, many where they last seconds."""
    workers: Positive | None = None
    """Shards in work at the same time; default: one a core."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY] = False
    """Fetch from private addresses too. A flag only: refused in files and environment."""
    ray_address: str | None = None
    """Address of a running Ray cluster; default: a local one."""
    min_success: Share | None = None
    """Exit 3 when a smaller share of the videos was decoded."""
    shard_attempts: Positive = 3
    """Tries of a shard whose worker process died."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    fetch: VideoFetchSettings = field(
        default_factory=lambda: VideoFetchSettings(
            max_body_bytes=4 * 2**30, total_timeout_s=1800.0, idle_timeout_s=20.0
        )
    )
    video: VideoSettings = field(default_factory=VideoSettings)
    shots: ShotSettings = field(default_factory=ShotSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    filters: ClipFilterSettings = field(default_factory=ClipFilterSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)
