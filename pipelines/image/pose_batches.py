"""Rows come in any order and go to the pose model in fixed batches.

The images of a fixed run of neighbouring rows are one batch. So batches depend on the list and the settings alone, and
the model's last digits with them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lposekit.stage_times import StageTimes
from pipelines.image.download import FetchedRow
from pipelines.pose.actor import Image, Poses
from pipelines.pose.pool import PendingPoses, PoseClient

MAX_BATCHES_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class PosedRow:
    """A row that came back from the fetch, and what the pose model found; None where it was not asked."""

    fetched: FetchedRow
    poses: Poses | None


def in_runs(
    fetched: Iterable[FetchedRow], positions: Mapping[str, int], num_rows: int, batch_size: int
) -> Iterator[list[FetchedRow]]:
    """The rows of one run of neighbours at a time, sorted, as soon as the last of them is there.

    Runs are as few as `batch_size` allows, and equally long but for one row: no model works on a full batch while
    another has the two images that were left.

    Args:
        positions: place in the shard, by key, of every row that `fetched` will bring.
        num_rows: rows of the shard, those that were never fetched among them.
        batch_size: most rows of a run.
    """
    num_runs = -(-num_rows // batch_size)
    run_of = {key: position * num_runs // num_rows for key, position in positions.items()}
    missing = Counter(run_of.values())
    waiting: dict[int, dict[int, FetchedRow]] = {run: {} for run in missing}
    for row in fetched:
        position, run = positions[row.row.key], run_of[row.row.key]
        assert position not in waiting[run], f"row {row.row.key} came back twice"
        waiting[run][position] = row
        missing[run] -= 1
        if not missing[run]:
            arrived = waiting.pop(run)
            yield [arrived[position] for position in sorted(arrived)]
    assert not waiting, f"{sum(missing.values())} rows never came back from the fetch"


def with_poses(
    runs: Iterable[Sequence[FetchedRow]], client: PoseClient, times: StageTimes, known: Collection[str] = ()
) -> Iterator[PosedRow]:
    """The rows with what the model finds on their images, run by run; a few batches are on their way at a time.

    Args:
        times: gets the model's own stages, `detect` and `pose`.
        known: keys of rows whose poses are known, so that the model is not asked.
    """
    in_flight: deque[tuple[Sequence[FetchedRow], PendingPoses | None]] = deque()
    for rows in runs:
        images = [_image(row) for row in rows if _is_asked(row, known)]
        in_flight.append((rows, client.submit(images) if images else None))
        if len(in_flight) > MAX_BATCHES_IN_FLIGHT:
            yield from _answered(*in_flight.popleft(), times, known)
    while in_flight:
        yield from _answered(*in_flight.popleft(), times, known)


def _answered(
    rows: Sequence[FetchedRow], pending: PendingPoses | None, times: StageTimes, known: Collection[str]
) -> Iterator[PosedRow]:
    poses: list[Poses] = []
    if pending is not None:
        with times.waiting("pose", f"{rows[0].row.key} and the {len(rows) - 1} rows after it"):
            answered = pending.result()
        times.add_all(answered.seconds)
        poses = answered.poses
    asked = [row for row in rows if _is_asked(row, known)]
    assert len(poses) == len(asked), f"{len(poses)} answers for {len(asked)} images"
    by_key = {row.row.key: found for row, found in zip(asked, poses, strict=True)}
    return (PosedRow(row, by_key.get(row.row.key)) for row in rows)


def _is_asked(row: FetchedRow, known: Collection[str]) -> bool:
    return row.outcome is None and row.row.key not in known


def _image(row: FetchedRow) -> Image:
    assert row.image is not None, "a row without an outcome has an image"
    return row.image.rgb_HWC
