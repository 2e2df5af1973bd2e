"""Contract of the runner, on real Ray actors: a unit whose worker dies is tried again on a fresh worker, up to the
number of attempts; a unit that raises fails alone and once; nothing is handed out ahead of a free worker; a stop lets
the work in hand finish; a network that is down stops the run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from lposekit.recipe import ShardReport
from pipelines.job.runner import GaveUp, RunResult, ShardRunner

pytestmark = pytest.mark.usefixtures("ray_local")


@dataclass(frozen=True)
class Unit:
    """A unit that tells its worker how to fail."""

    shard: int
    folder: str
    failure: str = ""


class Worker:
    """Builds a unit by noting that it did."""

    def build(self, unit: Unit) -> ShardReport:
        notes = Path(unit.folder) / f"{unit.shard}"
        tries = len(notes.read_text()) + 1 if notes.exists() else 1
        notes.write_text("x" * tries)
        if unit.failure == "always dies" or (unit.failure == "dies once" and tries == 1):
            os._exit(1)
        if unit.failure == "raises":
            raise ValueError("row 17 of shard is impossible")
        if unit.failure == "slow":
            time.sleep(2)
        return ShardReport(unit.shard, 1, 1, {"kept": 1}, committed=unit.failure != "network down", note=unit.failure)


def _run(units: Iterator[Unit], *, attempts: int = 3, stop: threading.Event | None = None, workers: int = 2) -> Any:
    reports: list[ShardReport] = []
    spawned: list[Any] = []

    def spawn() -> Any:
        spawned.append(ray.remote(num_cpus=0)(Worker).remote())
        return spawned[-1]

    runner = ShardRunner(
        spawn,
        num_workers=workers,
        attempts=attempts,
        on_report=reports.append,
        stop=stop or threading.Event(),
        drop=threading.Event(),
    )
    result: RunResult = runner.run(units)
    return result, sorted(report.shard for report in reports), len(spawned)


class Impatient:
    """A watch that gives up when it is first asked with work at hand."""

    def look(self, in_work: Mapping[int, int]) -> None:
        if in_work:
            raise GaveUp(f"shard and attempt: {in_work}")

    def moved(self) -> None:
        pass


def test_a_watch_that_gives_up_ends_the_run_and_its_workers(tmp_path: Path) -> None:
    # Mutations tried: `look` not called -> the run goes on; no `_close` when an error passes -> the worker lives on.
    workers: list[Any] = []

    def spawn() -> Any:
        workers.append(ray.remote(num_cpus=0)(Worker).remote())
        return workers[-1]

    runner = ShardRunner(
        spawn,
        num_workers=1,
        attempts=3,
        on_report=lambda report: None,
        stop=threading.Event(),
        drop=threading.Event(),
        watch=Impatient(),
    )
    with pytest.raises(GaveUp, match=r"\{7: 1\}"):
        runner.run(iter([Unit(7, str(tmp_path), "slow")]))
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(workers[0].build.remote(Unit(8, str(tmp_path))))


def _tries(folder: Path, shard: int) -> int:
    path = folder / str(shard)
    return len(path.read_text()) if path.exists() else 0


def test_a_unit_whose_worker_dies_is_built_by_a_fresh_one(tmp_path: Path) -> None:
    # Mutation: putting the dead worker back into the idle list -> the retry fails too.
    units = [Unit(0, str(tmp_path)), Unit(1, str(tmp_path), "dies once"), Unit(2, str(tmp_path))]
    result, shards, spawned = _run(iter(units), workers=1)
    assert (result.failures, shards) == ({}, [0, 1, 2])
    assert _tries(tmp_path, 1) == 2
    assert spawned == 2


def test_a_unit_that_always_kills_its_worker_is_given_up_after_the_attempts_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    units = [Unit(0, str(tmp_path), "always dies"), *(Unit(i, str(tmp_path)) for i in range(1, 4))]
    result, shards, _ = _run(iter(units), attempts=3)
    assert shards == [1, 2, 3]
    assert list(result.failures) == [0]
    assert "died 3 times" in result.failures[0]
    assert _tries(tmp_path, 0) == 3


@pytest.mark.case(26)
def test_a_unit_that_raises_fails_once_and_says_why(tmp_path: Path) -> None:
    # Mutation tried: retrying RayTaskError like a death -> three tries.
    result, shards, spawned = _run(iter([Unit(0, str(tmp_path), "raises"), Unit(1, str(tmp_path))]), workers=1)
    assert shards == [1]
    assert "row 17 of shard is impossible" in result.failures[0]
    assert (_tries(tmp_path, 0), spawned) == (1, 1)


@pytest.mark.case(32)
def test_nothing_is_handed_out_ahead_of_a_free_worker(tmp_path: Path) -> None:
    # Mutation: handing out num_workers + 5 -> more units are drawn than workers are free.
    drawn: list[int] = []

    def units() -> Iterator[Unit]:
        for shard in range(6):
            drawn.append(shard)
            done = sum(1 for path in tmp_path.iterdir())
            assert len(drawn) - done <= 3
            yield Unit(shard, str(tmp_path), "slow" if shard == 0 else "")

    result, shards, _ = _run(units())
    assert (result.failures, shards) == ({}, [0, 1, 2, 3, 4, 5])


def test_a_stop_finishes_what_is_in_work_and_hands_out_nothing_more(tmp_path: Path) -> None:
    stop = threading.Event()

    def units() -> Iterator[Unit]:
        yield Unit(0, str(tmp_path), "slow")
        stop.set()
        yield Unit(1, str(tmp_path))
        raise AssertionError("a third unit was asked for after the stop")

    result, shards, _ = _run(units(), stop=stop)
    assert result.stopped == "interrupted"
    assert shards == [0, 1]
    assert result.failures == {}


def test_a_network_that_is_down_stops_the_run(tmp_path: Path) -> None:
    units = [Unit(0, str(tmp_path), "network down"), *(Unit(i, str(tmp_path)) for i in range(1, 9))]
    result, shards, _ = _run(iter(units), workers=1)
    assert shards == [0]
    assert result.stopped is not None
    assert "network" in result.stopped
    assert list(result.failures) == [0]
