"""Contract of pipelines.job.cluster: a Ray of our own has room for what the workers hand to the pose models."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from lposekit.recipe import Recipe
from pipelines.image.recipe import ImageRecipe
from pipelines.image.settings import BuildImagesSettings
from pipelines.job.cluster import object_store_bytes
from tests.support.fixtures import REPOSITORY

GIB = 2**30


# Mutation: `wanted` without its minimum, or without the cap of shared memory.
@pytest.mark.parametrize(
    ("in_flight", "memory", "shared", "given"),
    [
        (0, 24 * GIB, 12 * GIB, GIB),
        (4 * GIB, 128 * GIB, 64 * GIB, 5 * GIB),
        (4 * GIB, 10 * GIB, 64 * GIB, 3 * GIB),
        (4 * GIB, 128 * GIB, 2 * GIB, 2 * GIB),
        (4 * GIB, 128 * GIB, 0, GIB),
    ],
)
def test_the_object_store_holds_what_is_on_its_way_as_far_as_the_machine_has_it(
    in_flight: int, memory: int, shared: int, given: int
) -> None:
    assert object_store_bytes(in_flight, memory, shared) == given


# Mutation: `_fewer_daemons` left out.
@pytest.mark.usefixtures("ray_local")
def test_a_ray_of_our_own_has_no_daemons_that_nobody_asks_and_works() -> None:
    import ray

    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("raylet" in command for command in commands)
    assert not any(name in command for command in commands for name in ("dashboard.py", "log_monitor", "monitor.py"))
    assert ray.get(ray.remote(num_cpus=0)(lambda: 7).remote()) == 7


# Mutation: `_signals_kept` without `reinstall_handlers` before Ray's processes end.
@pytest.mark.case(82)
@pytest.mark.timeout(240)
def test_a_second_sigterm_while_ray_stops_or_after_does_not_end_the_process() -> None:
    script = """
import os, signal
from ray._private import node
from lposekit.interrupts import Interrupts
from pipelines.job.cluster import connected

kill = node.Node.kill_all_processes
def kill_with_signal(*arguments, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    print("while Ray stops")
    return kill(*arguments, **named)

interrupts = Interrupts()
with interrupts.installed():
    with connected(None):
        os.kill(os.getpid(), signal.SIGTERM)
        node.Node.kill_all_processes = kill_with_signal
    os.kill(os.getpid(), signal.SIGTERM)
    print("after", interrupts.stop.is_set())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert ended.returncode == 0, ended
    assert ended.stdout.splitlines() == ["while Ray stops", "after True"]


def test_sixteen_workers_of_an_image_build_get_more_than_the_gigabyte_that_they_would_fill() -> None:
    recipe: Recipe = ImageRecipe(BuildImagesSettings())  # type: ignore[type-arg]
    assert 1.2 * GIB < 16 * recipe.bytes_in_flight < 2 * GIB
