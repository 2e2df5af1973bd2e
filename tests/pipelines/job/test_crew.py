"""Contract of the crew, on real Ray actors: what a worker or a pooled model cannot load ends the run with its own
error, whole, and nothing is tried again; a shard that takes too much memory fails alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lposekit.errors import Interrupted, LposekitError, UsageError
from lposekit.interrupts import Interrupts
from lposekit.recipe import Claim, Machine, Pool, SetupFailed, ShardReport
from lposekit.shards.card import DatasetCard, claim_folder
from lposekit.shards.layout import DatasetLayout
from pipelines.job.crew import run_on_ray
from pipelines.job.progress import BuildProgress

pytestmark = pytest.mark.usefixtures("ray_local")


@dataclass(frozen=True)
class OneShard:
    """A plan."""

    shard: int


class Model:
    """A pooled actor that may have nothing to load."""

    def __init__(self, failure: str) -> None:
        self._failure = failure
        self._two = threading.Barrier(2)

    def card(self) -> dict[str, Any]:
        if self._failure:
            raise SetupFailed(LposekitError(self._failure))
        return {"name": "model"}

    def die(self) -> None:
        os._exit(1)

    def meet(self) -> None:
        self._two.wait(timeout=30)


@dataclass(frozen=True)
class Worker:
    """Builds a shard of one row."""

    greedy_shard: int = -1
    lacks: str = ""
    threads: int = 0
    kills: Any = None
    meets_at: Any = None

    def build(self, plan: OneShard) -> ShardReport:
        if plan.shard == self.greedy_shard:
            np.ones(2**32, np.uint8)
        if self.kills and plan.shard == 0:
            import ray

            ray.get(self.kills.die.remote())
        if self.meets_at:
            import ray

            ray.get([self.meets_at.meet.remote() for _ in range(2)])
        if self.threads:
            _wait_in_threads(self.threads)
        if self.lacks:
            raise ModuleNotFoundError(f"No module named {self.lacks!r}", name=self.lacks)
        return ShardReport(plan.shard, 1, 1, {"kept": 1})


def _wait_in_threads(count: int) -> None:
    done, threads = threading.Event(), [threading.Thread(target=lambda: done.wait(60)) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    finally:
        done.set()


@dataclass(frozen=True)
class Recipe:
    """As much of a recipe as the crew asks for."""

    worker_fails: str = ""
    model_fails: str = ""
    greedy_shard: int = -1
    worker_lacks: str = ""
    worker_threads: int = 0
    workers: int = 2
    kills_its_model: bool = False
    calls_meet: bool = False
    bytes_in_flight: int = 0

    @property
    def settings(self) -> Any:
        return SimpleNamespace(
            ray_address=None, workers=self.workers, shard_attempts=3, stall_minutes=1.0, worker_memory_bytes=2**31
        )

    def pool(self, machine: Machine) -> Pool:
        assert machine.cpus >= 1
        calls_at_once = 2 if self.calls_meet else 1
        return Pool(Model, (self.model_fails,), size=1, num_cpus=0, num_gpus=0, calls_at_once=calls_at_once)

    def worker(self, claim: Claim, pool: Sequence[Any] | None = None, number: int = 0) -> Worker:
        (claim.root / f"worker-{number}").touch()
        if self.worker_fails:
            raise UsageError(self.worker_fails)
        kills = pool[0] if pool and self.kills_its_model else None
        meets_at = pool[0] if pool and self.calls_meet else None
        return Worker(self.greedy_shard, self.worker_lacks, self.worker_threads, kills, meets_at)


def _run(recipe: Any, folder: Path, plans: Iterator[OneShard], interrupts: Interrupts | None = None) -> Any:
    layout = DatasetLayout(folder)
    layout.meta.mkdir(parents=True)
    claim_folder(layout, DatasetCard(fixed={}))
    progress = BuildProgress(layout.log, None, {})
    return run_on_ray(recipe, Claim(folder, "run"), plans, progress, interrupts or Interrupts()), progress


def test_a_crew_builds_every_plan_once_and_writes_the_models_card(tmp_path: Path) -> None:
    result, progress = _run(Recipe(), tmp_path / "d", iter([OneShard(0), OneShard(1), OneShard(2)]))
    assert (result.reports, result.failures, progress.new_rows) == (3, {}, 3)
    assert '"name": "model"' in DatasetLayout(tmp_path / "d").card.read_text()


def test_no_more_workers_are_started_than_there_are_shards(tmp_path: Path) -> None:
    # Mutation: `num_workers = settings.workers or resources.cpus`.
    result, _ = _run(Recipe(workers=3), tmp_path / "d", iter([OneShard(0), OneShard(1)]))
    assert (result.reports, result.failures) == (2, {})
    assert {path.name for path in (tmp_path / "d").glob("worker-*")} == {"worker-0", "worker-1"}


def test_a_stop_while_the_first_plans_are_read_reads_no_more(tmp_path: Path) -> None:
    # Mutation: `_first` does not look at `stop`.
    read, interrupts = list[int](), Interrupts()

    def plans() -> Iterator[OneShard]:
        for shard in range(3):
            read.append(shard)
            interrupts.stop.set()
            yield OneShard(shard)

    with pytest.raises(Interrupted):
        _run(Recipe(workers=3), tmp_path / "d", plans(), interrupts)
    assert read == [0]


def test_a_worker_that_cannot_be_made_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    # Mutation tried: `ShardWorker.__init__` does not catch -> three tries, then a lost shard and no error.
    with pytest.raises(UsageError, match=r"^no such decoder$"):
        _run(Recipe(worker_fails="no such decoder"), tmp_path / "d", iter([OneShard(0)]))


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    # Mutation tried: no `raise_setup_error` around the cards -> RayTaskError.
    with pytest.raises(LposekitError, match=r"^the weights are damaged$"):
        _run(Recipe(model_fails="the weights are damaged"), tmp_path / "d", iter([OneShard(0)]))


def test_a_model_works_on_as_many_calls_at_once_as_its_pool_says(tmp_path: Path) -> None:
    # Mutation tried: `max_concurrency` left out -> the first call waits for a second that never begins.
    result, _ = _run(Recipe(calls_meet=True, workers=1), tmp_path / "d", iter([OneShard(0)]))
    assert (result.reports, result.failures) == (1, {})


@pytest.mark.case(58, 85)
def test_a_shard_that_takes_too_much_memory_fails_with_the_reason_and_the_others_are_built(tmp_path: Path) -> None:
    # Mutation tried: no `limit_memory` in the worker -> 4 GiB are taken, and all shards are built.
    result, _ = _run(Recipe(greedy_shard=1), tmp_path / "d", iter([OneShard(0), OneShard(1), OneShard(2)]))
    assert result.reports == 2
    assert result.failures == {1: "its worker was refused more memory than 2147483648 bytes (--worker-memory-bytes)"}


@pytest.mark.case(58, 85)
@pytest.mark.parametrize("threads", [500, 1500])
def test_stacks_of_threads_are_small_and_too_many_of_them_name_the_limit(tmp_path: Path, threads: int) -> None:
    # Mutations tried: no `small_stacks` -> red at 500; no `RuntimeError` in `build` -> red at 1500.
    result, _ = _run(Recipe(worker_threads=threads), tmp_path / "d", iter([OneShard(0)]))
    assert result.reports == (1 if threads == 500 else 0)
    assert all("could start no further thread: 2147483648 bytes" in told for told in result.failures.values())
    assert len(result.failures) == 1 - result.reports


def test_a_model_that_dies_is_not_taken_for_the_worker_that_asked_it(tmp_path: Path) -> None:
    # Mutation tried: `RayActorError` looked at first -> "its worker died 3 times", and each of them is left behind.
    recipe = Recipe(kills_its_model=True, workers=1)
    result, _ = _run(recipe, tmp_path / "d", iter([OneShard(0), OneShard(1)]))
    assert result.reports == 1
    assert "worker died" not in result.failures[0]


@pytest.mark.case(90)
def test_a_module_that_a_worker_lacks_ends_the_run_and_names_the_extra(tmp_path: Path) -> None:
    # Mutation: no branch for it in `ShardWorker.build`: a lost shard, "No module named 'decord'".
    with pytest.raises(LposekitError, match=r"decord is not installed: `pip install 'lposekit\[video\]'`"):
        _run(Recipe(worker_lacks="decord"), tmp_path / "d", iter([OneShard(0)]))


@pytest.mark.case(91)
def test_a_run_says_what_it_waits_for_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutations: no `waiting_for` before the models; `_tell_work` left out of `_hand_out`.
    told: list[str] = []
    monkeypatch.setattr(BuildProgress, "waiting_for", lambda _, what: told.append(what))
    _run(Recipe(), tmp_path / "d", iter([OneShard(0), OneShard(1)]))
    assert told[:2] == ["Ray to start", "the models to load"]
    assert "shards 00000, 00001" in told
