"""Contract of pipelines.pose.pool: a batch goes to the model that has the least to do."""

from __future__ import annotations

import numpy as np
import pytest

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
    from pipelines.image.settings import BuildImagesSettings
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
