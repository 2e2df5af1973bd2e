"""What goes into the clip builder and what comes out: plain values that travel through the sandbox as trees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lposekit.errors import Outcome
from lposekit.json_values import JsonObject
from lposekit.records import StoredQuery
from lposekit.stored_address import stored_address


@dataclass(frozen=True, slots=True)
class TimedCaption:
    """A caption of one moment: `time_s` from the first frame, or `frame` where the list counts frames."""

    text: str
    time_s: float | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a video, in seconds from its first frame; `end_s` None: up to the end."""

    start_s: float = 0.0
    end_s: float | None = None
    caption: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One input row: where the video is, and what is said about it.

    `path`: the file, to be opened on any machine of the run; `root`: the folder that it must lie in, links followed;
    `listed_path`: the path as the list writes it, or below the input folder. `spans`: the parts to use; empty: the
    whole video. `captions`: timed ones, in any order. `cuts_s`: known cuts, in seconds; None: find them. `extra`: the
    list's other columns, as text. `query`: how much of the queries of its addresses is stored. All texts but `path` and
    `root` are valid UTF-8.
    """

    name: str
    path: str | None = None
    root: str | None = None
    listed_path: str | None = None
    url: str | None = None
    caption: str = ""
    spans: tuple[Span, ...] = ()
    captions: tuple[TimedCaption, ...] = ()
    cuts_s: tuple[float, ...] | None = None
    extra: Mapping[str, str | None] = field(default_factory=dict)
    query: StoredQuery = "all"

    @property
    def source(self) -> str | None:
        """What is stored as the video's origin: never where this machine keeps it, so that a moved copy of the input
        gives the same bytes."""
        source = self.url or self.listed_path or self.name
        return stored_address(source, self.query) if source else None

    def to_plain(self) -> dict[str, object]:
        """What the builder needs of the row, as plain values."""
        return {
            "name": self.name,
            "caption": self.caption,
            "spans": [asdict(span) for span in self.spans],
            "captions": [asdict(caption) for caption in self.captions],
            "cuts_s": None if self.cuts_s is None else list(self.cuts_s),
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> VideoRow:
        """The inverse of `to_plain`."""
        return VideoRow(
            name=plain["name"],
            caption=plain["caption"],
            spans=tuple(Span(**span) for span in plain["spans"]),
            captions=tuple(TimedCaption(**caption) for caption in plain["captions"]),
            cuts_s=None if plain["cuts_s"] is None else tuple(plain["cuts_s"]),
        )


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One written clip. Times in seconds from the video's first frame; `files` relative to the output folder."""

    files: tuple[str, ...]
    span: str | None
    start_s: float
    end_s: float
    fps: float
    num_frames: int
    width: int
    height: int
    caption: str
    repeated_frames: int
    """Frames that show the same source frame as the one before: the source held its image longer than one frame."""
    motion: float | None
    luma: float
    sha256: str
    source_frames: tuple[int, int]
    """First and last source frame, counted in order of presentation."""


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One candidate window: written (`reason` None) or dropped."""

    start_s: float
    end_s: float
    num_frames: int
    reason: str | None
    motion: float | None = None


STAGES = ("decode", "encode", "shots")
"""What a video's time is spent on in the child that builds its clips."""


@dataclass(frozen=True, slots=True)
class VideoResult:
    """How one video ended. `windows` holds every candidate; clips written + dropped by reason = windows.

    `info`: what was measured (see `video.VideoInfo.to_plain`). `cuts_s`: the cuts found or given.
    """

    outcome: Outcome
    detail: str = ""
    clips: tuple[ClipRecord, ...] = ()
    windows: tuple[WindowRecord, ...] = ()
    cuts_s: tuple[float, ...] = ()
    captions: tuple[TimedCaption, ...] = ()
    """All timed captions with their time in seconds, sorted."""
    info: JsonObject = field(default_factory=dict)
    decoder: str = ""
    timings_s: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Seconds by stage (`STAGES`; `shots`: cuts, motion and the rest). Not stored with the row."""

    @property
    def dropped(self) -> dict[str, int]:
        """Windows dropped, by reason."""
        counts: dict[str, int] = {}
        for window in self.windows:
            if window.reason is not None:
                counts[window.reason] = counts.get(window.reason, 0) + 1
        return counts

    def to_plain(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "outcome": self.outcome.value}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> VideoResult:
        """The inverse of `to_plain`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        clips = (
            {**clip, "files": tuple(clip["files"]), "source_frames": tuple(clip["source_frames"])}
            for clip in plain["clips"]
        )
        return VideoResult(
            outcome=Outcome(plain["outcome"]),
            detail=plain["detail"],
            clips=tuple(ClipRecord(**clip) for clip in clips),
            windows=tuple(WindowRecord(**window) for window in plain["windows"]),
            cuts_s=tuple(plain["cuts_s"]),
            captions=tuple(TimedCaption(**caption) for caption in plain["captions"]),
            info=plain["info"],
            decoder=plain["decoder"],
            timings_s={stage: _seconds(plain["timings_s"][stage]) for stage in STAGES if stage in plain["timings_s"]},
        )


def _seconds(value: object) -> float:
    """A time that the child states: it ends up in the commit marker, which holds finite numbers only."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} seconds")
    return value
