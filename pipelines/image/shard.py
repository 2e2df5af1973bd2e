"""Build one image shard: fetch -> decode -> pose -> keep? -> encode -> commit. Knows nothing of Ray."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lposekit.errors import Outcome
from lposekit.faults import fault_point
from lposekit.records import Person
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.writer import ShardWriter
from pipelines.image.breaker import CircuitBreaker
from pipelines.image.download import FetchedRow
from pipelines.image.plan import ShardPlan
from pipelines.image.pose_batches import PoseWindows
from pipelines.image.pose_pool import PoseClient
from pipelines.image.rows import ImageRules, RowResult, rows_table, seen_row, unseen_row
from pipelines.image.settings import BuildImagesSettings
from pipelines.job.lock import writer_lock
from pipelines.job.shard_report import ShardReport, commit_marker

Download = Callable[..., None]
MIN_ROWS_FOR_BREAKER = 20


@dataclass(frozen=True, slots=True)
class ImageJob:
    """What all shards of a run share; plain values that travel to the workers."""

    root: Path
    run_id: str
    settings: BuildImagesSettings
    rules: ImageRules
    allowed_local: frozenset[str] = frozenset()
    """host:port pairs that may be private: the quickstart's own sample server."""


@dataclass(frozen=True, slots=True)
class KnownPose:
    """A row whose poses are known, and whose pixels are wanted again."""

    sha256: str
    persons: list[Person]


@dataclass(frozen=True, slots=True)
class RetryInput:
    """What a shard's earlier build left, by position: rows that stay as they are, and poses that are known."""

    carried: Mapping[int, RowResult] = field(default_factory=dict)
    known: Mapping[int, KnownPose] = field(default_factory=dict)


@dataclass(slots=True)
class _Account:
    """What a shard's rows came to, while they are written."""

    writer: ShardWriter
    dedup: bool
    results: list[RowResult]
    seen_sha256: set[str]

    def emit(self, result: RowResult) -> None:
        """Write one row, in row order."""
        sha256 = result.columns.get("sha256")
        if self.dedup and result.members and sha256 in self.seen_sha256:
            result = _as_duplicate(result)
        elif sha256 and result.members:
            self.seen_sha256.add(sha256)
        if result.members:
            self.writer.add(result.key, result.members)
        if result.thumbnail is not None:
            self.writer.add_thumbnail(result.key, result.outcome.value, result.thumbnail)
        # The bytes are on the disk now; keep the account only.
        self.results.append(replace(result, members={}, thumbnail=None))


def _as_duplicate(result: RowResult) -> RowResult:
    message = f"{Outcome.DUPLICATE.value}: the same bytes came earlier in this shard"
    columns = result.columns | {
        "outcome": Outcome.DUPLICATE.value,
        "status": "failed_to_download",
        "error_message": message,
    }
    return replace(result, outcome=Outcome.DUPLICATE, columns=columns, members={}, thumbnail=None)


def build_image_shard(
    plan: ShardPlan,
    job: ImageJob,
    poses: PoseClient,
    download: Download,
    *,
    retry: RetryInput | None = None,
    cancel: threading.Event | None = None,
) -> ShardReport:
    """Fetch, judge and write one shard.

    Args:
        plan: the shard's rows; those that the plan decided (metadata filter) are not fetched.
        download: ``download(rows, sink, work_dir, cancel)``, as `pipelines.image.download.download_rows` bound to its
            opener and decoder.
        retry: what an earlier build of this shard left and this one takes over.

    Returns:
        The shard's account. It is committed, unless nearly every fetch failed by the network; then nothing is written.

    Raises:
        LposekitError: the disk is full, or the folder belongs to a newer run.
    """
    layout = DatasetLayout(job.root)
    with writer_lock(layout, job.run_id), _work_dir() as work_dir:
        start = time.time()
        writer = ShardWriter(layout, plan.shard, job.run_id)
        account = _Account(writer, job.settings.fetch.dedup, [], set())
        try:
            _put_rows(plan, job, poses, download, account, retry or RetryInput(), Path(work_dir), cancel)
            report = _report(plan.shard, account, job.settings, retry or RetryInput())
            if not report.committed:
                writer.discard()
                return report
            fault_point("shard:before_commit")
            end = time.time()
            stats = stats_of(account.results, start, end) | {"captions_trimmed": plan.captions_trimmed}
            writer.commit(rows_table(account.results), stats)
        except BaseException:
            writer.discard()
            raise
        return replace(report, timings_s=report.timings_s | {"total": time.time() - start})


def _work_dir() -> tempfile.TemporaryDirectory[str]:
    # After a cancel, downloads under way end on their own, and may leave a file a moment after the folder was emptied.
    return tempfile.TemporaryDirectory(prefix="lposekit-", ignore_cleanup_errors=True)


def _put_rows(
    plan: ShardPlan,
    job: ImageJob,
    poses: PoseClient,
    download: Download,
    account: _Account,
    retry: RetryInput,
    work_dir: Path,
    cancel: threading.Event | None,
) -> None:
    rows = [planned.row for planned in plan.rows]
    windows = PoseWindows(rows, poses, job.rules, job.settings.pose.batch_size, account.emit)
    to_fetch = []
    for position, planned in enumerate(plan.rows):
        if position in retry.carried:
            windows.put_decided(position, retry.carried[position])
        elif planned.outcome is not None:
            windows.put_decided(position, unseen_row(planned.row, planned.outcome, planned.detail))
        else:
            to_fetch.append(planned.row)
    positions = {row.key: position for position, row in enumerate(rows)}

    def sink(fetched: FetchedRow) -> None:
        position = positions[fetched.row.key]
        if position in retry.known and fetched.outcome is None:
            windows.put_decided(position, _with_known_pose(fetched, retry.known[position], job.rules))
        else:
            windows.put_fetched(position, fetched)

    if to_fetch:
        download(to_fetch, sink, work_dir, cancel)
    windows.finish()


def _report(shard: int, account: _Account, settings: BuildImagesSettings, retry: RetryInput) -> ShardReport:
    outcomes = Counter(result.outcome for result in account.results)
    limit = settings.network_failure_limit
    breaker = CircuitBreaker(limit if limit is not None else 1.0, settings.network_failure_window, MIN_ROWS_FOR_BREAKER)
    breaker.add(result.outcome for i, result in enumerate(account.results) if i not in retry.carried)
    down = breaker.is_open
    return ShardReport(
        shard=shard,
        num_rows=len(account.results),
        num_samples=account.writer.num_samples,
        outcomes={outcome.value: number for outcome, number in sorted(outcomes.items())},
        committed=not down,
        note=breaker.describe() if down else "",
    )


def _with_known_pose(fetched: FetchedRow, known: KnownPose, rules: ImageRules) -> RowResult:
    """A row whose poses were found in an earlier build: only its pixels were missing."""
    assert fetched.image is not None
    if fetched.sha256 != known.sha256:
        return unseen_row(fetched.row, Outcome.HASH_MISMATCH, "the picture changed since its poses were found")
    return seen_row(fetched.row, fetched.image, fetched.sha256, known.persons, rules)


def stats_of(results: Sequence[RowResult], start: float, end: float) -> dict[str, Any]:
    """The commit marker of rows. ``start`` and ``end`` are Unix times."""
    return commit_marker([result.columns for result in results], start, end)
