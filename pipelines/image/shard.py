"""The rows of one image shard: fetch -> decode -> pose -> keep? -> encode, one after the other on this page.

Each stage takes rows from the one above it and hands rows on; nothing runs before the row below is asked for, so a slow
pose model slows the downloads down, and memory is bounded. Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lposekit.errors import Outcome
from lposekit.records import ImageRow, Person
from lposekit.shards.rows import RowResult
from lposekit.stage_times import StageTimes
from pipelines.fetch.removals import DETAIL, Removals, traits
from pipelines.image.breaker import CircuitBreaker
from pipelines.image.download import FetchedRow
from pipelines.image.plan import ShardPlan
from pipelines.image.pose_batches import PosedRow, in_runs, with_poses
from pipelines.image.rows import ImageRules, posed_row, unposed_row
from pipelines.job.shard import NetworkDown
from pipelines.pose.pool import PoseClient

MIN_ROWS_FOR_BREAKER = 20


class Download(Protocol):
    """Fetches and decodes rows: `pipelines.image.download.download_rows`, bound to its opener and decoder."""

    def __call__(
        self, rows: Sequence[ImageRow], work_dir: Path, times: StageTimes, cancel: threading.Event | None = None
    ) -> Generator[FetchedRow, None, None]: ...


@dataclass(frozen=True, slots=True)
class ImageStages:
    """What a worker has loaded for its shards, and the settings of their rows."""

    download: Download
    poses: PoseClient
    rules: ImageRules
    batch_size: int
    dedup: bool
    network_failure_limit: float | None
    network_failure_window: int
    removals: Removals


@dataclass(frozen=True, slots=True)
class KnownPose:
    """A row whose poses are known, and whose pixels are wanted again."""

    sha256: str
    persons: list[Person]


@dataclass(frozen=True, slots=True)
class EarlierRows:
    """What a shard's earlier build left, by key: rows that stay as they are, and poses that are known."""

    carried: Mapping[str, RowResult] = field(default_factory=dict)
    known: Mapping[str, KnownPose] = field(default_factory=dict)


def image_rows(
    plan: ShardPlan,
    stages: ImageStages,
    work_dir: Path,
    times: StageTimes,
    *,
    earlier: EarlierRows | None = None,
    cancel: threading.Event | None = None,
) -> Generator[RowResult, None, None]:
    """What each row of a shard leaves behind, in row order.

    Args:
        plan: the shard's rows; those that the plan decided (metadata filter), or that were removed from the dataset,
            are not fetched.
        work_dir: an empty folder for what the download leaves on the way.
        earlier: what an earlier build of this shard left and this one takes over.

    Raises:
        NetworkDown: after the last row, if nearly every fetch failed by the network.
    """
    earlier = earlier or EarlierRows()
    positions = {planned.row.key: position for position, planned in enumerate(plan.rows)}
    decided = _decided_rows(plan, earlier, stages.removals)
    wanted = [planned.row for planned in plan.rows if planned.row.key not in decided]
    with contextlib.closing(stages.download(wanted, work_dir, times, cancel)) as fetched:
        places = {row.key: positions[row.key] for row in wanted}
        runs = in_runs(fetched, places, len(plan.rows), stages.batch_size)
        posed = with_poses(runs, stages.poses, times, earlier.known)
        stored = (_stored(row, earlier.known.get(row.fetched.row.key), stages, times) for row in posed)
        rows = _in_row_order(itertools.chain(decided.values(), stored), positions)
        if stages.dedup:
            rows = _without_duplicates(rows)
        yield from _unless_network_down(rows, earlier.carried, stages)


def _decided_rows(plan: ShardPlan, earlier: EarlierRows, removals: Removals) -> dict[str, RowResult]:
    """Rows that need no fetch, by key."""
    decided = {}
    for planned in plan.rows:
        key = planned.row.key
        if key in earlier.carried:
            decided[key] = earlier.carried[key]
        elif removals and removals.name(traits(planned.row.url, keys=[key])):
            decided[key] = unposed_row(planned.row, Outcome.REMOVED, DETAIL)
        elif planned.outcome is not None:
            decided[key] = unposed_row(planned.row, planned.outcome, planned.detail)
    return decided


def _stored(posed: PosedRow, known: KnownPose | None, stages: ImageStages, times: StageTimes) -> RowResult:
    """Judge a row and encode what is kept of it."""
    fetched, rules = posed.fetched, stages.rules
    with times.stage("encode", fetched.row.key):
        if stages.removals.name(traits(sha256=[fetched.sha256])):
            return unposed_row(fetched.row, Outcome.REMOVED, DETAIL)
        if fetched.outcome is not None:
            return unposed_row(fetched.row, fetched.outcome, fetched.detail, fetched.image, fetched.sha256)
        assert fetched.image is not None, "a row without an outcome has an image"
        if known is None:
            assert posed.poses is not None, f"row {fetched.row.key} has no answer of the pose model"
            return posed_row(fetched.row, fetched.image, fetched.sha256, posed.poses, rules)
        if fetched.sha256 != known.sha256:
            return unposed_row(fetched.row, Outcome.HASH_MISMATCH, "the image changed since its poses were found")
        return posed_row(fetched.row, fetched.image, fetched.sha256, known.persons, rules)


def _in_row_order(rows: Iterable[RowResult], positions: Mapping[str, int]) -> Iterator[RowResult]:
    """Rows that wait for an earlier one are held encoded."""
    waiting: dict[int, RowResult] = {}
    next_position = 0
    for row in rows:
        waiting[positions[row.key]] = row
        while next_position in waiting:
            yield waiting.pop(next_position)
            next_position += 1
    assert next_position == len(positions), f"{len(positions) - next_position} rows are missing"


def _without_duplicates(rows: Iterable[RowResult]) -> Iterator[RowResult]:
    """Turn down an image whose bytes came in an earlier row of the shard."""
    seen: set[str] = set()
    for row in rows:
        sha256 = row.columns.get("sha256")
        if row.samples and sha256 in seen:
            row = _as_duplicate(row)
        elif row.samples and sha256:
            seen.add(sha256)
        yield row


def _as_duplicate(row: RowResult) -> RowResult:
    message = f"{Outcome.DUPLICATE.value}: the same bytes came earlier in this shard"
    columns = {
        **row.columns,
        "outcome": Outcome.DUPLICATE.value,
        "status": "failed_to_download",
        "error_message": message,
    }
    return replace(row, outcome=Outcome.DUPLICATE, columns=columns, samples=(), thumbnail=None)


def _unless_network_down(
    rows: Iterable[RowResult], carried: Mapping[str, RowResult], stages: ImageStages
) -> Iterator[RowResult]:
    """Hand the rows on; raise `NetworkDown` at the end if nearly all that were tried failed by the network."""
    limit = stages.network_failure_limit
    breaker = CircuitBreaker(1.0 if limit is None else limit, stages.network_failure_window, MIN_ROWS_FOR_BREAKER)
    for row in rows:
        if row.key not in carried:
            breaker.add([row.outcome])
        yield row
    if breaker.is_open:
        raise NetworkDown(breaker.describe())
