"""The loop for every kind of dataset: check -> claim -> plan -> run -> report.

What is particular to a kind stands in its recipe (`lposekit.recipe.Recipe`); how shards are run, on Ray or not, in what
is passed as `execute`. A retry goes the same way, with other plans.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from lposekit.errors import Outcome, UsageError
from lposekit.interrupts import Interrupts
from lposekit.recipe import AnyRecipe, Claim, Plan, dataset_card
from lposekit.setting_values import check_values
from lposekit.shards.card import claim_folder, refuse_other_folder, update_card
from lposekit.shards.files import allow_open_files
from lposekit.shards.layout import DatasetLayout, sum_counts
from lposekit.words import counted
from pipelines.job.build_report import BuildReport
from pipelines.job.crew import run_on_ray
from pipelines.job.disk import require_free_space
from pipelines.job.lock import owned_folder
from pipelines.job.progress import BuildProgress
from pipelines.job.report_page import write_report
from pipelines.job.runner import GaveUp, RunResult

logger = logging.getLogger(__name__)

REPORTED_KINDS = ("image", "video", "poses")
"""Of datasets that have a page: latents show nothing."""
NOTHING = "nothing to do"
"""How a note begins that says so."""
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
    card = dataset_card(recipe, warnings)
    if dry_run:
        refuse_other_folder(layout, card)
        return _dry_run(recipe, layout)
    with owned_folder(layout) as run_id:
        plans = recipe.plans(skip=set(layout.committed_shards()))  # finds what is wrong with the input
        claim_folder(layout, card)
        nothing = f"{NOTHING}: {_all_committed(layout)}"
        return _run(recipe, layout, run_id, plans, execute, nothing, num_rows=recipe.num_rows(), done=_outcomes(layout))


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
        note = f"would do {counted(number, 'row')} again" if number else _no_such_rows(outcomes)
        return BuildReport(layout.root, counts, 0, notes=(note,), dry_run=True)
    require_free_space(layout.root)
    allow_open_files()
    recipe.preflight()
    with owned_folder(layout) as run_id:
        plans = recipe.retry_plans(layout, outcomes)
        return _run(recipe, layout, run_id, plans, execute, _no_such_rows(outcomes))


def with_note(report: BuildReport, note: str | None) -> BuildReport:
    """A report that says something more, and so no longer that there is nothing to do."""
    if note is None:
        return report
    others = [text for text in report.notes if not text.startswith(NOTHING)]
    return replace(report, notes=(note, *others))


def _no_such_rows(outcomes: frozenset[Outcome]) -> str:
    names = ", ".join(outcome.value for outcome in Outcome if outcome in outcomes)
    return f"{NOTHING}: no row ended in {names}"


def _all_committed(layout: DatasetLayout) -> str:
    shards = len(layout.committed_shards())
    return f"all {shards:,} shards are committed" if shards != 1 else "its one shard is committed"


def _layout(recipe: AnyRecipe) -> DatasetLayout:
    check_values(recipe.settings)
    if recipe.settings.output is None or not recipe.settings.input:
        raise UsageError("name the input with --input and the dataset folder with --output")
    return DatasetLayout(recipe.settings.output)


def _dry_run(recipe: AnyRecipe, layout: DatasetLayout) -> BuildReport:
    committed = layout.committed_shards()
    if committed and next(recipe.plans(skip=set(committed)), None) is None:
        notes = (f"{NOTHING}: {_all_committed(layout)}",)
        return BuildReport(layout.root, _outcomes(layout), 0, notes=notes, dry_run=True)
    done = len(committed)
    shards = f"would write to {layout.root} ({counted(done, 'shard')} committed already)"
    return BuildReport(layout.root, _outcomes(layout), 0, notes=(*recipe.dry_run_notes(), shards), dry_run=True)


def _run(
    recipe: AnyRecipe,
    layout: DatasetLayout,
    run_id: str,
    plans: Iterator[Plan],
    execute: Execute,
    nothing: str,
    *,
    num_rows: int | None = None,
    done: Mapping[str, int] | None = None,
) -> BuildReport:
    """Run the plans, then complete card and report. Nothing is started where nothing is left to do; `nothing` says it.

    Args:
        num_rows: rows of the whole, if known.
        done: outcomes of rows that count as brought before; None: the plans do rows again that are there.
    """
    start, first = time.monotonic(), next(plans, None)
    result, progress, interrupts = RunResult(), BuildProgress(layout.log, num_rows, done or {}), Interrupts()
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
        report_path = write_report(layout) if recipe.kind in REPORTED_KINDS else None
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
        work_s=progress.work_s,
        notes=(nothing,) if first is None else (),
        windows=totals.windows,
        dropped_windows=totals.dropped_windows or {},
        timings_s=progress.timings_s,
    )


def _outcomes(layout: DatasetLayout) -> dict[str, int]:
    return sum_counts(layout.read_stats(shard).outcomes for shard in layout.committed_shards())
