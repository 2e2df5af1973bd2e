"""Contract of the report of a build: its exit code and its diagnosis follow from the outcomes, at the limits too."""

from __future__ import annotations

from pathlib import Path

import pytest

from lposekit.errors import LimitsError
from pipelines.job.build_report import BuildReport


def _report(min_success: float | None = None, *, dry_run: bool = False, **outcomes: int) -> BuildReport:
    return BuildReport(Path("d"), outcomes, outcomes.get("kept", 0), min_success=min_success, dry_run=dry_run)


@pytest.mark.parametrize(("min_success", "code"), [(0.49, 0), (0.5, 0), (0.51, LimitsError.exit_code)])
def test_exactly_the_success_that_was_asked_for_is_enough(min_success: float, code: int) -> None:
    # Mutation tried: `<=` in place of `<` in `exit_code` -> red.
    assert _report(min_success, kept=5, dns=5).exit_code == code


def test_rows_that_were_judged_are_successes_and_those_that_were_not_decoded_are_none() -> None:
    # Mutation tried: `judged` with the stage `decode` -> red.
    assert _report(kept=1, no_person=2, few_keypoints=1, pose_failed=1).success == 1
    assert _report(kept=1, corrupt=1, too_small=1, not_image=1).success == 0.25


def test_a_dry_run_promises_no_success() -> None:
    # Mutation tried: no look at `dry_run` in `exit_code` -> red.
    assert _report(0.5, dry_run=True, dns=10).exit_code == 0


@pytest.mark.parametrize(("kept", "is_low"), [(29, True), (30, False)])
def test_a_low_success_is_explained_below_three_in_ten(kept: int, is_low: bool) -> None:
    # Mutation tried: `>` in place of `>=` in `_diagnosis` -> red.
    lines = _report(kept=kept, dns=100 - kept).summary_lines()
    assert any("check the resolver" in line for line in lines) == is_low
