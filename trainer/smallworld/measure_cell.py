"""The figures of a cell: its curve over the checkpoints, and the last weights on more held-out scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from lposekit.json_values import JsonObject, JsonValue
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.run.checkpoint import list_steps
from trainer.run.metrics import METRICS_NAME, read_metrics
from trainer.smallworld.budgets import Budget
from trainer.smallworld.cells import Cell
from trainer.smallworld.clips import measure_walks, order_gap
from trainer.smallworld.draw import Image
from trainer.smallworld.posed import Case, draw_scenes, measure_images, skeletons
from trainer.smallworld.scene import Scene, still, walk
from trainer.smallworld.sheets import grid, write_moving_sheet, write_sheet
from trainer.smallworld.training import CLIP_FRAMES, load_run, run_folder

SEED = 2
"""Of the held-out scenes, and of the noise that samples start from."""
SHOWN = 8
"""Scenes or walks on a sheet."""


def measure_cell(cell: Cell, folder: Path, budget: Budget, device: str) -> JsonObject:
    """Curve and final figures of a trained cell.

    Raises:
        LposekitError: a file of the run is damaged or missing.
    """
    run = run_folder(folder, cell.name)
    return {
        "curve": [_point(cell, load_run(run, device, step), step, budget) for step in sorted(list_steps(run))],
        "probes": _probes(run),
        **(_final_images if cell.stage == 1 else _final_clips)(cell, folder, budget, device),
    }


def sheet_file(folder: Path, cell: Cell) -> Path:
    """What the cell draws: images (PNG), or clips that play (WebP)."""
    return folder / "cells" / (cell.name + (".png" if cell.stage == 1 else ".webp"))


def held_out_scenes(count: int) -> list[Scene]:
    return [still(SEED, "held_out", number) for number in range(count)]


def held_out_walks(count: int) -> list[Scene]:
    return [walk(SEED, "held_out", number, CLIP_FRAMES) for number in range(count)]


def _point(cell: Cell, pipeline: FollowYourPosePipeline, step: int, budget: Budget) -> JsonObject:
    if cell.stage == 1:
        scenes = held_out_scenes(budget.point_scenes)
        figures = measure_images(draw_scenes(pipeline, scenes, "right", SEED), scenes)
    else:
        walks = held_out_walks(budget.point_walks)
        figures = measure_walks(draw_scenes(pipeline, walks, "right", SEED), walks)
    return {"step": step, **figures}


def _final_images(cell: Cell, folder: Path, budget: Budget, device: str) -> JsonObject:
    """Every case from the same noise, and a sheet of them: a row of skeletons, then a row for each case."""
    pipeline, scenes = load_run(run_folder(folder, cell.name), device), held_out_scenes(budget.scenes)
    drawn = {case: draw_scenes(pipeline, scenes, case, SEED) for case in get_args(Case)}
    rows = [_skeletons(pipeline, scenes[:SHOWN])[:, 0], *(images[:SHOWN, 0] for images in drawn.values())]
    write_sheet(sheet_file(folder, cell), grid(np.concatenate(rows), SHOWN))
    return {"cases": {case: measure_images(images, scenes) for case, images in drawn.items()}}


def _final_clips(cell: Cell, folder: Path, budget: Budget, device: str) -> JsonObject:
    """Walks by this cell, and frame by frame by the stage-1 cell before it, from the same noise. The sheet has
    skeletons, stage 1 and stage 2 in three rows."""
    walks = held_out_walks(budget.walks)
    pipeline = load_run(run_folder(folder, cell.name), device)
    before = load_run(run_folder(folder, cell.after), device)
    clips, alone = (draw_scenes(weights, walks, "right", SEED) for weights in (pipeline, before))
    rows = [_skeletons(pipeline, walks[:SHOWN]), alone[:SHOWN], clips[:SHOWN]]
    write_moving_sheet(sheet_file(folder, cell), list(np.concatenate(rows, axis=2)))
    return {
        "clips": measure_walks(clips, walks),
        "frame_by_frame": measure_walks(alone, walks),
        "order_gap": order_gap(pipeline, walks),
    }


def _skeletons(pipeline: FollowYourPosePipeline, scenes: Sequence[Scene]) -> Image:
    style, width = pipeline.config["pose_style"], pipeline.config["pose_line_width"]
    return np.stack([skeletons(scene.joints_F17x2, style, width, mirrored=False) for scene in scenes])


def _probes(run: Path) -> list[JsonValue]:
    lines: Sequence[dict[str, JsonValue]] = read_metrics(run / METRICS_NAME)
    kept = [{name: line[name] for name in line if name == "step" or name.startswith("probe/")} for line in lines]
    return [line for line in kept if len(line) > 1]
