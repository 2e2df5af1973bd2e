"""How much a long clip jumps where windows meet, against everywhere else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.inference.windows import DenoisingWindow


@dataclass(frozen=True, slots=True)
class Seams:
    """Mean absolute difference of neighbouring frames, in grey levels of 255: `at_borders` of the windows, and
    `elsewhere`."""

    at_borders: float
    elsewhere: float

    @property
    def ratio(self) -> float:
        """1: the borders cannot be seen."""
        return self.at_borders / self.elsewhere if self.elsewhere else 1.0

    def line(self) -> str:
        """For a terminal."""
        return (
            f"seams: neighbouring frames differ by {self.at_borders:.2f} of 255 where windows meet, by "
            f"{self.elsewhere:.2f} elsewhere (ratio {self.ratio:.2f})"
        )


def window_borders(num_frames: int, windows: Sequence[DenoisingWindow]) -> list[int]:
    """Frames whose prediction counts in other windows than that of the frame before."""
    held = [
        tuple(i for i, window in enumerate(windows) if window.counts_from <= frame < window.stop)
        for frame in range(num_frames)
    ]
    return [frame for frame in range(1, num_frames) if held[frame] != held[frame - 1]]


def measure_seams(frames_FHWC: npt.NDArray[np.uint8], windows: Sequence[DenoisingWindow]) -> Seams | None:
    """Seams of a clip, by the windows of its last step; None for one window."""
    borders = window_borders(len(frames_FHWC), windows)
    if not borders:
        return None
    steps_F = np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in itertools.pairwise(frames_FHWC)])
    at_border_F = np.zeros(len(steps_F), np.bool_)
    at_border_F[np.array(borders) - 1] = True
    elsewhere = float(steps_F[~at_border_F].mean()) if not at_border_F.all() else 0.0
    return Seams(float(steps_F[at_border_F].mean()), elsewhere)
