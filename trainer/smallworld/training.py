"""A cell's training by the ordinary trainer, and its weights at any of its checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from lposekit.settings import Layer, merge
from trainer import train
from trainer.cache_latents.run import run as cache_latents
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.settings import SampleSettings
from trainer.run.distributed import choose_device
from trainer.run.outcome import TrainReport
from trainer.run.sampler import load_pipeline, read_facts
from trainer.settings import CacheLatentsSettings, TrainSettings
from trainer.smallworld.budgets import Budget
from trainer.smallworld.cells import Cell, DataName
from trainer.smallworld.datasets import write_clips, write_images
from trainer.smallworld.draw import SIDE
from trainer.smallworld.settings import SmallWorldSettings

WORLD_SEED = 1
"""Of the datasets: all seeds of the training see the same."""
LINE_WIDTH = 2.0
"""Of the skeletons, in pixels; the width of the style, scaled to images of this size, would be a third of one."""
CLIP_FRAMES = 8
CACHED_AT_A_TIME = 64


def write_data(root: Path, name: DataName, budget: Budget, settings: SmallWorldSettings) -> Path:
    """A training dataset with its cache of latents, written or completed; returns its folder."""
    folder = root / name
    if name.startswith("images"):
        write_images(folder, WORLD_SEED, "train", budget.images, poses_shuffled=name == "images-poses-shuffled")
    else:
        write_clips(folder, WORLD_SEED, "train", budget.clips, frames_shuffled=name == "clips-frames-shuffled")
    cache_latents(
        CacheLatentsSettings(
            data=folder,
            base=settings.base,
            size=SIDE,
            batch_size=CACHED_AT_A_TIME,
            device=settings.device,
            threads=settings.threads or torch.get_num_threads(),
        )
    )
    return folder


def train_settings(cell: Cell, folder: Path, budget: Budget, settings: SmallWorldSettings) -> TrainSettings:
    """The settings of the cell's training, those of `lposekit train`."""
    stage = budget.stages[cell.stage - 1]
    every = stage.steps // stage.points
    values: dict[str, object] = {
        "stage": cell.stage,
        "data": (folder / "data" / cell.data,),
        "output": run_folder(folder, cell.name),
        "base": settings.base,
        "pose_encoder": str(run_folder(folder, cell.after)) if cell.after else "",
        "max_steps": stage.steps,
        "batch_size": stage.batch_size,
        "seed": cell.seed,
        "image.size": SIDE,
        "clip.frames": CLIP_FRAMES,
        "clip.stride": 1,
        "pose.line_width": LINE_WIDTH,
        "loader.workers": 1,
        "loader.latents": True,
        "loader.held_out": 0,
        "optim.lr": stage.lr,
        "optim.warmup_steps": stage.steps // 30,
        "optim.schedule": "cosine",
        "compute.device": settings.device,
        "compute.threads": settings.threads,
        "checkpoint.every_steps": every,
        "checkpoint.keep_every_steps": every,
        "watch.probe_every": every,
        "watch.probe_samples": 64,
        "watch.sample_every": 0,
        "watch.tensorboard": False,
        "watch.mfu": False,
    }
    return merge(TrainSettings, [Layer("the small world", {**values, **cell.changes})])


def run_folder(folder: Path, cell: str) -> Path:
    return folder / "runs" / cell


def train_cell(settings: TrainSettings) -> TrainReport:
    """Trains what is left of a cell's steps."""
    report = train.run(settings)
    assert isinstance(report, TrainReport)
    return report


def load_run(run: Path, device: str, step: int | None = None) -> FollowYourPosePipeline:
    """The weights of a run at a step, in float32 on a device; None: the last one.

    Raises:
        LposekitError: a file of the run is damaged or missing.
    """
    sample = SampleSettings(run=run, step=step, safety_checker=False)
    return load_pipeline(sample, read_facts(sample)).to(choose_device(device))
