"""Settings of `lposekit pose`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lposekit.pose.backend import BackendSetting
from lposekit.pose.parts import Part
from lposekit.setting_values import MAY_CHANGE, Fraction, Minutes, Positive, Seconds
from lposekit.skeleton_styles import StyleName


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPoseSettings:
    """How persons and their keypoints are detected, in pixels of the video."""

    box_score_threshold: Fraction | None = None
    """Box score from which a person begins a track; default: that of the detector (docs/guide/models.md)."""
    min_box_area_fraction: Fraction = 0.003
    """Minimum area of a person's box, as a fraction of the frame."""
    min_box_side_px: Annotated[float, Ge(0)] = 32.0
    """Minimum shorter side of a person's box, in pixels."""
    keypoint_score_threshold: float | None = None
    """Raw score from which a keypoint counts as detected; default: that of the pose model (docs/guide/models.md)."""
    duplicate_oks: Fraction | None = 0.7
    """Of two persons whose poses are more alike than this (OKS, 0 to 1), only the surer one is kept; `none`: both."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Literal["auto", "float32", "half", "bfloat16"] = "auto"
    """Precision of the models; `auto`: half on a GPU, float32 elsewhere. Some models always run in float32."""
    backend: Annotated[BackendSetting, MAY_CHANGE] = "auto"
    """What runs the models: `torch`; `openvino`, faster on a CPU; or `auto`: that of the folder, in a new one openvino
    on a CPU. A folder goes on with the backend that it was begun with (docs/guide/models.md)."""
    actors: Annotated[Positive | None, MAY_CHANGE] = None
    """Of a dataset: pose model processes; default: `actors_per_gpu` per GPU, or one per `threads` cores."""
    actors_per_gpu: Annotated[Positive, MAY_CHANGE] = 2
    """Of a dataset: pose model processes that share one GPU."""
    threads: Positive | None = None
    """Threads; default: one per core, and of a dataset one per pose model process. With torch, the thread count changes
    the last digits of the results."""
    batch_size: Positive = 16
    """Frames per batch. Batches never cross videos."""
    crop_batch_size: Positive = 32
    """Persons per forward pass of the pose model, with torch."""
    attempts: Annotated[Positive, MAY_CHANGE] = 2
    """Of a dataset: attempts at a batch that crashes its model process, before it is bisected to find the frame that
    causes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSettings:
    """How persons are followed from frame to frame."""

    memory_s: Annotated[float, Ge(0)] = 1.0
    """How long a person who is lost is looked for, in seconds; who appears later is another one."""
    min_length_s: Annotated[float, Ge(0)] = 0.2
    """Persons who are seen for a shorter time are dropped; of a very short video, those in less than half of it."""
    continue_score: Fraction = 0.8
    """Boxes with this fraction of `pose.box_score_threshold` still continue a track, but begin none."""
    min_likeness: Fraction = 0.15
    """Minimum mean of the overlap of the boxes and the likeness of the poses (OKS) for the same person."""
    max_persons: Positive = 20
    """The poses file holds at most this many persons of a video: those that cover most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """Limits for one video. If a video exceeds one, it ends with an outcome and the run continues without it."""

    max_frame_pixels: Positive = 4096 * 2304
    """Maximum width x height of a frame; larger videos end as `too_many_pixels` before decoding."""
    max_frames: Positive = 1_000_000
    """Maximum number of frames at the video's own rate; longer videos end as `too_big` before decoding."""
    max_damaged: Fraction = 0.1
    """Maximum fraction of damaged frames; a video with more ends as `corrupt`."""
    heartbeat_timeout_s: Annotated[Seconds, MAY_CHANGE] = 60.0
    """Longest time without a frame decoded; then the video ends as `decode_hang`."""
    memory_bytes: Annotated[Positive, MAY_CHANGE] = 4 * 2**30
    """Memory limit of the decoder process; a video that exceeds it ends as `corrupt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PosesSettings:
    """Settings of `lposekit pose`."""

    input: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Videos, or folders of videos; or one dataset folder of clips."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The folder for NAME.poses.json, one per video, and for the skeleton videos; of a dataset, the folder for its
    poses, itself a dataset."""
    person: str = "all"
    """Whose poses: `all`, `largest` (covers most over the video), `longest` (in most frames), or ids: `1,3`."""
    skeleton_video: Annotated[bool, MAY_CHANGE] = False
    """Also write skeleton videos, NAME.STYLE.mp4."""
    style: Annotated[tuple[StyleName, ...], MAY_CHANGE] = ("followyourpose",)
    """Styles of the skeleton videos, one video each (docs/guide/skeletons.md)."""
    draw: Annotated[tuple[Part, ...], MAY_CHANGE] = ("body", "hands", "face")
    """Parts that the skeleton videos show; `--draw body hands` leaves out the face."""
    smooth: Literal["savgol", "none"] = "savgol"
    """Smoothing over time, without delay (`savgol`: Savitzky-Golay), or `none`."""
    reference: Annotated[Path | None, MAY_CHANGE] = None
    """A .poses.json file: everybody gets the proportions of its largest person, and keeps the movement."""
    detector: str = "rtmdet-m"
    """Person detector: rtmdet-m, rtmdet-nano, rtmdet-nano-rebuilt (docs/guide/models.md)."""
    pose_model: str = "hrnet-w48"
    """Pose model: hrnet-w48, hrnet-w32, rtmpose-t, rtmpose-s, rtmpose-m, rtmpose-m-wholebody, tinypose."""
    weights_dir: Annotated[Path | None, MAY_CHANGE] = None
    """First folder to search for weights; then LPOSEKIT_WEIGHTS, the cache, the publisher (docs/guide/models.md)."""
    smooth_window_s: Annotated[float, Interval(ge=0, le=10)] = 0.25
    """Width of the smoothing window in seconds; up to 1.8 times as wide if that is what 9 frames take. With fewer than
    5 frames, nothing is smoothed."""
    max_gap_s: Annotated[float, Interval(ge=0, le=60)] = 0.5
    """Longest gap that is filled, in seconds: of a person, and of a joint that is not detected."""
    workers: Annotated[Positive | None, MAY_CHANGE] = None
    """Of a dataset: shards worked on in parallel; default: one per core."""
    ray_address: Annotated[str | None, MAY_CHANGE] = None
    """Of a dataset: address of a running Ray cluster; default: start a local one."""
    min_success: Annotated[Fraction | None, MAY_CHANGE] = None
    """Of a dataset: exit with code 3 if a smaller fraction of the clips was decoded."""
    shard_attempts: Annotated[Positive, MAY_CHANGE] = 3
    """Of a dataset: attempts at a shard whose worker process dies."""
    stall_minutes: Annotated[Minutes, MAY_CHANGE] = 30.0
    """Of a dataset: minutes without any progress after which the run ends (exit code 1) and says what it waited for."""
    worker_memory_bytes: Annotated[Positive, MAY_CHANGE] = 8 * 2**30
    """Of a dataset: memory limit of a worker process, beyond what its start takes; a shard that exceeds it fails, and
    is named."""
    crf: Annotated[float, Interval(ge=0, le=51), MAY_CHANGE] = 12.0
    """Constant rate factor of the skeleton videos: 0 is lossless, 51 the worst. Thin lines need a low one."""
    pose: VideoPoseSettings = field(default_factory=VideoPoseSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    limits: FrameLimits = field(default_factory=FrameLimits)

    def problems(self) -> Iterable[tuple[str, str]]:
        if self.skeleton_video and not self.style:
            yield "style", "at least one style is needed for a skeleton video"
        if self.skeleton_video and not self.draw:
            yield "draw", "at least one part is needed for a skeleton video"
