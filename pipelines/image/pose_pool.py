"""Pose models as Ray actors, shared by all shards, and what a shard's worker sees of them.

A picture that kills the model's process is found and named: the batch is tried again, then given to a killable child
that takes its pictures one by one, and the rest of the batch goes through the pool once more.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lposekit.records import Person, PoseFailure
from pipelines.image.settings import PoseSettings

logger = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]
Poses = list[Person] | PoseFailure
POOL_RESTART_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class PoseSpec:
    """Which pose model to load, as plain values that travel to any process.

    ``box_score_threshold``: the one that is used, where the setting of that name may be None.
    """

    detector: str
    pose_model: str
    weights_dir: Path | None
    device: str
    precision: str
    box_score_threshold: float
    settings: PoseSettings


def load_estimator(spec: PoseSpec) -> Any:
    """The estimator of a spec (`lposekit.pose.estimator.Estimator`); imports torch and OpenMMLab, or the stub."""
    settings = spec.settings
    if spec.pose_model == "stub":
        from lposekit.pose.stub import StubEstimator

        return StubEstimator()
    from lposekit.pose.estimator import PoseEstimator

    return PoseEstimator.load(
        spec.detector,
        spec.pose_model,
        weights_dir=spec.weights_dir,
        device=spec.device,
        precision=spec.precision,
        threads=settings.threads,
        box_score_threshold=spec.box_score_threshold,
        min_box_area_fraction=settings.min_box_area_fraction,
        min_box_side_px=settings.min_box_side_px,
        batch_size=settings.batch_size,
        crop_batch_size=settings.crop_batch_size,
    )


class PoseActor:
    """One pose model in a process of its own."""

    def __init__(self, spec: PoseSpec) -> None:
        self._estimator = load_estimator(spec)

    def card(self) -> dict[str, Any]:
        return self._estimator.card()

    def estimate(self, images: Sequence[Picture]) -> tuple[list[Poses], float]:
        """Poses of a batch, and the seconds they took."""
        start = time.perf_counter()
        return self._estimator.estimate(images), time.perf_counter() - start


class PoseClient(Protocol):
    """What a shard's worker needs: hand in a batch, and fetch its poses later."""

    def submit(self, images: list[Picture]) -> Any:
        """Start on a batch of pictures (uint8 [H, W, 3] RGB); returns a ticket."""
        ...

    def result(self, ticket: Any) -> list[Poses]:
        """Wait for a ticket's poses, one entry a picture."""
        ...


class LocalPoses:
    """The pose model in this very process: for tests, and for machines without Ray."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def submit(self, images: list[Picture]) -> list[Picture]:
        return images

    def result(self, ticket: list[Picture]) -> list[Poses]:
        return self._estimator.estimate(ticket)


@dataclass(slots=True)
class _Ticket:
    images: list[Picture]
    reference: Any
    attempts: int = 1


class RayPoses:
    """A pool of `PoseActor`s; batches go round, and a batch whose actor died is tried again and then isolated."""

    def __init__(self, actors: Sequence[Any], spec: PoseSpec, first: int = 0) -> None:
        self._actors = actors
        self._spec = spec
        self._turn = itertools.count(first)
        self.busy_s = 0.0

    def submit(self, images: list[Picture]) -> _Ticket:
        return _Ticket(images, self._send(images))

    def _send(self, images: list[Picture]) -> Any:
        return self._actors[next(self._turn) % len(self._actors)].estimate.remote(images)

    def result(self, ticket: _Ticket) -> list[Poses]:
        while True:
            poses = self._try(ticket)
            if poses is not None:
                return poses
            if ticket.attempts >= self._spec.settings.attempts:
                return self._isolate(ticket.images)
            ticket.attempts += 1
            time.sleep(POOL_RESTART_WAIT_S)
            ticket.reference = self._send(ticket.images)

    def _try(self, ticket: _Ticket) -> list[Poses] | None:
        """The batch's poses, or None if the actor died on the way."""
        import ray
        from ray.exceptions import RayActorError

        try:
            poses, seconds = ray.get(ticket.reference)
        except RayActorError as error:
            logger.warning("a pose model's process died with a batch of %d pictures: %s", len(ticket.images), error)
            return None
        self.busy_s += seconds
        return poses

    def _isolate(self, images: list[Picture]) -> list[Poses]:
        """Find the pictures that kill the model, in a child of our own, and put the others through the pool again."""
        from pipelines.image.poison import find_killers

        killers = find_killers(self._spec, images)
        healthy = [image for i, image in enumerate(images) if i not in killers]
        poses: list[Poses] | None = [] if not healthy else self._try(_Ticket(healthy, self._send(healthy)))
        if poses is None:
            killers = dict.fromkeys(range(len(images)), "the pose model's process died with this picture's batch")
            poses = []
        rest = iter(poses)
        return [PoseFailure(killers[i], True) if i in killers else next(rest) for i in range(len(images))]
