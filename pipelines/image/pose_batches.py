"""Rows come in any order, go to the pose model in fixed batches, and come out in row order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lposekit.records import ImageRow
from pipelines.image.download import FetchedRow
from pipelines.image.pose_pool import PoseClient
from pipelines.image.rows import ImageRules, RowResult, seen_row, unseen_row

MAX_BATCHES_IN_FLIGHT = 4


@dataclass(slots=True)
class _Window:
    """A fixed run of neighbouring rows. Its pictures are one batch, so batches depend on the list alone."""

    first: int
    missing: int
    waiting: dict[int, FetchedRow] = field(default_factory=dict)
    results: dict[int, RowResult] = field(default_factory=dict)
    ticket: Any = None
    finished: bool = False


class PoseWindows:
    """Puts the fetched rows of one shard through the pose model.

    Args:
        rows: the shard's rows.
        poses: the pose model.
        rules: keep rule and storage.
        window: rows of one batch.
        emit: called once per row, in row order.
    """

    def __init__(
        self,
        rows: Sequence[ImageRow],
        poses: PoseClient,
        rules: ImageRules,
        window: int,
        emit: Callable[[RowResult], None],
    ) -> None:
        self._rows = rows
        self._poses = poses
        self._rules = rules
        self._size = window
        self._emit = emit
        self._windows = [_Window(i, min(window, len(rows) - i)) for i in range(0, len(rows), window)]
        self._in_flight: deque[_Window] = deque()
        self._next = 0

    def put_decided(self, position: int, result: RowResult) -> None:
        """A row that ended without the pose model."""
        window = self._windows[position // self._size]
        window.results[position] = result
        self._arrived(window)

    def put_fetched(self, position: int, fetched: FetchedRow) -> None:
        """A row that comes back from the fetch, with a picture or with the outcome that it ended in."""
        if fetched.outcome is not None:
            row = self._rows[position]
            self.put_decided(position, unseen_row(row, fetched.outcome, fetched.detail, fetched.image, fetched.sha256))
            return
        window = self._windows[position // self._size]
        window.waiting[position] = fetched
        self._arrived(window)

    def finish(self) -> None:
        """Wait for all batches; every row has been emitted afterwards."""
        while self._in_flight:
            self._collect(self._in_flight.popleft())
        missing = sum(window.missing for window in self._windows)
        assert not missing, f"{missing} rows never came back from the fetch"
        assert self._next == len(self._windows)

    def _arrived(self, window: _Window) -> None:
        window.missing -= 1
        assert window.missing >= 0, f"a row of the window from {window.first} came back twice"
        if window.missing:
            return
        if not window.waiting:
            self._complete(window)
            return
        images = [_picture(window.waiting[position]) for position in sorted(window.waiting)]
        window.ticket = self._poses.submit(images)
        self._in_flight.append(window)
        if len(self._in_flight) > MAX_BATCHES_IN_FLIGHT:
            self._collect(self._in_flight.popleft())

    def _collect(self, window: _Window) -> None:
        """Wait for a window's poses and turn them into results; its pictures are let go."""
        poses = self._poses.result(window.ticket)
        positions = sorted(window.waiting)
        assert len(poses) == len(positions), f"{len(poses)} answers for {len(positions)} pictures"
        for position, persons in zip(positions, poses, strict=True):
            fetched = window.waiting.pop(position)
            assert fetched.image is not None
            window.results[position] = seen_row(
                self._rows[position], fetched.image, fetched.sha256, persons, self._rules
            )
        window.ticket = None
        self._complete(window)

    def _complete(self, window: _Window) -> None:
        window.finished = True
        while self._next < len(self._windows) and self._windows[self._next].finished:
            done = self._windows[self._next]
            for position in sorted(done.results):
                self._emit(done.results.pop(position))
            self._next += 1


def _picture(fetched: FetchedRow) -> Any:
    assert fetched.image is not None, "a row without an outcome has a picture"
    return fetched.image.rgb_HWC
