"""Settings of the way from one video file to clips. Values only; what a value means is said beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from lposekit.setting_values import Fraction, NotNegative, Positive

Decoder = Literal["decord", "pyav"]
ShotDetector = Literal["adaptive", "content", "none"]
ClipFormat = Literal["mp4", "frames"]
X264Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
Luma = Annotated[float, Interval(ge=0, le=255)]
Length = Annotated[float, Ge(0.001)]
"""In seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """How a video file is read."""

    decoder: Decoder = "decord"
    """Files in which decord meets damage are read again with PyAV, which says where it is."""
    max_frame_pixels: Positive = 4096 * 2304
    """Largest width x height of a frame; larger ones end as `too_many_pixels` before anything is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotSettings:
    """How cuts are found, where the row does not give them."""

    detector: ShotDetector = "adaptive"
    """PySceneDetect's detectors; `none`: the whole video is one shot."""
    threshold: Annotated[float, Ge(0)] | None = None
    """Default: PySceneDetect's own, 3.0 (adaptive, a ratio) or 27.0 (content, mean HSV difference)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """Which windows of a shot become clips. Where a value exists in frames and in seconds, frames win."""

    length_s: Length = 4.0
    """Length of a clip in seconds."""
    length_frames: Positive | None = None
    """The same in frames of the clip."""
    stride_s: Length | None = None
    """From the start of one clip to the next; default: the length, so that clips neither overlap nor leave gaps."""
    stride_frames: Positive | None = None
    """The same in frames of the clip."""
    min_length_s: Annotated[float, Ge(0)] = 1.0
    """What is left of a shot makes a shorter clip, down to this length."""
    min_length_frames: NotNegative | None = None
    """The same in frames of the clip."""
    cut_margin_s: Annotated[float, Ge(0)] = 0.1
    """Frames this close to a cut are in no clip: cross-fades and the compression noise after a cut."""
    cut_margin_frames: NotNegative | None = None
    """The same in frames of the clip."""
    max_clips: Positive | None = None
    """Clips written of one video, the first ones; later windows are dropped as `max_clips`. Default: 10,000,
    what a key can count."""
    fps: Annotated[float, Ge(0.001)] | None = None
    """Frames per second of the clips; default: the measured rate of the video. Never above it: no frame is invented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFilterSettings:
    """Which windows are dropped for what they show. Levels and differences are of 8-bit luma, 0..255."""

    max_black_share: Fraction = 0.2
    """Share of frames that may be black."""
    black_level: Luma = 32.0
    """A frame is black when no more than one pixel in 500 is brighter than this."""
    dark_level: Luma = 55.0
    """A window is dark when in its median frame 98 of 100 pixels are no brighter than this. A high percentile, not the
    mean: a thin skeleton on black has a mean of 5 and is not dark."""
    max_frozen_s: Annotated[float, Ge(0)] = 1.0
    """Longest time (or the whole window) in which the picture may stand still."""
    frozen_difference: Luma = 0.02
    """Median difference of consecutive frames up to which a picture in which nothing moves stands still; above it the
    noise of a camera shows, and `min_motion` decides."""
    min_motion: Fraction = 0.002
    """Share of the picture that changes by more than 4 levels within a quarter of a second, mean over the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What a stored clip is."""

    format: ClipFormat = "mp4"
    """`frames`: numbered JPEG files in place of one mp4."""
    size: Annotated[int, Ge(16)] = 512
    """Shorter side in pixels; the ratio is kept, both sides are made even, no video is enlarged. H.264 needs 16."""
    crf: Annotated[float, Interval(ge=0, le=51)] = 22.0
    """Constant quality of x264: 0 loses nothing, 51 is the worst; 6 more halve the size, roughly."""
    preset: X264Preset = "veryfast"
    """Effort of x264, from `ultrafast` to `veryslow`. In short groups without B-frames, slow ones gain little."""
    gop: Annotated[int, Interval(ge=1, le=12)] = 12
    """Frames from one key frame to the next, at most 12: what a random read of the trainer has to decode."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 95
    """Of the JPEG files of `frames`, 1 to 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildClipsSettings:
    """All of them; what `build_clips` takes."""

    video: VideoSettings = field(default_factory=VideoSettings)
    shots: ShotSettings = field(default_factory=ShotSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    filters: ClipFilterSettings = field(default_factory=ClipFilterSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)

    def to_tree(self) -> dict[str, Any]:
        """As plain values, for the way into the sandbox and into the dataset card."""
        return asdict(self)

    @staticmethod
    def from_tree(tree: Mapping[str, Any]) -> BuildClipsSettings:
        """The inverse of `to_tree`."""
        return BuildClipsSettings(
            video=VideoSettings(**tree["video"]),
            shots=ShotSettings(**tree["shots"]),
            clips=ClipSettings(**tree["clips"]),
            filters=ClipFilterSettings(**tree["filters"]),
            encode=EncodeSettings(**tree["encode"]),
        )
