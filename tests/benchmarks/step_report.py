"""The figures of training steps: memory of a step, and how time and memory are shown.

Imports no model code, so that a process with another diffusers can take the same measurements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.rounds import Spread, Timing, ratio

HEADINGS = ("wall s", "CPU s", "peak GiB", "total GiB")
MEMORY_NOTE = "peak GiB: growth of the process (or of the GPU's use) in a step; total GiB: its use at that peak."


@dataclass(frozen=True)
class Memory:
    """GiB by which a step makes the process (or the GPU's use) grow, and GiB in use at that peak."""

    peak_gib: float
    total_gib: float


@dataclass(frozen=True)
class Figures:
    """One form of a step: its timed rounds and its memory."""

    timings: Sequence[Timing]
    memory: Memory

    @property
    def wall_s(self) -> list[float]:
        return [timing.wall_s for timing in self.timings]

    @property
    def cpu_s(self) -> list[float]:
        return [timing.cpu_s for timing in self.timings]

    def cells(self) -> list[Any]:
        """A row under `HEADINGS`."""
        return [Spread.of(self.wall_s), Spread.of(self.cpu_s), self.memory.peak_gib, self.memory.total_gib]

    def as_json(self) -> dict[str, float]:
        wall, cpu, peak, total = self.cells()
        values = {"wall_s": wall.middle, "cpu_s": cpu.middle, "peak_gib": peak, "total_gib": total}
        return {name: round(value, 3) for name, value in values.items()}


def step_memory(step: Callable[[], object]) -> Memory:
    """Runs a step and measures its memory."""
    before = _reset_peak()
    step()
    peak = _peak_bytes()
    return Memory((peak - before) / 2**30, peak / 2**30)


def compared(above: Figures, below: Figures) -> dict[str, Spread | float]:
    """Ratios of two forms: of the times round by round, of the memory once."""
    return {
        "wall": ratio(above.wall_s, below.wall_s),
        "CPU": ratio(above.cpu_s, below.cpu_s),
        "peak memory": above.memory.peak_gib / below.memory.peak_gib,
        "total memory": above.memory.total_gib / below.memory.total_gib,
    }


def ratio_line(name: str, ratios: Mapping[str, Spread | float]) -> str:
    """Such as `plain / ours: wall 2.08 (2.01-2.10), peak memory 2.01`."""
    said = (f"{what} {value:.2f}" if isinstance(value, float) else f"{what} {value}" for what, value in ratios.items())
    return f"{name}: {', '.join(said)}"


def ratios_json(ratios: Mapping[str, Spread | float]) -> dict[str, float]:
    return {name: round(value if isinstance(value, float) else value.middle, 3) for name, value in ratios.items()}


def _reset_peak() -> int:
    """Starts a new peak; returns the use right now, in bytes."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # give freed memory back first, or the step would grow into it unseen
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _process_bytes("VmRSS")


def _peak_bytes() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _process_bytes("VmHWM")


def _process_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
