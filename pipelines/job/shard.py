"""Write one shard, of whatever kind: lock -> rows -> commit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

from lposekit.faults import fault_point
from lposekit.json_values import JsonObject
from lposekit.recipe import Claim, ShardReport
from lposekit.records import Columns
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult, ShardKind, commit_marker, outcome_counts, rows_table
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter
from lposekit.stage_times import StageTimes
from pipelines.job.activity import told
from pipelines.job.attempt import begin_attempt
from pipelines.job.lock import writer_lock


class ShardClock:
    """When a shard was begun, and how long ago that is, whatever is done to the clock of the machine meanwhile."""

    def __init__(self) -> None:
        self.start = time.time()
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def end(self) -> float:
        """Now, by a clock that was not touched since the start."""
        return self.start + self.seconds


class NetworkDown(Exception):
    """Nearly every fetch of the shard failed by the network: nothing of it is to be committed."""


def write_shard(
    claim: Claim,
    shard: int,
    rows: Generator[RowResult, None, None],
    kind: ShardKind,
    times: StageTimes,
    *,
    stats: JsonObject | None = None,
) -> ShardReport:
    """Take the rows in order, write their samples as they come, and commit the shard.

    Args:
        rows: closed at the end, whatever happens; nothing of it runs before the writers' lock is held.
        times: of the stages within `rows`; `commit` is added.
        stats: further fields of the commit marker.

    Returns:
        The shard's account; not committed if the rows ended in `NetworkDown`.

    Raises:
        StaleRun: the folder belongs to a newer run, the shard to a newer attempt, or the driver is gone.
        LposekitError: the disk is full.
    """
    layout = DatasetLayout(claim.root)
    clock, written = ShardClock(), list[Columns]()
    with writer_lock(layout, claim.run_id), contextlib.closing(rows):
        attempt = begin_attempt(layout, claim.run_id, shard)
        if attempt.is_done:
            return _report_of(layout.read_stats(shard), shard)
        writer = ShardWriter(layout, shard, attempt.name)
        try:
            with told(attempt, times, written):
                for row in rows:
                    _write_row(writer, row)
                    written.append(row.columns)
                fault_point("shard:before_commit")
                account = kind.account(written)
                with attempt.committing():
                    marker = commit_marker(written, clock.start, clock.end).with_facts({**account, **(stats or {})})
                    writer.commit(rows_table(written, kind.columns), marker, times)
        except NetworkDown as down:
            writer.discard()
            return ShardReport(
                shard, len(written), writer.num_samples, outcome_counts(written), committed=False, note=str(down)
            )
        except BaseException:
            writer.discard()
            raise
    timings_s = {**times.as_dict(), "total": round(clock.seconds, 3)}
    return ShardReport(shard, len(written), writer.num_samples, outcome_counts(written), timings_s, account=account)


def _report_of(stats: ShardStats, shard: int) -> ShardReport:
    """The account of a shard whose own report was lost with its worker."""
    return ShardReport(shard, stats.count, stats.num_samples, dict(stats.outcomes), dict(stats.timings_s or {}))


def _write_row(writer: ShardWriter, row: RowResult) -> None:
    for key, members in row.samples:
        writer.add(key, members)
    if row.thumbnail is not None:
        writer.add_thumbnail(row.key, row.outcome.value, row.thumbnail)
