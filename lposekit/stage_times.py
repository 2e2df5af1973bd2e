"""Where a shard's time goes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class StageTimes:
    """Seconds by stage, added up. Stages of several threads overlap, so their sum may exceed the time that passed."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

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
