"""How a build ended: the outcome table, the laws, the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lposekit.errors import Interrupted, LimitsError, Outcome
from lposekit.stage_times import describe_times
from lposekit.words import counted, per_second, seconds_in_words

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
    work_s: float = 0.0
    """Seconds that the new rows took, from the moment the workers were ready: what the rate divides by."""
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    foresees: bool = False
    """Of a dry run: whether `outcomes` are those that a run would give; else they are those of now."""
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
    def rate(self) -> float:
        """New rows a second, as the progress of the run stated it."""
        return self.new_rows / self.work_s if self.work_s else 0.0

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
            "rows_per_s": round(self.rate, 3),
            "timings_s": dict(self.timings_s),
            "exit_code": self.exit_code,
            "notes": list(self.notes),
        } | (
            {"windows": self.windows, "dropped_windows": dict(self.dropped_windows)} if self.windows is not None else {}
        )

    def summary_lines(self) -> list[str]:
        """The end of a run on a terminal: outcome table, law, what to do next."""
        lines = [*self.notes, *self._table()] if self.num_rows or not self.notes else [*self.notes]
        if self.windows is not None:
            dropped = ", ".join(f"{name} {number}" for name, number in self.dropped_windows.items()) or "none"
            clips = counted(self.num_samples, "clip")
            lines.append(f"{counted(self.windows, 'clip window')} = {clips} + dropped: {dropped}")
        if self.new_rows and self.work_s:
            rest = f"; start and report: {seconds_in_words(self.seconds - self.work_s)}" if self.seconds else ""
            words = f"{counted(self.new_rows, 'row')} in {seconds_in_words(self.work_s)}"
            lines.append(f"{words} ({per_second(self.rate, 'rows')}){rest}")
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
        rows_in = counted(self.num_rows, "row")
        if self.dry_run:
            title = "outcome that {} of {} would have:" if self.foresees else "{} in {} so far:"
            return [title.format(rows_in, self.root), *rows]
        return [f"outcome of {rows_in}, {counted(self.num_samples, 'sample')} in {self.root}:", *rows]

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
