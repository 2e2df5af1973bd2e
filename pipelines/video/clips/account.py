"""The account of one video: what was measured, every candidate window, the clips written, the outcome that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lposekit.errors import Outcome
from lposekit.stage_times import StageTimes
from pipelines.video.clips.probe import VideoInfo, clip_size
from pipelines.video.clips.records import ClipRecord, Span, TimedCaption, VideoResult, VideoRow, WindowRecord
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.clips.timeline import rate_from_settings
from pipelines.video.clips.windows import TOO_SHORT

DAMAGED = "damaged"
MAX_CLIPS_OF_VIDEO = 10**4
"""A clip's key has four digits for its place in the video."""


class VideoAccount:
    """What belongs to the whole video: the measured file, the clips, and every candidate window."""

    def __init__(
        self, info: VideoInfo, row: VideoRow, settings: BuildClipsSettings, out_dir: Path, times: StageTimes
    ) -> None:
        self.info = info
        self.size = clip_size(info, settings.encode.size)
        self.row = row
        self.settings = settings
        self.out_dir = out_dir
        self.times = times
        self.clips: list[ClipRecord] = []
        self.windows: list[WindowRecord] = []
        self.cuts_s: list[float] = []
        self.captions = _placed_captions(row.captions, info)
        wanted = settings.clips.fps
        self.fps = info.fps if wanted is None else min(info.fps, rate_from_settings(wanted))

    @property
    def full(self) -> bool:
        """No further clip is written: later windows are dropped as `max_clips`."""
        limit = self.settings.clips.max_clips
        return len(self.clips) >= (MAX_CLIPS_OF_VIDEO if limit is None else min(limit, MAX_CLIPS_OF_VIDEO))

    def seconds(self, pts: int) -> float:
        """Time of a source frame from the video's first one."""
        return float((pts - int(self.info.pts[0])) * self.info.time_base)

    def caption(self, span: Span, middle_s: float) -> str:
        """The timed caption nearest to the clip's middle, else the span's, else the row's."""
        if self.captions:
            return min(self.captions, key=lambda caption: abs((caption.time_s or 0.0) - middle_s)).text
        return span.caption if span.caption is not None else self.row.caption

    def result(self, decoder: str) -> VideoResult:
        """The account, closed."""
        outcome, detail = self._outcome()
        return VideoResult(
            outcome,
            detail,
            tuple(self.clips),
            tuple(self.windows),
            tuple(sorted(set(self.cuts_s))),
            self.captions,
            self.info.to_plain(),
            decoder,
        )

    def _outcome(self) -> tuple[Outcome, str]:
        """The row's outcome follows from the windows."""
        reasons = [window.reason for window in self.windows]
        if self.clips:
            return Outcome.KEPT, ""
        if DAMAGED in reasons and set(reasons) <= {DAMAGED, TOO_SHORT}:
            return Outcome.CORRUPT, f"no undamaged clip in {len(reasons)} windows"
        if set(reasons) == {TOO_SHORT}:
            frames, seconds = len(self.info.pts), self.info.duration_s
            return Outcome.TOO_SHORT, f"{frames} frames, {seconds:.3g} s; the shortest clip is longer"
        counts = ", ".join(f"{reason} {reasons.count(reason)}" for reason in sorted({str(each) for each in reasons}))
        return Outcome.NO_CLIP, f"all {len(reasons)} windows dropped: {counts}"


def _placed_captions(captions: Iterable[TimedCaption], info: VideoInfo) -> tuple[TimedCaption, ...]:
    """Captions by frame number get the time of that frame, as measured."""
    placed = []
    for caption in captions:
        time_s = caption.time_s
        if time_s is None:
            frame = min(max(caption.frame or 0, 0), len(info.pts) - 1)
            time_s = float(int(info.pts[frame] - info.pts[0]) * info.time_base)
        placed.append(replace(caption, time_s=time_s))
    return tuple(sorted(placed, key=lambda caption: caption.time_s or 0.0))
