"""Runs a recipe's plans on Ray: its pool of actors, its workers, one shard each at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from lposekit.errors import LposekitError
from lposekit.extras import missing_module_words
from lposekit.interrupts import Interrupts
from lposekit.json_values import JsonObject
from lposekit.recipe import ActorHandle, AnyRecipe, Claim, Plan, Pool, ShardReport, Worker
from lposekit.shards.card import bind_models
from lposekit.shards.layout import DatasetLayout
from pipelines.job.cluster import connected, machine
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult, SetupFailed, ShardRunner, raise_setup_error


class ShardWorker:
    """The Ray actor around a recipe's worker."""

    def __init__(self, recipe: AnyRecipe, claim: Claim, pool: Sequence[ActorHandle] | None, number: int) -> None:
        self._failure: LposekitError | None = None
        self._worker: Worker[Any] | None = None
        try:
            self._worker = recipe.worker(claim, pool, number)
        except LposekitError as error:
            # An actor that fails while it starts reaches the driver as a dead one, its message lost in a traceback.
            self._failure = error
        except ModuleNotFoundError as error:
            self._failure = LposekitError(missing_module_words(error))

    def build(self, plan: Plan) -> ShardReport:
        """Build one shard.

        Raises:
            SetupFailed: no worker can be made, here or anywhere.
        """
        if self._worker is None:
            assert self._failure is not None
            raise SetupFailed(self._failure)
        try:
            return self._worker.build(plan)
        except ModuleNotFoundError as error:  # one that is imported where it is needed, in every worker alike
            raise SetupFailed(LposekitError(missing_module_words(error))) from None


def run_on_ray(
    recipe: AnyRecipe, claim: Claim, plans: Iterator[Plan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    """Build shards on the Ray that the settings name, or on a local one."""
    settings = recipe.settings
    progress.waiting_for("Ray to start")
    with connected(settings.ray_address):
        import ray

        resources = machine()
        pool = recipe.pool(resources)
        progress.waiting_for("the workers to start" if pool is None else "the models to load")
        actors = None if pool is None else _start(pool)
        num_workers = settings.workers or resources.cpus
        worker_class = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(ShardWorker)
        numbers = itertools.count()

        def spawn() -> ActorHandle:
            return worker_class.remote(recipe, claim, actors, next(numbers))

        workers = [spawn() for _ in range(num_workers)]  # they start while the models load
        if actors is not None:
            with raise_setup_error():
                models: JsonObject = ray.get([actor.card.remote() for actor in actors])[0]
            bind_models(DatasetLayout(claim.root), models)
        progress.ready()
        runner = ShardRunner(
            spawn,
            workers=workers,
            num_workers=num_workers,
            attempts=settings.shard_attempts,
            on_report=progress.add,
            on_work=progress.in_work,
            stop=interrupts.stop,
            drop=interrupts.drop,
        )
        try:
            return runner.run(plans)
        finally:
            for actor in actors or ():
                ray.kill(actor)


def _start(pool: Pool) -> list[ActorHandle]:
    import ray

    remote = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_restarts=-1, max_task_retries=0)
    actor_class = remote(pool.actor_class)
    return [actor_class.remote(*pool.arguments) for _ in range(pool.size)]
