"""Persons a second of the pose model, bare: forward passes over prepared crops. Imported where MMPose is."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from lposekit.pose.models import load_pose_model
from lposekit.pose.zoo import pose_entry
from tests.benchmarks.bare_models import RawPose
from tests.support.fixtures import fixtures_root

POSE_MODEL = "tinypose"
"""Its weights are among the fixtures."""


def persons_per_second(device: str, precision: str, batch: int, rounds: int) -> dict[str, Any]:
    """One row. On a CPU it is two persons in crops of 64 x 64 pixels: only that it runs is of interest there."""
    loaded = load_pose_model(pose_entry(POSE_MODEL), fixtures_root() / "weights", precision)  # pyright: ignore
    bare = RawPose(loaded.part.to(device).estimator).eval()
    first = next(bare.parameters())
    count, (width, height) = (batch, loaded.facts.input_size_wh) if device == "cuda" else (2, (64, 64))
    crops = torch.randn(count, 3, height, width, device=first.device, dtype=first.dtype)
    crops = crops.to(memory_format=torch.channels_last)
    seconds: list[float] = []
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
