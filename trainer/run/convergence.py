"""The step at which a measure takes off: training of a pose condition shows nothing for long, then everything at once
("sudden convergence", Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FLOOR_FACTOR = 1.5
"""How far above its floor a measure has to end to have taken off."""
GAIN_FLOOR = 0.005
"""Of the loss with the matching pose: what a gain of a model that ignores the pose may come to by chance."""


def convergence_step(curve: Sequence[Mapping[str, Any]], floor: float, name: str = "pck") -> int | None:
    """The first step of a curve at which a measure is half-way from the floor to its last value; None for one that
    ends near the floor."""
    if not curve or curve[-1][name] <= FLOOR_FACTOR * floor:
        return None
    half = (floor + curve[-1][name]) / 2
    return next(point["step"] for point in curve if point[name] >= half)


def pose_convergence(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """The step from which the pose is worth something, by the probe's lines of a run; None if it is not (yet)."""
    panel = [line for line in lines if "probe/matching_pose" in line]
    curve = [
        {"step": line["step"], "gain": line["probe/shuffled_pose"] - line["probe/matching_pose"]} for line in panel
    ]
    if not curve:
        return None
    return convergence_step(curve, max(GAIN_FLOOR * panel[-1]["probe/matching_pose"], curve[0]["gain"]), "gain")
