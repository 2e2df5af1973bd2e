"""The pool of pose models that all shards share, as a shard's worker sees it.

An image that kills the model's process is found and named: the batch is tried again, then given to a killable child
that takes its images one by one, and the rest of the batch goes through the pool once more. Nobody is blamed without
such a proof: where the pool's processes go on dying, as if killed from outside, the shard fails, to be built again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lposekit.errors import LposekitError
from lposekit.pose.protocol import Estimator
from lposekit.recipe import ActorHandle
from lposekit.records import PoseFailure
from lposekit.stage_times import StageTimes
from pipelines.job.resend import DiedEachTime, answer_of
from pipelines.pose.actor import Image, PoseAnswer, Poses, PoseSpec, answer
from pipelines.pose.poison import find_killers

if TYPE_CHECKING:
    from ray import ObjectRef


class PendingPoses(Protocol):
    """A batch on its way."""

    def result(self) -> PoseAnswer:
        """Wait for its poses."""
        ...


class PoseClient(Protocol):
    """What a shard's worker needs: hand in a batch, and fetch its poses later."""

    def submit(self, images: list[Image]) -> PendingPoses:
        """Start on a batch of images."""
        ...


def estimated(client: PoseClient, images: list[Image], times: StageTimes) -> list[Poses]:
    """Hand in a batch and wait for its poses; `times` gets the model's own stages, `detect` and `pose`."""
    with times.waiting("pose", f"{len(images)} frames"):
        answered = client.submit(images).result()
    times.add_all(answered.seconds)
    return answered.poses


class LocalPoses:
    """The pose model in this very process: for tests, and for machines without Ray."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator

    def submit(self, images: list[Image]) -> _LocalBatch:
        return _LocalBatch(self._estimator, images)


@dataclass(frozen=True, slots=True)
class _LocalBatch:
    estimator: Estimator
    images: list[Image]

    def result(self) -> PoseAnswer:
        return answer(self.estimator, self.images)


@dataclass(slots=True)
class _SentBatch:
    pool: RayPoses
    images: list[Image]
    actor: ActorHandle
    reference: ObjectRef

    def result(self) -> PoseAnswer:
        return self.pool.result(self)


class RayPoses:
    """A pool of `PoseActor`s; a batch goes to the one with the fewest batches of this worker waiting, and a batch whose
    actor died is tried again and then isolated."""

    def __init__(self, actors: Sequence[ActorHandle], spec: PoseSpec, first: int = 0) -> None:
        self._actors = actors
        self._spec = spec
        self._waiting: list[list[ObjectRef]] = [[] for _ in actors]
        self._first = first % len(actors)
        """Whose turn it is among equals: workers begin with different ones."""

    def submit(self, images: list[Image]) -> _SentBatch:
        import ray

        self._waiting = [
            ray.wait(sent, num_returns=len(sent), timeout=0)[1] if sent else sent for sent in self._waiting
        ]
        place = shortest([len(sent) for sent in self._waiting], self._first)
        self._first = (place + 1) % len(self._actors)
        actor = self._actors[place]
        reference = actor.estimate.remote(images)
        self._waiting[place].append(reference)
        return _SentBatch(self, images, actor, reference)

    def result(self, batch: _SentBatch) -> PoseAnswer:
        """Wait for a batch's poses, however many attempts they take.

        Raises:
            LposekitError: the pool's processes die again and again, and none of the images kills a process alone.
        """
        answered = self._tried(batch)
        if answered is not None:
            return answered
        killers = find_killers(self._spec, batch.images)
        healthy = [image for i, image in enumerate(batch.images) if i not in killers]
        answered = self._tried(self.submit(healthy)) if healthy else PoseAnswer([], {})
        if answered is None:
            raise LposekitError(
                f"the pose model's processes died {2 * self._spec.attempts} times with a batch of {len(batch.images)} "
                f"images, {len(healthy)} of which kill no process when they are alone: something else kills them. "
                "Look for a lack of memory (of the GPU too), then run the same command again."
            )
        rest = iter(answered.poses)
        poses: list[Poses] = [
            PoseFailure(killers[i], True) if i in killers else next(rest) for i in range(len(batch.images))
        ]
        return PoseAnswer(poses, answered.seconds)

    def _tried(self, batch: _SentBatch) -> PoseAnswer | None:
        """The batch's poses, or None if its actor died with it as often as it is tried."""
        actor, images = batch.actor, batch.images
        what = f"a pose model with a batch of {len(images)} images"
        try:
            return answer_of(batch.reference, lambda: actor.estimate.remote(images), actor, self._spec.attempts, what)
        except DiedEachTime:
            return None


def shortest(lengths: Sequence[int], first: int) -> int:
    """The place of the shortest queue; among equals the next from `first` on."""
    return min(range(len(lengths)), key=lambda i: (lengths[i], (i - first) % len(lengths)))
