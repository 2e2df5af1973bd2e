"""How a build ended: the outcome table, the laws, the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lposekit.errors import Interrupted, LimitsError, Outcome
from lposekit.stage_times import describe_times

LOW_SUCCESS = 0.3


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The end of a build, for people and machines.

    `outcomes` are all rows of the folder, earlier runs included; `expected_rows` is the list's length if known.
    """

    root: Path
    outcomes: Mapping[str, int]
    num_samples: int
    failures: Mapping[int, str] = field(default_factory=dict)
    stopped: str | None = None
    min_success: float | None = None
    report_path: Path | None = None
    seconds: float = 0.0
    new_rows: int = 0
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    windows: int | None = None
    dropped_windows: Mapping[str, int] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage of the shards that this run built, added up over its workers."""

    @property
    def num_rows(self) -> int:
        return sum(self.outcomes.values())

    @property
    def success(self) -> float:
        """Share of the rows whose image or video was fetched, decoded and judged."""
        judged = sum(self.outcomes.get(outcome.value, 0) for outcome in Outcome if outcome.facts.judged)
        return judged / self.num_rows if self.num_rows else 0.0

    @property
    def exit_code(self) -> int:
        if self.stopped == "interrupted":
            return Interrupted.exit_code
        if self.failures or self.stopped:
            return LimitsError.exit_code
        too_few = self.min_success is not None and not self.dry_run and self.success < self.min_success
        return LimitsError.exit_code if too_few else 0

    def as_json(self) -> dict[str, object]:
        return {
            "output": str(self.root),
            "rows": self.num_rows,
            "samples": self.num_samples,
            "outcomes": dict(self.outcomes),
            "success": round(self.success, 4),
            "uncommitted": {f"{shard:05d}": why for shard, why in sorted(self.failures.items())},
            "stopped": self.stopped,
            "report": str(self.report_path) if self.report_path else None,
            "seconds": round(self.seconds, 3),
            "new_rows": self.new_rows,
            "timings_s": dict(self.timings_s),
            "exit_code": self.exit_code,
            "notes": list(self.notes),
        } | (
            {"windows": self.windows, "dropped_windows": dict(self.dropped_windows)} if self.windows is not None else {}
        )

    def summary_lines(self) -> list[str]:
        """The end of a run on a terminal: outcome table, law, what to do next."""
        lines = [*self.notes, *self._table()]
        if self.windows is not None:
            dropped = ", ".join(f"{name} {number}" for name, number in self.dropped_windows.items()) or "none"
            lines.append(f"{self.windows} clip windows = {self.num_samples} clips + dropped: {dropped}")
        if self.new_rows and self.seconds:
            lines.append(f"{self.new_rows} rows in {self.seconds:.1f} s ({self.new_rows / self.seconds:.1f} rows/s)")
        lines += [f"shard {shard:05d} is not committed: {why}" for shard, why in sorted(self.failures.items())]
        if self.stopped:
            lines.append(f"stopped: {self.stopped}. Run the same command again to resume.")
        lines += self._diagnosis()
        if self.report_path:
            lines.append(f"report: {self.report_path}")
        if self.timings_s:
            lines.append(f"time by stage: {describe_times(self.timings_s)}")
        return lines

    def _table(self) -> list[str]:
        width = max((len(name) for name in self.outcomes), default=0)
        ranked = sorted(self.outcomes.items(), key=lambda item: (-item[1], item[0]))
        rows = [f"  {name:<{width}}  {number:>8}  {number / self.num_rows:6.1%}" for name, number in ranked]
        return [f"outcome of {self.num_rows} rows, {self.num_samples} samples in {self.root}:", *rows]

    def _diagnosis(self) -> list[str]:
        if not self.num_rows or self.success >= LOW_SUCCESS:
            return []
        ranked = sorted(
            ((self.outcomes.get(outcome.value, 0), outcome) for outcome in Outcome if outcome.facts.advice),
            reverse=True,
        )
        number, worst = ranked[0]
        if not number:
            return []
        share = number / self.num_rows
        return [f"only {self.success:.0%} of the rows succeeded; {share:.0%} {worst.value}: {worst.facts.advice}"]
