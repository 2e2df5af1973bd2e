"""The tables of `tests.benchmarks.gpu`, made of its file of finished cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu_plan import Cell, read_done
from tests.benchmarks.rounds import table, versions

TITLES = {
    "device": "The device",
    "attention": "Attentions of one step, forward and backward, by kernel",
    "checkpoint": "A checkpoint beside the steps",
    "resume": "bf16, stopped and resumed against undisturbed: to the bit",
    "limits": "Runs with the settings that a dry run names, under a limit of the allocator",
    "steps": "Steps at 512 px: random weights of Stable Diffusion 1.4's sizes; stage 2 with clips of 8 frames",
    "pose": "The pose model, bare forward passes",
    "pose stage": "The pose stage of a build: photos from memory, both models, all that is around them",
    "norms": "GroupNorm over all frames of a clip, forward and backward",
}


def report(done: Path, wanted: Sequence[Cell]) -> str:
    """All that is known of these cells: a table for each kind, then what failed, what cannot be measured and what is
    not done."""
    found = read_done(done)[0]
    parts = [versions("torch", "diffusers", "transformers", "mmpose")]
    for kind, title in TITLES.items():
        cells = [cell for cell in wanted if kind_of(cell) == kind and "figures" in found.get(cell.name, {})]
        if cells:
            parts.append(f"{title}\n\n{_table([found[cell.name]['figures'] for cell in cells])}")
    for heading, field in (("failed", "error"), ("not measured here", "left_out")):
        lines = [f"- {cell.name}: {found[cell.name][field]}" for cell in wanted if field in found.get(cell.name, {})]
        if lines:
            parts.append("\n".join([f"{heading}:", *lines]))
    waiting = [cell.name for cell in wanted if cell.name not in found]
    if waiting:
        parts.append("\n".join(["no time for:", *(f"- {name}" for name in waiting)]))
    return "\n\n".join(parts) + "\n"


def kind_of(cell: Cell) -> str:
    """Which table a cell is a row of."""
    if cell.group.startswith("stage"):
        return str(cell.options.get("what", "steps"))
    return cell.group


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return table(columns, [[row.get(column, "") for column in columns] for row in rows])
