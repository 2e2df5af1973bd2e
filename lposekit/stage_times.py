"""Where a shard's time goes, and what it waits for right now."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OpenStage:
    """A stage that has begun and not ended: with what, and how many seconds ago."""

    name: str
    what: str
    seconds: float


class StageTimes:
    """Seconds by stage, added up. Stages of several threads overlap, so their sum may exceed the time that passed."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: dict[int, tuple[str, str, float]] = {}
        self._numbers = itertools.count()
        self._moves = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str, what: str = "") -> Iterator[None]:
        """Count the time spent inside.

        Args:
            what: the row, the host, ...: said of a build that makes no progress.
        """
        start = time.perf_counter()
        try:
            with self.waiting(name, what):
                yield
        finally:
            self.add(name, time.perf_counter() - start)

    @contextlib.contextmanager
    def waiting(self, name: str, what: str = "") -> Iterator[None]:
        """Say what is being waited for; its time is counted elsewhere."""
        with self._lock:
            number = next(self._numbers)
            self._open[number] = name, what, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._open[number]
                self._moves += 1

    def beat(self) -> None:
        """Note that the work goes on within a stage, as a frame decoded does."""
        with self._lock:
            self._moves += 1

    @property
    def moves(self) -> int:
        """Stages that have ended, and beats. Where it stands still, nothing moves."""
        return self._moves

    def open_stages(self) -> list[OpenStage]:
        """The stages under way, the oldest first."""
        now = time.monotonic()
        with self._lock:
            under_way = list(self._open.values())
        return [OpenStage(name, what, now - since) for name, what, since in under_way]

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with the time that it takes to get each of them counted."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.add(name, time.perf_counter() - start)
            yield item

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def add_all(self, seconds: Mapping[str, float]) -> None:
        for name, value in seconds.items():
            self.add(name, value)

    def as_dict(self) -> dict[str, float]:
        """Seconds by stage, in the order in which the stages first ended, to the microsecond."""
        with self._lock:
            return {name: round(seconds, 6) for name, seconds in self._seconds.items()}


def sum_times(times: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by stage of several shards."""
    total = StageTimes()
    for each in times:
        total.add_all(each)
    return total.as_dict()


def describe_times(seconds: Mapping[str, float]) -> str:
    """One line, the largest first: `pose 61 %, fetch 20 %, decode 12 %, ...`."""
    whole = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * value / whole:.0f} %" for name, value in ranked if value) if whole else ""
