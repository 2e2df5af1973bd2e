"""What every job over a dataset folder does around its shards: resume, progress, Ray, card, report, account."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lposekit.interrupts import Interrupts
from lposekit.shards.card import update_card
from lposekit.shards.layout import DatasetLayout, sum_counts
from pipelines.job.build_report import BuildReport
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult

logger = logging.getLogger(__name__)

P = TypeVar("P")
RunPlans = Callable[[Iterator[P], BuildProgress, Interrupts], RunResult]
"""Builds shards, on Ray usually, until they are done or the user interrupts."""


def run_job(
    layout: DatasetLayout,
    plans: Iterator[P],
    run_plans: RunPlans[P],
    *,
    total_rows: int | None,
    min_success: float | None,
) -> BuildReport:
    """Build the planned shards, then complete card and report. The folder is locked by the caller.

    Nothing is started when nothing is left to do.

    Args:
        plans: the shards that are not committed yet.
        run_plans: builds them.
        total_rows: rows of the whole input, if known.
    """
    start = time.monotonic()
    done = _outcomes(layout)
    first = next(plans, None)
    result, progress, interrupts = RunResult(), BuildProgress(layout.log, total_rows, done), Interrupts()
    if first is not None:
        with interrupts.installed(), progress:
            result = run_plans(itertools.chain([first], plans), progress, interrupts)
    totals: dict[str, Any] = update_card(layout)["totals"]
    return BuildReport(
        layout.root,
        totals["outcomes"],
        totals["samples"],
        failures=result.failures,
        stopped=result.stopped,
        min_success=min_success,
        report_path=write_report(layout),
        seconds=time.monotonic() - start,
        new_rows=sum(progress.outcomes.values()) - sum(done.values()),
        windows=totals.get("windows"),
        dropped_windows=totals.get("dropped_windows", {}),
    )


def _outcomes(layout: DatasetLayout) -> dict[str, int]:
    return sum_counts(layout.read_stats(shard)["outcomes"] for shard in layout.committed_shards())


def write_report(layout: DatasetLayout) -> Path | None:
    """Write the HTML report in a process of its own, so that reading all rows costs the driver no memory.

    A report that cannot be written costs nothing but a warning; `lposekit view` tries again.
    """
    if not layout.committed_shards():
        return None
    command = [sys.executable, "-m", "lposekit.cli", "view", str(layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        logger.warning("the report was not written (%s). `lposekit view %s` tries again.", why, layout.root)
        return None
    return layout.report
