"""Builds video shards in the test's own process: the production worker with its real decoder child, without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.interrupts import Interrupts
from pipelines.progress import BuildProgress
from pipelines.runner import RunResult
from pipelines.settings import BuildVideoSettings
from pipelines.video_shard import VideoJob, VideoPlan
from pipelines.video_shards import VideoWorker


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
