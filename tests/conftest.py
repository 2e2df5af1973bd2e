"""Fixtures that many tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lposekit.shards.layout import DatasetLayout

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # img2dataset's albumentations calls home otherwise


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script: tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One small Ray on this machine for all tests that need no cluster of their own."""
    from pipelines.job.cluster import connected

    with connected(None):
        yield


def report_here(layout: DatasetLayout) -> Path | None:
    """The report of a build, without a process of its own, which takes a second to start."""
    from lposekit.report.html import write_report

    return write_report(layout.root) if layout.committed_shards() else None


@pytest.fixture(scope="session", autouse=True)
def reports_are_written_here() -> Iterator[None]:
    """Builds in the tests' process write their report there too; those of the commands do as users' do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.build.write_report", report_here)
        patch.setattr("pipelines.image.refilter.write_report", report_here)
        patch.setattr("pipelines.remove.write_report", report_here)
        patch.setattr("pipelines.made_of.write_report", report_here)
        yield
