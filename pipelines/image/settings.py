"""Settings of `lposekit build-laion-pose`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lposekit.keypoints import PersonRule
from lposekit.pose.backend import BackendSetting
from lposekit.setting_values import FLAG_ONLY, MAY_CHANGE, Fraction, Minutes, NotNegative, Positive, Seconds
from pipelines.fetch.settings import FetchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """How images are decoded and stored."""

    size: Positive = 512
    """Shorter side in pixels; the aspect ratio is kept, and no image is enlarged."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 95
    """Quality of the stored JPEG, 1 to 100."""
    keep_jpeg: bool = False
    """Store a plain JPEG that needs no resize as it came, without its metadata; default: encode every image anew."""
    min_size: Positive = 64
    """Images with a shorter side below this end as `too_small`."""
    max_aspect_ratio: Annotated[float, Ge(1)] = 8.0
    """Maximum ratio of the longer to the shorter side; more elongated images end as `too_small`."""
    max_pixels: Positive = 100_000_000
    """Maximum width x height, checked in the header before decoding."""
    decode_memory_bytes: Annotated[Positive, MAY_CHANGE] = 2 * 2**30
    """Memory limit of a decoder process; an image that exceeds it ends as `worker_crash`."""
    decode_timeout_s: Annotated[Seconds, MAY_CHANGE] = 20.0
    """Time limit for one image; then its decoder process is killed, and it ends as `worker_crash`."""
    decode_processes: Annotated[NotNegative, MAY_CHANGE] = 1
    """Killable decoder processes per worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseSettings:
    """How persons and their keypoints are detected."""

    box_score_threshold: Fraction | None = None
    """Minimum box score of a person; default: that of the detector (docs/guide/models.md)."""
    min_box_area_fraction: Fraction = 0.01
    """Minimum area of a person's box, as a fraction of the image."""
    min_box_side_px: Annotated[float, Ge(0)] = 48.0
    """Minimum shorter side of a person's box, in pixels of the stored image."""
    keypoint_score_threshold: float | None = None
    """Raw score from which a keypoint counts as detected; default: that of the pose model (docs/guide/models.md)."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Literal["auto", "float32", "half", "bfloat16"] = "auto"
    """Precision of the models; `auto`: half on a GPU, float32 elsewhere. Some models always run in float32."""
    backend: Annotated[BackendSetting, MAY_CHANGE] = "auto"
    """What runs the models: `torch`; `openvino`, faster on a CPU; or `auto`: that of the folder, in a new one openvino
    on a CPU. A folder goes on with the backend that it was begun with (docs/guide/models.md)."""
    actors: Annotated[Positive | None, MAY_CHANGE] = None
    """Pose model processes; default: `actors_per_gpu` per GPU, or one per `threads` cores."""
    actors_per_gpu: Annotated[Positive, MAY_CHANGE] = 2
    """Pose model processes that share one GPU."""
    threads: Positive = 1
    """Threads per pose model process. With torch, the thread count changes the last digits of the results."""
    batch_size: Positive = 16
    """Images per batch, at most: the rows of a shard are divided evenly. Batches never cross shards."""
    crop_batch_size: Positive = 32
    """Persons per forward pass of the pose model, with torch."""
    duplicate_oks: Fraction | None = 0.7
    """Of two persons whose poses are more alike than this (OKS, 0 to 1), only the surer one is kept; `none`: both."""
    attempts: Annotated[Positive, MAY_CHANGE] = 2
    """Attempts at a batch that crashes its model process, before it is bisected to find the image that causes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """Metadata filters, applied before any fetch. A row without a value in the column passes."""

    max_punsafe: float | None = None
    """Maximum of the list's column `punsafe`."""
    max_pwatermark: float | None = None
    """Maximum of the column `pwatermark`."""
    min_similarity: float | None = None
    """Minimum of the column `similarity`."""
    min_aesthetic: float | None = None
    """Minimum of the column `aesthetic`."""
    min_width: Positive | None = None
    """Minimum width according to the list, in pixels."""
    min_height: Positive | None = None
    """Minimum height according to the list, in pixels."""
    caption_pattern: str | None = None
    """Regular expression that must match somewhere in the caption."""
    max_caption_chars: Positive = 10_000
    """Longer captions are truncated; the commit marker counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildImagesSettings:
    """Settings of `lposekit build-laion-pose`."""

    input: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Lists of URLs and captions: parquet, csv, tsv, json, jsonl(.gz), txt; local paths or fsspec URLs."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The dataset folder."""
    caption_column: str | None = None
    """Caption column of the list; default: found by its name (caption, text, alt, ...)."""
    url_column: str | None = None
    """URL column of the list; default: found by its name (url, image_url, ...)."""
    list_source: Annotated[Literal["re-laion-5b", "laion-5b", "other"] | None, MAY_CHANGE] = None
    """What the lists are, where their names or columns look like those of LAION-5B, which was withdrawn."""
    rows_per_shard: Annotated[int, Interval(ge=1, le=10_000)] = 1000
    """Rows per shard: the unit of work, loss and resume."""
    workers: Annotated[Positive | None, MAY_CHANGE] = None
    """Shards built in parallel; default: one per core."""
    min_detected: Fraction = 0.5
    """Fraction of the 17 body keypoints that must be detected on a person."""
    store_min_detected: Fraction | None = None
    """The same for storing a sample in the tars; default: `min_detected`."""
    person_rule: PersonRule = "any"
    """Which persons must reach `min_detected`: `any` one, `main` (the largest), `all`, or `pooled` (all together)."""
    detector: str = "rtmdet-m"
    """Person detector: rtmdet-m, rtmdet-nano, rtmdet-nano-rebuilt (docs/guide/models.md)."""
    pose_model: str = "hrnet-w48"
    """Pose model: hrnet-w48, hrnet-w32, rtmpose-t, rtmpose-s, rtmpose-m, rtmpose-m-wholebody, tinypose."""
    weights_dir: Annotated[Path | None, MAY_CHANGE] = None
    """First folder to search for weights; then LPOSEKIT_WEIGHTS, the cache, the publisher (docs/guide/models.md)."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY, MAY_CHANGE] = False
    """Also fetch from private addresses. Flag only: refused in settings files and the environment."""
    ray_address: Annotated[str | None, MAY_CHANGE] = None
    """Address of a running Ray cluster; default: start a local one."""
    min_success: Annotated[Fraction | None, MAY_CHANGE] = None
    """Exit with code 3 if a smaller fraction of the rows was fetched and decoded."""
    shuffle_seed: int | None = None
    """Seed for shuffling the rows before sharding, to avoid bursts to one host; default: no shuffling."""
    max_rows: Positive | None = None
    """Use only this many rows from the start of the input."""
    shard_attempts: Annotated[Positive, MAY_CHANGE] = 3
    """Attempts at a shard whose worker process dies."""
    stall_minutes: Annotated[Minutes, MAY_CHANGE] = 30.0
    """End (exit code 1) after so many minutes without any progress, and say what was waited for."""
    worker_memory_bytes: Annotated[Positive, MAY_CHANGE] = 8 * 2**30
    """Memory limit of a worker process, beyond what its start takes; a shard that exceeds it fails, and is named."""
    network_failure_limit: Annotated[Fraction | None, MAY_CHANGE] = 0.9
    """Stop (exit code 3) if more than this fraction of the last rows failed on the network; `none`: never."""
    network_failure_window: Annotated[Positive, MAY_CHANGE] = 500
    """Number of last rows that `network_failure_limit` looks at."""
    fetch: FetchSettings = field(default_factory=FetchSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    pose: PoseSettings = field(default_factory=PoseSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
