"""A pose model in a process of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.json_values import JsonObject
from lposekit.pose import stub
from lposekit.pose.backend import Backend
from lposekit.pose.isolate import is_device_lost
from lposekit.pose.protocol import Estimator
from lposekit.pose.zoo import Precision
from lposekit.recipe import SetupFailed
from lposekit.records import Person, PoseFailure
from lposekit.stage_times import StageTimes

_LOG = logging.getLogger(__name__)
Image = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
Poses = list[Person] | PoseFailure


@dataclass(frozen=True, slots=True)
class PoseAnswer:
    """What the model says to a batch: an entry an image, and the seconds it took by stage, `detect` and `pose`."""

    poses: list[Poses]
    seconds: dict[str, float]


def answer(estimator: Estimator, images: Sequence[Image]) -> PoseAnswer:
    """Put a batch through the model."""
    times = StageTimes()
    poses = estimator.estimate(images, times)
    return PoseAnswer(poses, times.as_dict())


@dataclass(frozen=True, slots=True)
class PoseSpec:
    """Which pose model to load, as plain values that travel to any process.

    `backend`: chosen by the driver, for all actors. `threads`: of the backend; None: one per core. `attempts`: at a
    batch that kills its process, before it is bisected.
    The others are those of `lposekit.pose.estimator.EstimatorSettings`.
    """

    detector: str
    pose_model: str
    weights_dir: Path | None
    backend: Backend
    device: str
    precision: Precision
    box_score_threshold: float
    min_box_area_fraction: float
    min_box_side_px: float
    threads: int | None
    batch_size: int
    crop_batch_size: int
    duplicate_oks: float | None
    attempts: int = 2


def load_estimator(spec: PoseSpec) -> Estimator:
    """The estimator of a spec; imports what its backend needs, or the stub."""
    if spec.pose_model == stub.NAME:
        return stub.StubEstimator()
    from lposekit.pose.estimator import PoseEstimator

    return PoseEstimator.load(
        spec.detector,
        spec.pose_model,
        weights_dir=spec.weights_dir,
        backend=spec.backend,
        device=spec.device,
        precision=spec.precision,
        threads=spec.threads,
        box_score_threshold=spec.box_score_threshold,
        min_box_area_fraction=spec.min_box_area_fraction,
        min_box_side_px=spec.min_box_side_px,
        batch_size=spec.batch_size,
        crop_batch_size=spec.crop_batch_size,
        duplicate_oks=spec.duplicate_oks,
    )


class PoseActor:
    """One pose model in a process of its own."""

    def __init__(self, spec: PoseSpec) -> None:
        self._failure: LposekitError | None = None
        self._estimator: Estimator | None = None
        try:
            self._estimator = load_estimator(spec)
        except LposekitError as error:
            # An actor that fails while it starts reaches the driver as a dead one, its message lost in a traceback.
            self._failure = error

    def card(self) -> JsonObject:
        """What was loaded.

        Raises:
            SetupFailed: it could not be.
        """
        if self._failure is not None:
            raise SetupFailed(self._failure)
        assert self._estimator is not None
        return self._estimator.card()

    def estimate(self, images: Sequence[Image]) -> PoseAnswer:
        """Poses of a batch. The process ends if its GPU is lost: a new one takes the batch."""
        assert self._estimator is not None
        try:
            return answer(self._estimator, images)
        except RuntimeError as error:
            if is_device_lost(error):
                _LOG.error("the pose model's process ends, for its GPU is lost: %s", error)
                os._exit(1)
            raise
