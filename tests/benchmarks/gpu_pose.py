"""Persons a second of the pose model, bare: forward passes over prepared crops; images a second of the whole pose
stage, fed from memory. Imported where MMPose is."""

from __future__ import annotations

import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from lposekit.pose.estimator import PoseEstimator, pose_precision
from lposekit.pose.models import load_pose_model
from lposekit.pose.zoo import Precision, pose_entry
from lposekit.records import PoseFailure
from tests.benchmarks.bare_models import RawPose
from tests.benchmarks.ground_truth import load_photos
from tests.support.fixtures import fixtures_root

DETECTOR, POSE_MODEL = "rtmdet-nano-rebuilt", "tinypose"
"""Their weights are among the fixtures."""


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


def images_per_second(device: str, precision: Precision, batch: int, calls_at_once: int, rounds: int) -> dict[str, Any]:
    """One row: `PoseEstimator.estimate`, called by several threads at once, as an actor of a build is. On a CPU two
    photos take the path of a GPU."""
    weights, on_gpu = fixtures_root() / "weights", device == "cuda"
    estimator = PoseEstimator.load(
        DETECTOR,
        POSE_MODEL,
        weights_dir=weights,
        device=device if on_gpu else "cpu:0",
        precision=precision,
        batch_size=batch,
        crop_batch_size=4 * batch,
    )
    photos, _ = load_photos(fixtures_root() / "data/images")
    size, calls = (batch, 8) if on_gpu else (1, 2)
    endless = itertools.cycle(photo.rgb_HWC for photo in photos)
    batches = [list(itertools.islice(endless, size)) for _ in range(calls)]
    seconds: list[float] = []
    with ThreadPoolExecutor(calls_at_once) as pool:
        for _ in range(1 + rounds):
            started = time.perf_counter()
            found = list(pool.map(estimator.estimate, batches))
            seconds.append(time.perf_counter() - started)
    answers = [image for answer in found for image in answer]
    failed = [answer for answer in answers if isinstance(answer, PoseFailure)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(answers)} images failed: {failed[0].detail}")
    persons = sum(len(answer) for answer in answers if isinstance(answer, list))
    return {
        "models": f"{DETECTOR}, {POSE_MODEL}",
        "precision": f"{precision}, {pose_precision(pose_entry(POSE_MODEL), precision)}",
        "batch": size,
        "calls at once": calls_at_once,
        "images/s": size * calls / statistics.median(seconds[1:]),
        "persons/s": persons / statistics.median(seconds[1:]),
    }
