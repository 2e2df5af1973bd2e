"""The page of an experiment: promises, curves, tables, and what was drawn. One file, without network requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lposekit.json_values import JsonObject
from lposekit.report.curves import Curve, Panel, chart
from lposekit.report.page import duration, write_page
from trainer.run.convergence import convergence_step
from trainer.smallworld.cells import Cell
from trainer.smallworld.measure_cell import sheet_file
from trainer.smallworld.sheets import data_uri
from trainer.smallworld.summary import Bar, Spread, spread

PAGE_NAME = "report.html"
Known = Mapping[str, JsonObject]
CASE_NAMES = {
    "right": "its own",
    "shuffled": "another's",
    "mirrored": "left and right exchanged",
    "swapped": "red and blue exchanged",
    "none": "none (the base)",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a cell drew."""

    title: str
    uri: str


def write_smallworld_page(folder: Path, cells: Sequence[Cell], known: Known, bars: Sequence[Bar]) -> Path:
    """Writes `report.html` of what is known so far; returns its path.

    Raises:
        LposekitError: the disk is full.
    """
    figures: dict[str, Any] = {cell.name: known[cell.name]["figures"] for cell in cells if cell.name in known}
    done = [cell for cell in cells if cell.name in figures]
    stages = [[cell for cell in done if cell.kind == "stage" and cell.stage == stage] for stage in (1, 2)]
    return write_page(
        folder / PAGE_NAME,
        "smallworld.html",
        folder=Path(__file__).parent,
        name="the small world",
        bars=bars,
        done=len(done),
        total=len(cells),
        seconds=duration(sum(_number(known[cell.name]["seconds"]) for cell in done)),
        panels=[*_image_panels(stages[0], figures), *_clip_panels(stages[1], figures)],
        cases=_case_rows([figures[cell.name] for cell in stages[0]]),
        clips=_clip_rows([figures[cell.name] for cell in stages[1]]),
        image_cells=_image_cell_rows([cell for cell in done if cell.stage == 1], figures),
        clip_cells=_clip_cell_rows([cell for cell in done if cell.stage == 2], figures),
        sheets=[_sheet(folder, cell) for cell in stages[0][:1]],
        moving=[_sheet(folder, cell) for cell in stages[1][:1]],
        times_rows=[(cell.title, [duration(_number(known[cell.name]["seconds"]))]) for cell in done],
        machine=known[done[0].name]["machine"] if done else {},
    )


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _curves(cells: Sequence[Cell], figures: Mapping[str, Any], name: str) -> list[Curve]:
    found = [(cell, figures[cell.name]["curve"]) for cell in cells]
    return [Curve(f"seed {c.seed}", [p["step"] for p in points], [p[name] for p in points]) for c, points in found]


def _image_panels(cells: Sequence[Cell], figures: Mapping[str, Any]) -> list[Panel]:
    if not cells:
        return []
    floors = [figures[cell.name]["cases"]["none"]["pck"] for cell in cells]
    steps = [convergence_step(figures[cell.name]["curve"], floor) for cell, floor in zip(cells, floors, strict=True)]
    when = ", ".join("never" if step is None else f"step {step:,}" for step in steps)
    return [
        Panel(
            "Stage 1: is the pose followed?",
            f"PCK on held-out poses and captions. Half-way from the base ({floors[0]:.2f}) to its last value: {when}.",
            chart("PCK", _curves(cells, figures, "pck"), from_zero=True),
        ),
        Panel(
            "Stage 1: are the words still drawn?",
            "Share of images with the right size, clothes and background.",
            chart("Right words", _curves(cells, figures, "words/all"), from_zero=True, percent=True),
        ),
    ]


def _clip_panels(cells: Sequence[Cell], figures: Mapping[str, Any]) -> list[Panel]:
    if not cells:
        return []
    alone = spread([figures[cell.name] for cell in cells], "frame_by_frame", "flicker")
    return [
        Panel(
            "Stage 2: does the background stand still?",
            f"Mean change of the background from frame to frame, of 255 levels. Frame by frame, stage 1: {alone}.",
            chart("Flicker", _curves(cells, figures, "flicker"), from_zero=True),
        ),
        Panel(
            "Stage 2, which sees no pose: is it still followed?",
            "PCK on held-out walks.",
            chart("PCK", _curves(cells, figures, "pck"), from_zero=True),
        ),
    ]


def _case_rows(images: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Spread]]]:
    names = ("pck", "oks", "words/all", "words/size", "words/clothes", "words/background")
    if not images:
        return []
    return [(text, [spread(images, "cases", case, n) for n in names]) for case, text in CASE_NAMES.items()]


def _clip_rows(clips: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Spread]]]:
    names = ("flicker", "identity", "pck", "oks", "words/all")
    if not clips:
        return []
    rows = (("stage 2", "clips"), ("stage 1, frame by frame", "frame_by_frame"))
    return [(text, [spread(clips, group, name) for name in names]) for text, group in rows]


def _image_cell_rows(cells: Sequence[Cell], figures: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for cell in cells:
        found = figures[cell.name]
        right, other, none = (found["cases"][case] for case in ("right", "shuffled", "none"))
        step = convergence_step(found["curve"], none["pck"])
        values = [f"{right['pck']:.3f}", f"{other['pck']:.3f}", f"{right['words/all']:.3f}"]
        rows.append((cell.title, [*values, "never" if step is None else f"{step:,}"]))
    return rows


def _clip_cell_rows(cells: Sequence[Cell], figures: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for cell in cells:
        found = figures[cell.name]
        clips = found["clips"]
        measured = [clips["flicker"], clips["pck"], clips["identity"], clips["words/all"], found["order_gap"]]
        rows.append((cell.title, [f"{value:.3f}" for value in measured]))
    return rows


def _sheet(folder: Path, cell: Cell) -> Sheet:
    return Sheet(cell.title, data_uri(sheet_file(folder, cell)))
