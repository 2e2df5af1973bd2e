"""Contract of pipelines.job.resend, on real Ray actors: work that its actor dies with is done by the actor that is
started again; what dies each time ends with what was done and what to look for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import LposekitError
from pipelines.job.resend import ATTEMPTS, ask

pytestmark = pytest.mark.usefixtures("ray_local")


class Fragile:
    """Dies with the work as often as it is told to, over all its processes."""

    def __init__(self, deaths: Path, most: int) -> None:
        self.deaths, self.most = deaths, most

    def card(self) -> dict[str, Any]:
        return {}

    def double(self, number: int) -> int:
        died = self.deaths.stat().st_size if self.deaths.exists() else 0
        if died < self.most:
            self.deaths.write_bytes(bytes(died + 1))
            os._exit(1)
        return 2 * number


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Any]:
    import ray

    actors = []

    def start(most: int) -> Any:
        actors.append(ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Fragile).remote(tmp_path / "n", most))
        return actors[-1]

    yield start
    for actor in actors:
        ray.kill(actor)


def test_work_that_an_actor_died_with_is_done_by_the_one_that_is_started_again(fragile: Any) -> None:
    # Mutation tried: nothing sent again. (Without the wait it is green as a rule: Ray often keeps what it is sent.)
    actor = fragile(1)
    pending = [ask(actor, "double", number, "a model") for number in (1, 2)]
    assert [answer() for answer in pending] == [2, 4]


@pytest.mark.more
def test_work_that_an_actor_dies_with_each_time_is_named(fragile: Any, tmp_path: Path) -> None:
    # Mutation: `<=` for `<`, sent once more than its answer is awaited.
    with pytest.raises(LposekitError, match=rf"a model with 9 images died {ATTEMPTS} times. Look for a lack of memory"):
        ask(fragile(99), "double", 1, "a model with 9 images")()
    assert (tmp_path / "n").stat().st_size == ATTEMPTS
