"""Runs a recipe's plans on Ray: its pool of actors, its workers, one shard each at a time."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lposekit.errors import Interrupted, LposekitError
from lposekit.extras import missing_module_words
from lposekit.interrupts import Interrupts
from lposekit.json_values import JsonObject
from lposekit.kept_out import kept_out
from lposekit.recipe import ActorHandle, AnyRecipe, Claim, Plan, Pool, SetupFailed, ShardReport, Worker
from lposekit.shards.card import bind_models, common_models
from lposekit.shards.layout import DatasetLayout
from pipelines.job.activity import read_activities
from pipelines.job.cluster import connected, machine
from pipelines.job.liveness import Liveness, ray_liveness
from pipelines.job.lock import BEAT_S, beat
from pipelines.job.memory import limit_memory, refused_memory, small_stacks
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import WAIT_S, RunResult, ShardRunner, raise_setup_error
from pipelines.job.watchdog import Stalled, Watchdog


class ShardWorker:
    """The Ray actor around a recipe's worker."""

    def __init__(self, recipe: AnyRecipe, claim: Claim, pool: Sequence[ActorHandle] | None, number: int) -> None:
        self._memory_bytes = recipe.settings.worker_memory_bytes
        self._failure: LposekitError | None = None
        self._worker: Worker[Any] | None = None
        small_stacks()  # before the worker starts its threads
        if pool is not None:
            without_torch()
        try:
            self._worker = recipe.worker(claim, pool, number)
            limit_memory(self._memory_bytes)
        except LposekitError as error:
            # An actor that fails while it starts reaches the driver as a dead one, its message lost in a traceback.
            self._failure = error
        except ModuleNotFoundError as error:
            self._failure = LposekitError(missing_module_words(error))

    def build(self, plan: Plan) -> ShardReport:
        """Build one shard.

        Raises:
            SetupFailed: no worker can be made, here or anywhere. LposekitError: it takes too much memory.
        """
        if self._worker is None:
            assert self._failure is not None
            raise SetupFailed(self._failure)
        try:
            return self._worker.build(plan)
        except ModuleNotFoundError as error:  # one that is imported where it is needed, in every worker alike
            raise SetupFailed(LposekitError(missing_module_words(error))) from None
        except (MemoryError, RuntimeError) as error:
            if (why := refused_memory(error, self._memory_bytes)) is None:
                raise
            raise LposekitError(why) from error


@dataclass(slots=True)
class CrewWatch:
    """Ends the wait for a Ray that died, and for work that stands still; gives the workers the driver's beat."""

    claim: Claim
    liveness: Liveness
    watchdog: Watchdog
    progress: BuildProgress
    _beat_at: float = 0.0

    def look(self, in_work: Mapping[int, int]) -> None:
        if time.monotonic() - self._beat_at > BEAT_S:
            self._beat_at = time.monotonic()
            beat(DatasetLayout(self.claim.root), self.claim.run_id)
        self.liveness.check()
        try:
            self.watchdog.look(in_work)
        except Stalled as stalled:
            self.progress.stalled(str(stalled))
            raise

    def moved(self) -> None:
        self.watchdog.moved()


def without_torch() -> None:
    """Import webdataset, which writes the shards, without torch, which it imports for its readers: where the models run
    in processes of their own, nothing else needs torch, and it takes half of a worker's start."""
    with kept_out("torch"):
        import webdataset  # noqa: F401


def run_on_ray(
    recipe: AnyRecipe, claim: Claim, plans: Iterator[Plan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    """Build shards on the Ray that the settings name, or on a local one."""
    settings = recipe.settings
    progress.waiting_for("Ray to start")
    with connected(settings.ray_address, (settings.workers or os.cpu_count() or 1) * recipe.bytes_in_flight):
        import ray

        liveness, layout = ray_liveness(), DatasetLayout(claim.root)
        watchdog = Watchdog(60 * settings.stall_minutes, lambda: read_activities(layout, claim.run_id))
        watch = CrewWatch(claim, liveness, watchdog, progress)
        resources = machine()
        pool = recipe.pool(resources)
        progress.waiting_for("the workers to start" if pool is None else "the models to load")
        actors = None if pool is None else _start(pool)
        first = _first(plans, settings.workers or resources.cpus, interrupts)
        num_workers = len(first)  # not more workers than shards
        worker_class = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(ShardWorker)
        numbers = itertools.count()

        def spawn() -> ActorHandle:
            return worker_class.remote(recipe, claim, actors, next(numbers))

        with liveness.asked():
            workers = [spawn() for _ in range(num_workers)]  # they start while the models load
            if actors is not None:
                bind_models(layout, _loaded(actors, watch, interrupts))
            progress.ready()
            watch.moved()
            runner = ShardRunner(
                spawn,
                workers=workers,
                num_workers=num_workers,
                attempts=settings.shard_attempts,
                on_report=progress.add,
                on_work=progress.in_work,
                stop=interrupts.stop,
                drop=interrupts.drop,
                watch=watch,
            )
            try:
                return runner.run(_all(first, plans))
            finally:
                for actor in actors or ():
                    ray.kill(actor)


def _first(plans: Iterator[Plan], count: int, interrupts: Interrupts) -> deque[Plan]:
    first: deque[Plan] = deque()
    while len(first) < count and not interrupts.stop.is_set() and (plan := next(plans, None)) is not None:
        first.append(plan)
    return first


def _all(first: deque[Plan], plans: Iterator[Plan]) -> Iterator[Plan]:
    """Lets go of each plan as it hands it out."""
    while first:
        yield first.popleft()
    yield from plans


def _loaded(actors: Sequence[ActorHandle], watch: CrewWatch, interrupts: Interrupts) -> JsonObject:
    """What the actors have loaded, once all of them have loaded it.

    Raises:
        LposekitError: an actor's own, or the wait makes no sense. Interrupted: the user does not want to wait.
    """
    import ray

    cards = [actor.card.remote() for actor in actors]
    while len(ray.wait(cards, num_returns=len(cards), timeout=WAIT_S)[0]) < len(cards):
        watch.look({})
        if interrupts.stop.is_set():
            raise Interrupted("stopped while the models were loaded; the same command continues")
    with raise_setup_error():
        return common_models(ray.get(cards))


def _start(pool: Pool) -> list[ActorHandle]:
    import ray

    remote = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_restarts=-1, max_task_retries=0)
    actor_class = remote(pool.actor_class).options(max_concurrency=pool.calls_at_once)
    return [actor_class.remote(*pool.arguments) for _ in range(pool.size)]
