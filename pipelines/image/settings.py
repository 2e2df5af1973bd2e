"""Settings of `lposekit build-laion-pose`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lposekit.keypoints import PersonRule
from lposekit.setting_values import FLAG_ONLY, MAY_CHANGE, Fraction, NotNegative, Positive, Seconds
from pipelines.fetch.settings import FetchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """What a stored picture is."""

    size: Positive = 512
    """Shorter side in pixels; the ratio is kept, and no picture is enlarged."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 95
    """Of the stored JPEG, 1 to 100. Every picture is coded anew."""
    min_size: Positive = 64
    """Pictures with a shorter side below this end as `too_small`."""
    max_aspect_ratio: Annotated[float, Ge(1)] = 8.0
    """Pictures whose longer side is more than this many times the shorter one end as `too_small`."""
    max_pixels: Positive = 100_000_000
    """Largest width x height, read from the header before anything is decoded."""
    decode_memory_bytes: Annotated[Positive, MAY_CHANGE] = 2 * 2**30
    """Largest memory of a decoder child; a picture that takes more ends as `worker_crash`."""
    decode_timeout_s: Annotated[Seconds, MAY_CHANGE] = 20.0
    """Longest time for one picture; then its child is killed, and it ends as `worker_crash`."""
    decode_processes: Annotated[NotNegative, MAY_CHANGE] = 1
    """Killable decoder children in one worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseSettings:
    """How persons and their keypoints are found."""

    box_score_threshold: Fraction | None = None
    """Box score from which a person counts; default: the detector's own, from the zoo."""
    min_box_area_fraction: Fraction = 0.01
    """Share of the picture that a person's box has to cover to count."""
    min_box_side_px: Annotated[float, Ge(0)] = 48.0
    """Shorter side that a person's box needs to count, in pixels of the stored picture."""
    keypoint_score_threshold: float | None = None
    """Raw score from which a keypoint is detected; default: the model's own, from the zoo."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one."""
    precision: Literal["auto", "float32", "half", "bfloat16"] = "auto"
    """Of the models' arithmetic; `auto`: half on a GPU, float32 elsewhere. Some models always take float32."""
    actors: Annotated[Positive | None, MAY_CHANGE] = None
    """Pose model processes; default: `actors_per_gpu` a GPU, or one per `threads` cores."""
    actors_per_gpu: Annotated[Positive, MAY_CHANGE] = 2
    """Pose model processes that share one GPU."""
    threads: Positive = 1
    """Torch threads of one pose actor. Other thread counts give other last digits."""
    batch_size: Positive = 16
    """Pictures of one batch. Batches never cross shards."""
    crop_batch_size: Positive = 32
    """Persons of one forward pass of the pose model."""
    attempts: Annotated[Positive, MAY_CHANGE] = 2
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

    input: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Lists of URLs and captions: parquet, csv, tsv, json, jsonl(.gz), txt; local or fsspec URL."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The dataset folder."""
    caption_column: str | None = None
    """The list's column of captions; default: found by its name (caption, text, alt, ...)."""
    url_column: str | None = None
    """The list's column of addresses; default: found by its name (url, image_url, ...)."""
    rows_per_shard: Annotated[int, Interval(ge=1, le=10_000)] = 1000
    """Rows of one shard: the unit of work, loss and resume."""
    workers: Annotated[Positive | None, MAY_CHANGE] = None
    """Shards in work at the same time; default: one a core."""
    min_detected: Fraction = 0.5
    """Share of the 17 body keypoints that a person needs."""
    store_min_detected: Fraction | None = None
    """The same for what goes into the tars; default: `min_detected`."""
    person_rule: PersonRule = "any"
    """Which persons have to have them: `any` one, `main` (the largest), `all`, or `pooled`: all of them together."""
    detector: str = "rtmdet-m"
    """Person detector: rtmdet-m, rtmdet-nano, rtmdet-nano-rebuilt (docs/guide/models.md)."""
    pose_model: str = "hrnet-w48"
    """Pose model: hrnet-w48, hrnet-w32, rtmpose-t, rtmpose-s, rtmpose-m, rtmpose-m-wholebody, tinypose."""
    weights_dir: Annotated[Path | None, MAY_CHANGE] = None
    """Where weights are looked for first; then in LPOSEKIT_WEIGHTS, in the user's cache, and at their publisher."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY, MAY_CHANGE] = False
    """Fetch from private addresses too. A flag only: refused in settings files and environment."""
    ray_address: Annotated[str | None, MAY_CHANGE] = None
    """Address of a running Ray cluster; default: a local one."""
    min_success: Annotated[Fraction | None, MAY_CHANGE] = None
    """Exit 3 when a smaller share of the rows was fetched and decoded."""
    shuffle_seed: int | None = None
    """Shuffle the rows before sharding, against bursts to one host."""
    max_rows: Positive | None = None
    """Take the first rows only, to try a part."""
    shard_attempts: Annotated[Positive, MAY_CHANGE] = 3
    """Tries of a shard whose worker process died."""
    network_failure_limit: Annotated[Fraction | None, MAY_CHANGE] = 0.9
    """Stop (exit 3) when more than this share of the last rows failed by the network; none: never."""
    network_failure_window: Annotated[Positive, MAY_CHANGE] = 500
    """How many rows these last ones are."""
    fetch: FetchSettings = field(default_factory=FetchSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    pose: PoseSettings = field(default_factory=PoseSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
