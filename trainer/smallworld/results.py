"""Figures of an experiment: one file for each cell, and `results.json` with all of them.

A cell's file is there from its start, with the settings that decide its figures; these follow when it is done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import JsonObject, JsonValue, read_json_object
from lposekit.setting_values import plain_leaves
from lposekit.shards.card import differing_fields
from lposekit.shards.files import write_json
from lposekit.store import LocalStore
from trainer.run.checkpoint import list_steps
from trainer.settings import TrainSettings
from trainer.smallworld.cells import Cell
from trainer.smallworld.datasets import VERSION
from trainer.smallworld.training import run_folder

RESULTS = "results.json"
MAX_BYTES = 2**24
PLACES = ("data", "output", "base", "pose_encoder", "compute.device", "compute.threads", "loader.workers")
"""Settings that may differ between two machines that train the same cell."""


def claim_cell(folder: Path, cell: Cell, settings: TrainSettings, base: str) -> JsonObject | None:
    """The figures of a cell that is done; None: it is to be trained, and its file says so now.

    Args:
        base: fingerprint of its UNet.

    Raises:
        UsageError: the cell was begun with other settings. LposekitError: its file is damaged, or the disk is full.
    """
    path = cell_file(folder, cell)
    leaves = {name: value for name, value in plain_leaves(settings) if name not in PLACES}
    what = json.loads(json.dumps({"world": VERSION, "base": base, "data": cell.data, "settings": leaves}))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, what)
        return None
    found = _read(path)
    before = {name: found.get(name) for name in what}
    if isinstance(before["settings"], dict):
        # settings that came later were not there to be chosen
        before["settings"] = {**what["settings"], **before["settings"]}
    differing = differing_fields(before, what)
    if differing and "figures" not in found and not list_steps(run_folder(folder, cell.name)):
        # nothing was trained with the other settings
        write_json(path, what)
        return None
    if differing:
        raise UsageError(
            f"{path}: this training was begun with other settings:\n  " + "\n  ".join(differing) + "\n"
            "Go back to those, or name another --output."
        )
    return found if "figures" in found else None


def add_seconds(folder: Path, cell: Cell, seconds: float) -> None:
    """Counts the time of a training that was interrupted, or that has ended."""
    path = cell_file(folder, cell)
    what = _read(path)
    before = what.get("seconds", 0.0)
    assert isinstance(before, int | float)
    write_json(path, {**what, "seconds": round(before + seconds, 1)})


def finish_cell(folder: Path, cell: Cell, figures: JsonObject, machine: JsonObject) -> None:
    """Adds the figures to the cell's file."""
    path = cell_file(folder, cell)
    write_json(path, {**_read(path), "figures": figures, "machine": machine})


def collect(folder: Path, cells: Sequence[Cell]) -> dict[str, JsonObject]:
    """What is known of the cells that are done, by name."""
    found = {cell.name: _read(path) for cell in cells if (path := cell_file(folder, cell)).exists()}
    return {name: known for name, known in found.items() if "figures" in known}


def write_results(folder: Path, known: dict[str, JsonObject], summary: JsonValue) -> None:
    """`results.json`: every figure, and what they come to."""
    write_json(folder / RESULTS, {"cells": known, "summary": summary})  # pyright: ignore


def cell_file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def _read(path: Path) -> JsonObject:
    try:
        return read_json_object(LocalStore(path.parent), path.name, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise LposekitError(f"{path}: cannot be read ({error}). Remove it; its training is measured again.") from error
