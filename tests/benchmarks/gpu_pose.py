"""Persons a second of the pose model, bare: forward passes over prepared crops. Imported where MMPose is."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from lposekit.pose.estimator import PoseEstimator
from tests.benchmarks.bare_models import RawPose
from tests.support.fixtures import fixtures_root

DETECTOR, POSE_MODEL = "rtmdet-nano-rebuilt", "tinypose"
"""The pair whose weights are among the fixtures."""


def persons_per_second(device: str, precision: str, batch: int, rounds: int) -> dict[str, Any]:
    """One row. On a CPU a batch is cut to two persons: only that it runs is of interest there."""
    count = batch if device == "cuda" else 2
    estimator = PoseEstimator.load(
        DETECTOR,
        POSE_MODEL,
        weights_dir=fixtures_root() / "weights",
        device=device,
        precision=precision,  # pyright: ignore
    )
    model = estimator.pose_model
    width, height = model.input_size_wh
    first = next(model.module.parameters())
    crops = torch.randn(count, 3, height, width, device=first.device, dtype=first.dtype)
    crops = crops.to(memory_format=torch.channels_last)
    bare, seconds = RawPose(model.module).eval(), []
    with torch.inference_mode():
        for _ in range(2 + rounds):
            started = time.perf_counter()
            bare(crops)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return {
        "model": POSE_MODEL,
        "precision": str(first.dtype).removeprefix("torch."),
        "batch": count,
        "persons/s": count / statistics.median(seconds[2:]),
    }
