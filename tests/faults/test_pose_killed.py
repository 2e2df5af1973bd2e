"""Contract: a pose model's process that is killed from outside, however often, blames no image: its batch is tried
again, and where that does not help the shard fails with the reason, to be built by the next run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout
from pipelines.pose.actor import PoseActor, PoseSpec
from pipelines.pose.pool import RayPoses
from pipelines.recipes import build_images as run
from tests.pipelines.image.test_pose_spec import pose_spec
from tests.support.build_process import content_digest
from tests.support.execute_here import execute_here
from tests.support.stub_build import served, stub_pages, stub_settings
from tests.support.stub_images import stub_image

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(480), pytest.mark.case(81)]
ROWS = 2


@contextlib.contextmanager
def _killer(times: int) -> Iterator[list[int]]:
    """Kills pose actors in their work, so often; yields the ids of the processes that it killed."""
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.is_set() and len(killed) < times:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.pid not in killed and " ".join(process.cmdline()).strip().endswith("PoseActor.estimate"):
                        process.kill()
                        killed.append(process.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


class SlowPoseActor(PoseActor):
    """Takes its time to load, as real models do."""

    def __init__(self, spec: PoseSpec) -> None:
        time.sleep(4)
        super().__init__(spec)


@contextlib.contextmanager
def _pool(tmp_path: Path) -> Iterator[RayPoses]:
    import ray

    spec = pose_spec(stub_settings(tmp_path / "list", tmp_path / "d"))
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(SlowPoseActor).remote(spec)
    try:
        yield RayPoses([actor], spec)
    finally:
        ray.kill(actor)


def _slow_images() -> list[Any]:
    """The stub takes half a second for each, so that there is time to kill it."""
    jpegs = [stub_image(row, behaviour="sleep") for row in range(ROWS)]
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for jpeg in jpegs]


@pytest.mark.more
def test_a_batch_whose_model_is_killed_from_outside_as_often_as_it_is_tried_blames_nobody(tmp_path: Path) -> None:
    # Mutations tried: a batch sent at once to the actor that died -> its attempts are used up while the model loads;
    # all images blamed once their batch has died as often as it is tried -> no poses.
    with _pool(tmp_path) as pool, _killer(2) as killed:
        answer = pool.submit(_slow_images()).result()
    assert len(killed) == 2
    assert [len(poses) for poses in answer.poses if isinstance(poses, list)] == [1] * ROWS


@pytest.mark.more
def test_a_model_that_is_killed_again_and_again_fails_the_shard_with_the_reason(tmp_path: Path) -> None:
    # Mutation tried: all images of the batch blamed after the isolation that found none -> no error.
    with _pool(tmp_path) as pool, _killer(99) as killed:
        with pytest.raises(LposekitError, match=r"died 4 times with a batch of 2 images, 2 of which kill no process"):
            pool.submit(_slow_images()).result()
        assert len(killed) == 4


@pytest.mark.more
def test_a_build_whose_model_is_killed_again_and_again_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    with served(stub_pages(4, behaviour=dict.fromkeys(range(4), "sleep")), tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d", workers=1)
        with _killer(10) as killed:
            report = run(settings)
        assert len(killed) == 4
        assert (report.exit_code, report.outcomes) == (3, {})
        assert "4 of which kill no process when they are alone" in report.failures[0]
        assert run(settings, execute=execute_here).exit_code == 0
        run(stub_settings(path, tmp_path / "undisturbed"), execute=execute_here)
    built, undisturbed = (content_digest(DatasetLayout(tmp_path / name)) for name in ("d", "undisturbed"))
    assert built == undisturbed
