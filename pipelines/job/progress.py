"""What the terminal shows while shards are built, and the one JSON line a shard in the log.

There is one rate, which the bar, the lines and the summary state alike: the rows that this run has brought, by the
seconds since its workers were ready.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.json_values import strict_json
from lposekit.recipe import ShardReport
from lposekit.records import shard_name
from lposekit.shards.files import open_own
from lposekit.stage_times import StageTimes
from lposekit.words import counted, per_second, seconds_in_words

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

QUIET_S = 30.0
"""A log is told what is waited for after so many seconds without a line."""
REASONS_SHOWN = 3
SHARDS_SHOWN = 4


class BuildProgress:
    """Counts rows as shards finish; draws a bar on a terminal, and logs lines elsewhere.

    Args:
        log_path: JSON lines, one a shard.
        total_rows: rows of the whole list if known, else None.
        done: outcome counts of shards that an earlier run committed.
        quiet_s: seconds without a line after which the log is told what is waited for.
    """

    def __init__(
        self, log_path: Path, total_rows: int | None, done: Mapping[str, int], *, quiet_s: float = QUIET_S
    ) -> None:
        self._log_path = log_path
        self._total_rows = total_rows
        self._outcomes = Counter(done)
        self._earlier_rows = sum(done.values())
        self._quiet_s = quiet_s
        self._start = time.monotonic()
        self._last_line = self._last_commit = self._start
        self.startup_s = 0.0
        self._times = StageTimes()
        self._bar: Progress | None = None
        self._waiting_for = "the workers to start"
        self._waiting_since = self._start
        self._closed = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> BuildProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(), TextColumn("{task.fields[rows]}"), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task("", total=self._total_rows, completed=self._earlier_rows, rows=self._rows())
            self._bar.start()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._ticker.is_alive():
            self._ticker.join()
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def waiting_for(self, what: str) -> None:
        """Say what the run waits for now: `the pose models to load`."""
        self._waiting_for, self._waiting_since = what, time.monotonic()
        self._show()

    def in_work(self, shards: Sequence[int]) -> None:
        """Say which shards are in work now."""
        names = ", ".join(shard_name(shard) for shard in sorted(shards)[:SHARDS_SHOWN])
        more = f" and {len(shards) - SHARDS_SHOWN} more" if len(shards) > SHARDS_SHOWN else ""
        self.waiting_for(f"{'shard' if len(shards) == 1 else 'shards'} {names}{more}" if shards else "the last shards")

    def ready(self) -> None:
        """The models are loaded and the workers wait: the speed is counted from here."""
        self.startup_s = self.seconds
        self._last_commit = time.monotonic()
        self._write({"event": "ready", "startup_s": self.startup_s})

    @property
    def new_rows(self) -> int:
        """Rows that this run has brought, beyond those that were there."""
        return sum(self._outcomes.values()) - self._earlier_rows

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds by stage of this run's shards, added up."""
        return self._times.as_dict()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def work_s(self) -> float:
        """Seconds from the moment the workers were ready to the last shard that came back: what the rate divides by."""
        return max(self._last_commit - self._start - self.startup_s, 0.0)

    @property
    def rate(self) -> float:
        """Rows of this run a second; 0 before the first shard."""
        return self.new_rows / self.work_s if self.work_s else 0.0

    def add(self, report: ShardReport) -> None:
        """Count a shard that came back."""
        self._write({"event": "shard", **asdict(report)})
        if not report.committed:
            return
        self._last_commit = time.monotonic()
        self._outcomes.update(report.outcomes)
        self._times.add_all({name: value for name, value in report.timings_s.items() if name != "total"})
        if self._bar is None:
            took = f", {seconds_in_words(report.timings_s['total'])}" if "total" in report.timings_s else ""
            words = f"{counted(report.num_rows, 'row')}, {_kept(report.outcomes)}{took}"
            self._log(f"shard {shard_name(report.shard)}: {words}; total: {self._rows()}, {self._state()}")
        self._show()

    def stalled(self, why: str) -> None:
        """Nothing moved for too long: the log keeps what was waited for."""
        self._write({"event": "stalled", "why": why})

    def _write(self, event: Mapping[str, object]) -> None:
        with open(open_own(self._log_path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as stream:
            stream.write(strict_json({"time": time.time(), **event}, sort_keys=True) + "\n")

    def _rows(self) -> str:
        rows = sum(self._outcomes.values())
        if self._total_rows is None:
            return counted(rows, "row")
        return f"{rows:,} of {counted(self._total_rows, 'row')}"

    def _state(self) -> str:
        """Kept rows, rate and time left of the whole."""
        parts = [_kept(self._outcomes)]
        if self.rate:
            parts.append(per_second(self.rate, "rows"))
            left = (self._total_rows or 0) - sum(self._outcomes.values())
            parts += [f"{seconds_in_words(left / self.rate)} left"] if left > 0 else []
        return ", ".join(parts)

    def _waiting(self) -> str:
        return f"waiting for {self._waiting_for}, {seconds_in_words(time.monotonic() - self._waiting_since)}"

    def _show(self) -> None:
        if self._bar is None:
            return
        words = f"{self._state()}; {self._waiting()}" if self.new_rows or self._earlier_rows else self._waiting()
        if self._closed.is_set():
            words = self._state()
        rows = sum(self._outcomes.values())
        self._bar.update(self._bar.task_ids[0], completed=rows, description=words, rows=self._rows())

    def _log(self, line: str) -> None:
        self._last_line = time.monotonic()
        logger.info("%s", line)

    def _tick(self) -> None:
        """Once a second, or more often where lines are due more often: what is waited for, and for how long."""
        while not self._closed.wait(min(1.0, self._quiet_s / 4)):
            self._show()
            if self._bar is None and time.monotonic() - self._last_line >= self._quiet_s:
                self._log(f"{self._rows()}; {self._waiting()}")


def _kept(outcomes: Mapping[str, int]) -> str:
    """`412 kept (dns 300, timeout 288)`, the most frequent reasons first; no brackets where nothing was dropped."""
    dropped = [(name, n) for name, n in Counter(outcomes).most_common() if name != "kept" and n]
    reasons = ", ".join(f"{name} {n:,}" for name, n in dropped[:REASONS_SHOWN])
    more = ", ..." if dropped[REASONS_SHOWN:] else ""
    return f"{outcomes.get('kept', 0):,} kept" + (f" ({reasons}{more})" if dropped else "")
