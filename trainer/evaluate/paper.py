"""The table of the paper, to stand beside what is measured here.

Follow-Your-Pose (Ma et al., AAAI 2024), table 1: CLIP score, quality (share of human preferences on 32 videos), pose
accuracy and frame consistency, over 1,024 videos. The paper names neither its CLIP model nor its pose model, so its
figures and ours are no closer than their order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A system's row. All figures but `clip_score` in per cent."""

    system: str
    clip_score: float
    quality: float
    pose_accuracy: float
    frame_consistency: float


PAPER_ROWS = (
    PaperRow("First Order Motion Model", 22.93, 0.8, 11.7, 81.25),
    PaperRow("Everybody Dance Now", 23.04, 1.3, 13.7, 79.83),
    PaperRow("Tune-A-Video", 23.57, 23.81, 27.74, 93.78),
    PaperRow("ControlNet", 22.31, 6.69, 33.23, 54.35),
    PaperRow("T2I-Adapter", 22.42, 8.27, 33.47, 53.86),
    PaperRow("MasaCtrl", 23.64, 19.17, 33.19, 87.64),
    PaperRow("Follow-Your-Pose", 24.09, 39.96, 34.92, 93.36),
)
