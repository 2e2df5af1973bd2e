"""What the terminal shows while shards are built, and the one JSON line a shard in the log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.json_values import strict_json
from lposekit.recipe import ShardReport
from lposekit.shards.files import open_own
from lposekit.stage_times import StageTimes

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)


class BuildProgress:
    """Counts rows as shards finish; draws a bar on a terminal, and logs a line a shard elsewhere.

    Args:
        log_path: JSON lines, one a shard.
        total_rows: rows of the whole list if known, else None.
        done: outcome counts of shards that an earlier run committed.
    """

    def __init__(self, log_path: Path, total_rows: int | None, done: Mapping[str, int]) -> None:
        self._log_path = log_path
        self._total_rows = total_rows
        self._outcomes = Counter(done)
        self._earlier_rows = sum(done.values())
        self._start = time.monotonic()
        self.startup_s = 0.0
        self._times = StageTimes()
        self._bar: Progress | None = None

    def __enter__(self) -> BuildProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.add_task("", total=self._total_rows, completed=self._earlier_rows)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def ready(self) -> None:
        """The models are loaded and the workers wait: the speed is counted from here."""
        self.startup_s = self.seconds
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

    def add(self, report: ShardReport) -> None:
        """Count a shard that came back."""
        self._write({"event": "shard", **asdict(report)})
        if not report.committed:
            return
        self._outcomes.update(report.outcomes)
        self._times.add_all({name: value for name, value in report.timings_s.items() if name != "total"})
        if self._bar is not None:
            rows = sum(self._outcomes.values())
            self._bar.update(self._bar.task_ids[0], completed=rows, description=self._line())
        else:
            logger.info("shard %05d is done; so far %s", report.shard, self._line())

    def stalled(self, why: str) -> None:
        """Nothing moved for too long: the log keeps what was waited for."""
        self._write({"event": "stalled", "why": why})

    def _write(self, event: Mapping[str, object]) -> None:
        with open(open_own(self._log_path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as stream:
            stream.write(strict_json({"time": time.time(), **event}, sort_keys=True) + "\n")

    def _line(self) -> str:
        rows = self.new_rows
        seconds = max(self.seconds - self.startup_s, 1e-9)
        kept = self._outcomes.get("kept", 0)
        others = ", ".join(f"{name} {n}" for name, n in self._outcomes.most_common(5) if name != "kept")
        return f"{kept} kept, {rows / seconds:.1f} rows/s" + (f" ({others})" if others else "")
