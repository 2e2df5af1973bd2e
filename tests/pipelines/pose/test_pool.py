"""Contract of pipelines.pose.pool: a batch goes to the model that has the least to do; one whose GPU is lost makes room
for a new process, which takes the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lposekit.pose.stub import StubEstimator
from pipelines.image.settings import BuildImagesSettings
from pipelines.pose.actor import PoseActor, PoseSpec
from pipelines.pose.pool import RayPoses, shortest
from tests.pipelines.image.test_pose_spec import pose_spec


# Mutations tried: `(i + first)` for `(i - first)`; the lengths left out of the key.
@pytest.mark.parametrize(
    ("lengths", "first", "place"), [([0, 0, 0], 1, 1), ([2, 0, 1], 0, 1), ([1, 1, 1], 2, 2), ([1, 0, 0], 2, 2)]
)
def test_the_shortest_queue_is_taken_and_equals_take_turns(lengths: list[int], first: int, place: int) -> None:
    assert shortest(lengths, first) == place


@pytest.mark.usefixtures("ray_local")
def test_a_model_that_is_slow_gets_fewer_batches() -> None:
    # Mutation tried: `_waiting` never looked at again -> each gets half.
    import ray

    from lposekit.stage_times import StageTimes  # noqa: F401  (the actor's process imports what its answer needs)
    from pipelines.pose.actor import PoseAnswer

    @ray.remote(num_cpus=0)
    class Model:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def estimate(self, images: list[np.ndarray]) -> PoseAnswer:
            import time

            time.sleep(self.seconds)
            return PoseAnswer([[] for _ in images], {"slow": self.seconds})

    actors = [Model.remote(0.5), Model.remote(0.0)]
    ray.get([actor.estimate.remote([]) for actor in actors])
    pool = RayPoses(actors, pose_spec(BuildImagesSettings(pose_model="stub")))
    answers = [pool.submit([np.zeros((9, 9, 3), np.uint8)]) for _ in range(2)]
    for _ in range(6):
        answers.append(pool.submit([np.zeros((9, 9, 3), np.uint8)]))
        ray.wait([answers[-1].reference], timeout=0.3)
    slow = [batch.result().seconds["slow"] for batch in answers]
    assert sum(seconds > 0 for seconds in slow) <= 3
    for actor in actors:
        ray.kill(actor)


class LosesItsDevice(StubEstimator):
    """On its first batch."""

    def __init__(self, lost: Path) -> None:
        self.lost = lost

    def estimate(self, *inputs: object) -> object:
        import torch

        if not self.lost.exists():
            self.lost.touch()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super().estimate(*inputs)


class Actor(PoseActor):
    def __init__(self, spec: PoseSpec, lost: Path) -> None:
        super().__init__(spec)
        self._estimator = LosesItsDevice(lost)


@pytest.mark.usefixtures("ray_local")
def test_a_batch_whose_process_lost_its_gpu_is_answered_by_a_new_process(tmp_path: Path) -> None:
    # Mutation tried: `os._exit` left out -> the error of a GPU that is gone, for this batch and all that follow.
    import ray

    spec = pose_spec(BuildImagesSettings(pose_model="stub"))
    actor = ray.remote(num_cpus=0, max_restarts=-1)(Actor).remote(spec, tmp_path / "lost")
    answer = RayPoses([actor], spec).submit([np.zeros((9, 9, 3), np.uint8)]).result()
    assert (tmp_path / "lost").exists()
    assert answer.poses == [[]]
    ray.kill(actor)
