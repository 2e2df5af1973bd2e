"""From the poses that a model found to those that are used: persons chosen, gaps filled, places smoothed, proportions
changed; and the figures that say what it did."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lposekit.json_values import JsonValue
from lposekit.pose.choose import select_persons
from lposekit.pose.fill import fill_gaps
from lposekit.pose.retarget import retarget
from lposekit.pose.smooth import jitter, median_shift, smooth
from lposekit.pose.tracks import PoseTracks

Smoothing = Literal["savgol", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineSettings:
    """`person`: see `select_persons`. `max_gap_s`, `window_s`: in seconds, so that they mean the same at every
    frame rate."""

    person: str = "all"
    smooth: Smoothing = "savgol"
    max_gap_s: float = 0.5
    window_s: float = 0.25


@dataclass(frozen=True, slots=True)
class PoseFigures:
    """What was found and what was changed. None where nothing was there to measure.

    `persons`: chosen ones. `coverage`: share of the frames with the largest person, as found; `coverage_filled`:
    with gaps filled. `jitter`, `jitter_smoothed`: see `lposekit.pose.smooth.jitter`. `shift`: median distance of
    the joints from where the model saw them, as a share of the box's height.
    """

    persons: int
    coverage: float
    coverage_filled: float
    jitter: float | None
    jitter_smoothed: float | None
    shift: float | None


def refine(
    found: PoseTracks,
    settings: RefineSettings,
    score_threshold: float,
    reference_K3: npt.NDArray[np.floating] | None = None,
) -> tuple[PoseTracks, PoseFigures]:
    """The poses to use, and the figures; `info` of the poses names what was done.

    `reference_K3`: a pose whose proportions everybody gets, after everything else; the figures do not count it.

    Raises:
        UsageError: persons that are not there.
    """
    chosen = select_persons(found, settings.person)
    gap_frames = round(settings.max_gap_s * chosen.fps)
    filled = fill_gaps(chosen, gap_frames, score_threshold)
    window_frames = smoothing_window(settings.window_s, float(chosen.fps)) if settings.smooth == "savgol" else 0
    smoothed = smooth(filled, window_frames, score_threshold)
    figures = PoseFigures(
        len(chosen.persons),
        coverage(chosen),
        coverage(filled),
        jitter(filled, score_threshold),
        jitter(smoothed, score_threshold),
        median_shift(chosen, smoothed, score_threshold),
    )
    used = smoothed if reference_K3 is None else retarget(smoothed, reference_K3, score_threshold)
    done: dict[str, JsonValue] = {
        "person": settings.person,
        "max_gap_frames": gap_frames,
        "smooth": settings.smooth,
        "smooth_window_frames": window_frames,
        "retargeted": reference_K3 is not None,
    }
    return replace(used, info={**found.info, **done}), figures


def smoothing_window(window_s: float, fps: float) -> int:
    """Frames of the smoothing window, an odd number; 0 where a window of that length has too few to smooth anything.

    A parabola through 5 or 7 frames hardly smooths: at low rates the window is up to 1.8 times as long, to have 9.
    """
    frames = max(window_s * fps, min(9.0, 1.8 * window_s * fps))
    odd = 2 * round((frames - 1) / 2) + 1
    return odd if odd >= 5 else 0


def coverage(tracks: PoseTracks) -> float:
    """Share of the frames that the largest person is in, 0..1."""
    if not tracks.persons or not tracks.num_frames:
        return 0.0
    return float(select_persons(tracks, "largest").persons[0].present_F.mean())
