"""Builds video shards in the test's own process: the production worker with its real decoder child, without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lposekit.interrupts import Interrupts
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult
from pipelines.video.recipe import VideoWorker
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.shard import VideoJob, VideoPlan


def execute_here(
    job: VideoJob, plans: Iterator[VideoPlan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    """What `run` takes as `execute`."""
    worker = VideoWorker(job)
    for plan in plans:
        progress.add(worker.build(plan))
    return RunResult()


def listed(folder: Path, rows: Sequence[Mapping[str, Any]], **changes: Any) -> BuildVideoSettings:
    """Settings of a build over these rows, into `folder`/d; a caption where a row has none."""
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps({"caption": "somebody walks", **row}) + "\n" for row in rows))
    return BuildVideoSettings(input=(str(path),), output=folder / "d", workers=1, **changes)
