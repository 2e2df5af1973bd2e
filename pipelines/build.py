"""The loop for every kind of dataset: check -> claim -> plan -> run -> report.

What is particular to a kind stands in its recipe (`lposekit.recipe.Recipe`); how shards are run, on Ray or not, in what
is passed as `execute`. A retry goes the same way, with other plans.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator

from lposekit import __version__
from lposekit.errors import Outcome, UsageError
from lposekit.interrupts import Interrupts
from lposekit.recipe import AnyRecipe, Claim, Plan
from lposekit.setting_values import check_values
from lposekit.settings import changeable_settings, flatten_settings, settings_digest
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.files import allow_open_files
from lposekit.shards.layout import DatasetLayout, sum_counts
from lposekit.versions import card_versions, installed_versions
from pipelines.job.build_report import BuildReport
from pipelines.job.crew import run_on_ray
from pipelines.job.disk import require_free_space
from pipelines.job.lock import owned_folder
from pipelines.job.progress import BuildProgress
from pipelines.job.report_page import write_report
from pipelines.job.runner import GaveUp, RunResult

logger = logging.getLogger(__name__)

Execute = Callable[[AnyRecipe, Claim, Iterator[Plan], BuildProgress, Interrupts], RunResult]
"""Runs the plans until they are done or the user interrupts; default: `run_on_ray`."""


def build(recipe: AnyRecipe, *, dry_run: bool = False, execute: Execute = run_on_ray) -> BuildReport:
    """Build a dataset folder, or continue one.

    Args:
        dry_run: say what would be done.

    Raises:
        UsageError: settings, input, weights or folder cannot be used.
        LposekitError: the input is damaged, the disk is full, ...
    """
    layout = _layout(recipe)
    require_free_space(layout.root)
    allow_open_files()
    warnings = list(recipe.preflight(dry_run=dry_run))
    for warning in warnings:
        logger.warning(warning)
    if dry_run:
        return _dry_run(recipe, layout)
    card = dataset_card(recipe, warnings)
    with owned_folder(layout) as run_id:
        plans = recipe.plans(skip=set(layout.committed_shards()))  # finds what is wrong with the input
        claim_folder(layout, card)
        return _run(recipe, layout, run_id, plans, execute, num_rows=recipe.num_rows())


def rebuild(
    recipe: AnyRecipe, outcomes: frozenset[Outcome], *, dry_run: bool = False, execute: Execute = run_on_ray
) -> BuildReport:
    """Build the rows of a finished folder that ended in certain outcomes again, in place; the others stay as they are.

    Raises:
        UsageError, LposekitError: as `build`; or the input changed since the folder was built.
    """
    layout = _layout(recipe)
    if dry_run:
        counts = _outcomes(layout)
        number = sum(counts.get(outcome.value, 0) for outcome in outcomes)
        return BuildReport(layout.root, counts, 0, notes=(f"would fetch {number} rows again",), dry_run=True)
    require_free_space(layout.root)
    allow_open_files()
    recipe.preflight()
    with owned_folder(layout) as run_id:
        plans = recipe.retry_plans(layout, outcomes)
        return _run(recipe, layout, run_id, plans, execute)


def dataset_card(recipe: AnyRecipe, warnings: list[str]) -> DatasetCard:
    """The card of a folder that a run begins or continues."""
    flat = flatten_settings(recipe.settings)
    changeable = changeable_settings(type(recipe.settings))
    return DatasetCard(
        kind=recipe.kind,
        lposekit=__version__,
        versions=card_versions(recipe.packages),
        settings=flat,
        settings_digest=settings_digest(recipe.settings, excluded=changeable),
        fixed={
            "settings": {name: value for name, value in flat.items() if name not in changeable},
            "versions": installed_versions(recipe.fixed_packages),
            **recipe.fixed_facts(),
        },
        warnings=warnings,
        **recipe.card_facts(),
    )


def _layout(recipe: AnyRecipe) -> DatasetLayout:
    check_values(recipe.settings)
    if recipe.settings.output is None or not recipe.settings.input:
        raise UsageError("name the input with --input and the dataset folder with --output")
    return DatasetLayout(recipe.settings.output)


def _dry_run(recipe: AnyRecipe, layout: DatasetLayout) -> BuildReport:
    done = len(layout.committed_shards())
    shards = f"would write shards to {layout.root} ({done} are committed already)"
    return BuildReport(layout.root, _outcomes(layout), 0, notes=(*recipe.dry_run_notes(), shards), dry_run=True)


def _run(
    recipe: AnyRecipe,
    layout: DatasetLayout,
    run_id: str,
    plans: Iterator[Plan],
    execute: Execute,
    *,
    num_rows: int | None = None,
) -> BuildReport:
    """Run the plans, then complete card and report. Nothing is started where nothing is left to do."""
    start, done, first = time.monotonic(), _outcomes(layout), next(plans, None)
    result, progress, interrupts = RunResult(), BuildProgress(layout.log, num_rows, done), Interrupts()
    with interrupts.installed():  # to the end: a scheduler's second SIGTERM does not keep the report from being written
        if first is not None:
            with progress:
                claim = Claim(layout.root.resolve(), run_id)
                try:
                    result = execute(recipe, claim, itertools.chain([first], plans), progress, interrupts)
                except GaveUp:
                    update_card(layout)  # what was committed until then counts
                    raise
        interrupts.second_raises = True
        totals = update_card(layout)
        report_path = write_report(layout)
    return BuildReport(
        layout.root,
        totals.outcomes,
        totals.samples,
        failures=result.failures,
        stopped=result.stopped,
        min_success=recipe.settings.min_success,
        report_path=report_path,
        seconds=time.monotonic() - start,
        new_rows=progress.new_rows,
        windows=totals.windows,
        dropped_windows=totals.dropped_windows or {},
        timings_s=progress.timings_s,
    )


def _outcomes(layout: DatasetLayout) -> dict[str, int]:
    return sum_counts(layout.read_stats(shard).outcomes for shard in layout.committed_shards())
