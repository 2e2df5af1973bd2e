"""Contract: from the base that comes with the package both stages learn within a minute or two, and training that is
broken on purpose does not pass for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.smallworld.coco_scenes import coco_scenes
from trainer.run.metrics import METRICS_NAME, read_metrics
from trainer.smallworld.budgets import Budget, StageBudget
from trainer.smallworld.cells import BROKEN, NO_LR, Cell, chosen_cells
from trainer.smallworld.posed import Case, draw_scenes, measure_images
from trainer.smallworld.settings import SmallWorldSettings
from trainer.smallworld.training import load_run, run_folder, train_cell, train_settings, write_data

REDUCED = Budget(
    images=1000,
    clips=100,
    stages=(
        StageBudget(steps=48, batch_size=32, lr=1e-3, points=1),
        StageBudget(steps=150, batch_size=4, lr=1e-3, points=1),
    ),
)
UNTRAINED = replace(REDUCED, stages=tuple(replace(stage, steps=2) for stage in REDUCED.stages))  # pyright: ignore
"""Of cells without a learning rate: after any number of steps, their weights are those that they began with."""
CASES: tuple[Case, ...] = ("right", "shuffled")
POSE_GAP, ORDER_GAP = 0.25, 0.02
"""Least growth of the probe's loss with the pose of another sample, and with shuffled frames."""


def gap(folder: Path, cell: Cell) -> float:
    """By which share the loss of the last probe grows in the wrong case."""
    settings = SmallWorldSettings(output=folder, threads=1)
    budget = UNTRAINED if cell.changes.get("optim.lr") == NO_LR else REDUCED
    write_data(folder / "data", cell.data, budget, settings)
    train_cell(train_settings(cell, folder, budget, settings))
    last: dict[str, Any] = [
        line for line in read_metrics(run_folder(folder, cell.name) / METRICS_NAME) if _probe(line)
    ][-1]
    right, wrong = ("matching_pose", "shuffled_pose") if cell.stage == 1 else ("frames_in_order", "frames_shuffled")
    return last[f"probe/{wrong}"] / last[f"probe/{right}"] - 1


def _probe(line: dict[str, Any]) -> bool:
    return any(name.startswith("probe/") for name in line)


@pytest.mark.more  # four trainings, and two of two steps
@pytest.mark.timeout(1800)
def test_probes_tell_sound_training_from_broken_training(tmp_path: Path) -> None:
    # The broken cells are the mutations.
    gaps = {cell.name: gap(tmp_path, cell) for cell in (*chosen_cells("stages", 1), *BROKEN)}
    assert gaps.pop("stage1-seed0") >= POSE_GAP, gaps
    assert gaps.pop("stage2-seed0") >= ORDER_GAP, gaps
    for name, found in gaps.items():
        assert found < (POSE_GAP if name.startswith("stage1") else ORDER_GAP) / 2, (name, found)


def smallworld(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lposekit", "smallworld", "--budget", "quick", "--scope", "stages"]
    return subprocess.run(
        [*command, "--seeds", "1", "--output", str(folder)],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
    )


def follows_poses_of_real_photos(run: Path) -> bool:
    pipeline, scenes = load_run(run, "cpu"), coco_scenes()
    right, other = (measure_images(draw_scenes(pipeline, scenes, case, 1), scenes)["pck"] for case in CASES)

    return right >= 1.5 * other


@pytest.mark.more  # both stages with their samples, three minutes
@pytest.mark.timeout(1800)
def test_the_command_goes_on_after_a_kill_and_shows_that_both_stages_learn(tmp_path: Path) -> None:
    # Mutations tried: cells that are done trained again, a sheet left out -> red.
    killed = smallworld(tmp_path, LPOSEKIT_FAULT=f"checkpoint:after_rename@{tmp_path / 'killed'}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "runs" / "stage1-seed0" / "checkpoints").is_dir()
    resumed = smallworld(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step 30" in resumed.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [bar for bar in results["summary"] if not bar["kept"]] == []
    assert follows_poses_of_real_photos(run_folder(tmp_path, "stage1-seed0"))
    page = (tmp_path / "report.html").stat()
    again = smallworld(tmp_path)
    assert again.returncode == 0
    assert "2 of 2 trainings are done" in again.stdout
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "report.html").stat().st_size == page.st_size
