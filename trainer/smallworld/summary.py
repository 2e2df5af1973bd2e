"""What the figures of the cells come to: each promise of the small world, kept or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lposekit.json_values import JsonObject, JsonValue
from trainer.run.convergence import FLOOR_FACTOR
from trainer.smallworld.cells import Cell

Figures = Mapping[str, Any]
"""The figures of a cell, as `measure_cell` gives them."""
TEXT_POINTS = 0.10
FLICKER_LEFT = 0.7
POSE_POINTS = 0.10
BASE_TEXT = 0.60
ORDER_GAP = 0.02
"""Least growth of the loss on shuffled frames, of weights that know the order of frames."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise. found: the figures that it is judged by, in words."""

    promise: str
    found: str
    kept: bool

    def as_json(self) -> JsonValue:
        return {"promise": self.promise, "found": self.found, "kept": self.kept}


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure over the seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1 or f"{self.low:.3f}" == f"{self.high:.3f}":
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def spread(cells: Sequence[Figures], *path: str) -> Spread:
    """The measure at a path into the figures of each cell."""
    return Spread(tuple(_at(figures, path) for figures in cells))


def summarise(cells: Sequence[Cell], known: Mapping[str, JsonObject]) -> list[Bar]:
    """The promises that can be judged by what is known so far."""
    figures: dict[str, Any] = {name: found["figures"] for name, found in known.items()}
    done = [cell for cell in cells if cell.name in figures]
    images = [figures[c.name] for c in done if c.kind == "stage" and c.stage == 1]
    clips = [figures[c.name] for c in done if c.kind == "stage" and c.stage == 2]
    bars = [*(_image_bars(images) if images else []), *(_clip_bars(clips) if clips else [])]
    return bars + _broken_bars(figures)


def _image_bars(images: Sequence[Figures]) -> list[Bar]:
    right, shuffled, mirrored, swapped, none = (
        spread(images, "cases", case, "pck") for case in ("right", "shuffled", "mirrored", "swapped", "none")
    )
    text, base_text = (spread(images, "cases", case, "words/all") for case in ("right", "none"))
    floor = max(shuffled.high, none.high)
    return [
        Bar("the base draws what the caption says, in 60 % of the images", f"{base_text}", base_text.low >= BASE_TEXT),
        Bar(
            "stage 1: the right pose is followed better than another's, on every seed",
            f"PCK {right}, another's pose {shuffled}",
            right.low > shuffled.high,
        ),
        Bar(
            "stage 1: and better than the same skeleton in exchanged colours",
            f"PCK {right}; left and right exchanged {mirrored}; red and blue exchanged {swapped}",
            right.low > max(mirrored.high, swapped.high),
        ),
        Bar(
            "stage 1: at least 1.5 times the floor",
            f"PCK {right}; floor: no pose {none}, another's {shuffled}",
            right.low >= FLOOR_FACTOR * floor,
        ),
        Bar(
            "stage 1: words are drawn as well as by the base, within 10 points",
            f"{text}, base {base_text}",
            text.low >= base_text.low - TEXT_POINTS,
        ),
    ]


def _clip_bars(clips: Sequence[Figures]) -> list[Bar]:
    flicker, alone = spread(clips, "clips", "flicker"), spread(clips, "frame_by_frame", "flicker")
    order = spread(clips, "order_gap")
    pose, pose_alone = spread(clips, "clips", "pck"), spread(clips, "frame_by_frame", "pck")
    stiller = all(a <= FLICKER_LEFT * b for a, b in zip(flicker.values, alone.values, strict=True))
    gaps = [b - a for a, b in zip(pose.values, pose_alone.values, strict=True)]
    return [
        Bar(
            "stage 2: the background flickers 30 % less than frame by frame, from the same noise",
            f"{flicker}, frame by frame {alone} levels",
            stiller,
        ),
        Bar(
            "stage 2, which never saw a pose: the pose is followed as by stage 1, within 10 points",
            f"PCK {pose}, stage 1 {pose_alone}",
            max(gaps) <= POSE_POINTS,
        ),
        Bar(
            "stage 2 learns the order of frames: its loss grows when they are shuffled, on every seed",
            f"by a share of {order}",
            order.low >= ORDER_GAP,
        ),
    ]


def _broken_bars(figures: Mapping[str, Figures]) -> list[Bar]:
    """What is broken on purpose must lower the measure that it should, against the ordinary training of seed 0."""
    bars = []
    for name, promise, path, limit in (
        ("stage1-no-lr", "broken: without learning rate, the pose is not followed", ("cases", "right", "pck"), 0.5),
        ("stage1-poses-shuffled", "broken: poses shuffled, the pose is not followed", ("cases", "right", "pck"), 0.5),
        ("stage2-frames-shuffled", "broken: frames shuffled, their order is not learned", ("order_gap",), 0.5),
    ):
        sound = "stage1-seed0" if name.startswith("stage1") else "stage2-seed0"
        if name in figures and sound in figures:
            broken, whole = _at(figures[name], path), _at(figures[sound], path)
            bars.append(Bar(promise, f"{broken:.3f} instead of {whole:.3f}", max(broken, 0.0) < limit * whole))
    if "stage2-no-lr" in figures and "stage2-seed0" in figures:
        broken, whole = (_at(figures[name], ("clips", "flicker")) for name in ("stage2-no-lr", "stage2-seed0"))
        promise = "broken: temporal layers untrained, the background flickers"
        bars.append(Bar(promise, f"{broken:.2f} instead of {whole:.2f} levels", broken * FLICKER_LEFT >= whole))
    return bars


def _at(figures: Figures, path: Sequence[str]) -> float:
    found: Any = figures
    for name in path:
        found = found[name]
    return float(found)
