"""Settings for turning one video file into clips. Values only; each is explained beside it."""

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
    """Video decoder. Files in which decord finds damage are read again with PyAV, which locates it."""
    max_frame_pixels: Positive = 4096 * 2304
    """Maximum width x height of a frame; larger videos end as `too_many_pixels` before decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotSettings:
    """How cuts are detected, unless the row lists them."""

    detector: ShotDetector = "adaptive"
    """Detector of PySceneDetect; `none`: the whole video is one shot."""
    threshold: Annotated[float, Ge(0)] | None = None
    """Threshold of the detector; default: 3.0 (adaptive, a ratio) or 27.0 (content, mean HSV difference)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """Which windows of a shot become clips. If a value is given in frames and in seconds, frames take precedence."""

    length_s: Length = 4.0
    """Length of a clip in seconds."""
    length_frames: Positive | None = None
    """The same in frames of the clip."""
    stride_s: Length | None = None
    """Distance between the starts of two clips, in seconds; default: the length, so clips have no overlaps or gaps."""
    stride_frames: Positive | None = None
    """The same in frames of the clip."""
    min_length_s: Annotated[float, Ge(0)] = 1.0
    """Minimum length of the shorter clip made from the remainder of a shot, in seconds."""
    min_length_frames: NotNegative | None = None
    """The same in frames of the clip."""
    cut_margin_s: Annotated[float, Ge(0)] = 0.1
    """Frames within this many seconds of a cut are not used: they may show cross-fades and compression noise."""
    cut_margin_frames: NotNegative | None = None
    """The same in frames of the clip."""
    max_clips: Positive | None = None
    """Maximum number of clips per video; later windows are dropped as `max_clips`. Default: 10,000, the limit of the
    keys."""
    fps: Annotated[float, Ge(0.001)] | None = None
    """Frames per second of the clips; default and maximum: the measured rate of the video. No frame is interpolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFilterSettings:
    """Which windows are dropped because of their content. Levels and differences are 8-bit luma, 0..255."""

    max_black_share: Fraction = 0.2
    """Maximum fraction of black frames."""
    black_level: Luma = 32.0
    """A frame is black if at most one pixel in 500 is brighter than this."""
    dark_level: Luma = 55.0
    """A window is dark if 98 % of the pixels of its median frame are no brighter than this. A high percentile is used,
    not the mean: a thin skeleton on black has a mean of 5, but is not dark."""
    max_frozen_s: Annotated[float, Ge(0)] = 1.0
    """Maximum time without motion; a window that is still throughout is always dropped."""
    frozen_difference: Luma = 0.02
    """Maximum median difference of consecutive frames without motion. A larger difference is camera noise; then
    `min_motion` decides."""
    min_motion: Fraction = 0.002
    """Minimum fraction of the frame area that changes by more than 4 levels within 0.25 s, mean over the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """How clips are encoded and stored."""

    format: ClipFormat = "mp4"
    """`mp4`, or `frames`: numbered JPEG files instead of one mp4."""
    size: Annotated[int, Ge(16)] = 512
    """Shorter side in pixels, at least 16 for H.264. The aspect ratio is kept, sides are made even, and no video is
    enlarged."""
    crf: Annotated[float, Interval(ge=0, le=51)] = 22.0
    """Constant rate factor of x264: 0 is lossless, 51 the worst; adding 6 roughly halves the size."""
    preset: X264Preset = "veryfast"
    """Preset of x264, from `ultrafast` to `veryslow`. With short GOPs and no B-frames, slow presets gain little."""
    gop: Annotated[int, Interval(ge=1, le=12)] = 12
    """Frames from one key frame to the next, at most 12: a random read of the trainer decodes up to this many."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 95
    """Quality of the JPEG files of `frames`, 1 to 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildClipsSettings:
    """All settings that `build_clips` takes."""

    video: VideoSettings = field(default_factory=VideoSettings)
    shots: ShotSettings = field(default_factory=ShotSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    filters: ClipFilterSettings = field(default_factory=ClipFilterSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)

    def to_plain(self) -> dict[str, object]:
        """As plain values, for the way into the sandbox and into the dataset card."""
        return asdict(self)

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> BuildClipsSettings:
        """The inverse of `to_plain`."""
        return BuildClipsSettings(
            video=VideoSettings(**plain["video"]),
            shots=ShotSettings(**plain["shots"]),
            clips=ClipSettings(**plain["clips"]),
            filters=ClipFilterSettings(**plain["filters"]),
            encode=EncodeSettings(**plain["encode"]),
        )
