"""How a run of `lposekit pose` ended: an outcome for each video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lposekit.errors import Outcome
from lposekit.pose.refine import PoseFigures
from lposekit.stage_times import describe_times
from lposekit.words import counted


@dataclass(frozen=True, slots=True)
class VideoOutcome:
    """How one video ended. `poses`: the file written, also where nobody was found; None where the video failed.

    `unchanged`: an earlier run wrote it, from the same bytes with the same settings.
    """

    video: str
    outcome: Outcome
    detail: str = ""
    poses: Path | None = None
    skeletons: tuple[Path, ...] = ()
    num_frames: int = 0
    damaged_frames: int = 0
    failed_frames: int = 0
    figures: PoseFigures | None = None
    seconds: float = 0.0
    unchanged: bool = False

    def line(self) -> str:
        """One line for people."""
        if self.poses is None:
            return f"{self.video}: {self.outcome.value}: {self.detail}"
        if self.unchanged:
            return f"{self.video}: {self.outcome.value}, there already: {self.poses}"
        parts = [counted(self.num_frames, "frame"), *self._figures()]
        if self.damaged_frames:
            parts.append(f"{self.damaged_frames} damaged frames")
        if self.failed_frames:
            parts.append(f"the models failed on {counted(self.failed_frames, 'frame')}")
        if self.seconds:
            parts.append(f"{self.num_frames / self.seconds:.1f} frames/s")
        return f"{self.video}: {self.outcome.value}: {', '.join(parts)}"

    def _figures(self) -> list[str]:
        figures = self.figures
        if figures is None or not figures.persons:
            return ["nobody"]
        parts = [
            f"{figures.persons} person{'s' if figures.persons > 1 else ''}",
            f"largest in {figures.coverage:.0%} of the frames ({figures.coverage_filled:.0%} with gaps filled)",
        ]
        if figures.jitter is not None and figures.jitter_smoothed is not None:
            parts.append(f"jitter {figures.jitter:.4f} -> {figures.jitter_smoothed:.4f} of the box's height")
        if figures.shift is not None:
            parts.append(f"moved by {figures.shift:.4f} (median)")
        return parts

    def as_json(self) -> dict[str, Any]:
        return {
            "video": self.video,
            "outcome": self.outcome.value,
            "detail": self.detail,
            "poses": str(self.poses) if self.poses else None,
            "skeletons": [str(path) for path in self.skeletons],
            "num_frames": self.num_frames,
            "damaged_frames": self.damaged_frames,
            "failed_frames": self.failed_frames,
            "figures": asdict(self.figures) if self.figures else None,
            "seconds": round(self.seconds, 3),
            "unchanged": self.unchanged,
        }


@dataclass(frozen=True, slots=True)
class PosesReport:
    """The end of a run. Exit code 1 where not one video has poses."""

    output: Path
    videos: Sequence[VideoOutcome] = ()
    notes: Sequence[str] = ()
    dry_run: bool = False
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter(video.outcome.value for video in self.videos))

    @property
    def exit_code(self) -> int:
        return 0 if self.dry_run or any(video.poses for video in self.videos) else 1

    def as_json(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "outcomes": self.outcomes,
            "videos": [video.as_json() for video in self.videos],
            "timings_s": self.timings_s,
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }

    def summary_lines(self) -> list[str]:
        if self.dry_run:
            return list(self.notes)
        lines = [*self.notes, *(video.line() for video in self.videos)]
        outcomes = ", ".join(f"{name} {number}" for name, number in sorted(self.outcomes.items()))
        lines.append(f"{counted(len(self.videos), 'video')}: {outcomes}; poses in {self.output}")
        if self.timings_s:
            lines.append(f"time by stage: {describe_times(self.timings_s)}")
        return lines
