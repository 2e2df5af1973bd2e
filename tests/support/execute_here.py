"""Builds shards in the test's own process: the production worker of any recipe, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lposekit.interrupts import Interrupts
from lposekit.recipe import Claim, Plan, Recipe
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult


def execute_here(
    recipe: Recipe[Any], claim: Claim, plans: Iterator[Plan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    """What `build` takes as `execute`: one shard after the other."""
    worker = recipe.worker(claim)
    for plan in plans:
        progress.add(worker.build(plan))
    return RunResult()
