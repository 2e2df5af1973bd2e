"""What every timed benchmark shares: alternating rounds, wall and CPU time, their scatter, versions, skipping."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, TypeVar

Form = TypeVar("Form")
Measured = TypeVar("Measured")
SKIPPED = 77
"""Exit code of a benchmark that cannot run here (the convention of Automake's tests)."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one pass: by the clock, and of CPU, user and system, in this process and all its children."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, and the lowest and highest of them."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], scale: float = 1.0) -> Spread:
        """`scale` multiplies every value, such as 1000 / images for milliseconds an image."""
        scaled = [scale * value for value in values]
        return cls(statistics.median(scaled), min(scaled), max(scaled))

    def __str__(self) -> str:
        digits = 0 if self.middle >= 1000 else 1 if self.middle >= 100 else 2
        return f"{self.middle:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def cpu_s() -> float:
    """CPU seconds of this process and of all its descendants, living and dead.

    Of the dead only those that their parents waited for, so not of Ray's workers: for those see `process_tree`.
    """
    import psutil

    total = time.process_time()
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    total += dead.ru_utime + dead.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.Error:  # it ended just now: counted among the dead at the next call
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def timed(work: Callable[[], object]) -> Timing:
    """One pass of `work`."""
    cpu, wall = cpu_s(), time.perf_counter()
    work()
    wall = time.perf_counter() - wall
    return Timing(wall, cpu_s() - cpu)


def timed_here(work: Callable[[], object]) -> Timing:
    """One pass of `work` that starts no process: short passes would see the time that looking for children takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(forms: Mapping[Form, Callable[[], Measured]], rounds: int) -> dict[Form, list[Measured]]:
    """Run every form once a round, each round beginning with the next one: drift of the machine hits all alike."""
    results: dict[Form, list[Measured]] = {name: [] for name in forms}
    names = list(forms)
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            results[name].append(forms[name]())
    return results


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Round by round, so that what slowed a whole round down cancels out."""
    return Spread.of([above / below for above, below in zip(numerators, denominators, strict=True)])


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with two digits, `Spread` as median (lowest-highest)."""
    cells = [list(headings), *([f"{v:.2f}" if isinstance(v, float) else str(v) for v in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def versions(*names: str) -> str:
    """One line with the installed versions of these distributions."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return "versions: " + ", ".join(found)


def skip(reason: str) -> NoReturn:
    """End a benchmark that cannot run here; the page then shows the reason."""
    print(f"skipped: {reason}", flush=True)
    sys.exit(SKIPPED)
