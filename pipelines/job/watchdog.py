"""Ends a build in which nothing moves any more, and says what everybody waited for.

Time is counted while the driver itself runs, by a clock that nobody sets: neither a jump of the machine's clock, nor a
suspended machine or driver, looks like work that stands still.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lposekit.records import shard_name
from pipelines.job.activity import Activity
from pipelines.job.runner import GaveUp

LOOK_S = 1.0
MAX_STEP_S = 5.0
"""A longer time between two looks is time in which the driver stood still itself."""
MAX_LINES = 40


class Stalled(GaveUp):
    """Nothing moved for as long as the settings allow."""


@dataclass(slots=True)
class Watchdog:
    """Watches over the shards in work.

    `stall_s`: how long nothing may move. `activities`: what the workers tell, by shard. `clock`: seconds, monotonic.
    """

    stall_s: float
    activities: Callable[[], Mapping[int, Activity]]
    clock: Callable[[], float] = time.monotonic
    _still_s: float = 0.0
    _last_look: float | None = None
    _seen: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    _unchanged_s: dict[int, float] = field(default_factory=dict)

    def moved(self) -> None:
        """Something went on: a shard was committed, the models are loaded."""
        self._still_s = 0.0

    def look(self, in_work: Mapping[int, int]) -> None:
        """To be called again and again.

        Args:
            in_work: the shards that workers have, and at which attempt.

        Raises:
            Stalled: nothing has moved for `stall_s`; its last lines say what each worker waited for.
        """
        now = self.clock()
        if self._last_look is None:
            self._last_look = now
        if now - self._last_look < min(LOOK_S, self.stall_s / 10):
            return
        step_s, self._last_look = min(now - self._last_look, MAX_STEP_S), now
        self._still_s += step_s
        told = self.activities()
        for shard, activity in told.items():
            self._note(shard, activity, step_s)
        if self._still_s >= self.stall_s:
            raise Stalled(self._account(in_work, told))

    def _note(self, shard: int, activity: Activity, step_s: float) -> None:
        before = self._seen.get(shard)
        now = activity.attempt, activity.moves, activity.rows
        self._seen[shard] = now
        if now == before:
            self._unchanged_s[shard] += step_s
            return
        self._unchanged_s[shard] = 0.0
        begun_anew = before is None or before[0] != now[0]
        if not begun_anew or activity.moves or activity.rows:
            self.moved()

    def _account(self, in_work: Mapping[int, int], told: Mapping[int, Activity]) -> str:
        head = (
            f"nothing was fetched, decoded, judged or committed for {spoken(self._still_s)} (--stall-minutes). Run the "
            "same command again to resume; everything committed so far is valid. What was waited for:"
        )
        lines = [self._line(shard, attempt, told.get(shard)) for shard, attempt in sorted(in_work.items())]
        more = len(lines) - MAX_LINES
        lines = [*lines[:MAX_LINES], *([f"and {more} more shards"] if more > 0 else [])]
        return "\n  ".join([head, *(lines or ["the models and workers, which have not started"])])

    def _line(self, shard: int, attempt: int, activity: Activity | None) -> str:
        tried = f" (try {attempt})" if attempt > 1 else ""
        if activity is None:
            return f"shard {shard_name(shard)}{tried}: its worker, which has told nothing"
        silent_s = self._unchanged_s.get(shard, 0.0)
        waits = ", ".join(f"{what} for {spoken(seconds + silent_s)}" for what, seconds in activity.waits)
        more = f", and {activity.more} more" if activity.more else ""
        where = f"{activity.rows} rows done, process {activity.pid} on {activity.host}"
        return f"shard {shard_name(shard)}{tried}, {where}: {waits or 'between two stages'}{more}"


def spoken(seconds: float) -> str:
    """A duration for people: `45 s`, `31 min 5 s`, `2 h 3 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")
