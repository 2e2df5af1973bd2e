"""The figures of training steps, and how they are shown: a table, and the bars that they must pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

COLUMNS = ("s", "cpu_s", "tflop", "tflops", "saved_gib", "peak_gib", "total_gib")
HEADINGS = ("s", "CPU s", "TFLOP", "TFLOP/s", "saved GiB", "peak GiB", "total GiB")


@dataclass(frozen=True)
class Figures:
    """Of one form: median seconds and CPU seconds (all threads), arithmetic of a step, memory kept for the backward
    pass, growth of the process (or of the GPU's use) in a step, and its use at that peak."""

    seconds: float
    cpu_seconds: float
    tflop: float
    saved_gib: float
    peak_gib: float
    total_gib: float

    @property
    def tflops(self) -> float:
        return self.tflop / self.seconds

    def as_json(self) -> dict[str, float]:
        values = (self.seconds, self.cpu_seconds, self.tflop, self.tflops)
        memory = (self.saved_gib, self.peak_gib, self.total_gib)
        return {name: round(value, 3) for name, value in zip(COLUMNS, (*values, *memory), strict=True)}


@dataclass(frozen=True)
class Ratio:
    """One comparison. bar: the least that it must be, None for a figure that is only told."""

    name: str
    value: float
    bar: float | None = None

    def line(self, *, judged: bool) -> str:
        said = f"{self.name}: {self.value:.2f}"
        if self.bar is None:
            return said
        verdict = f", {'passed' if self.value >= self.bar else 'MISSED'}" if judged else ""
        return f"{said} (bar: at least {self.bar:g}{verdict})"


def report_lines(
    heading: str, figures: Mapping[str, Figures], ratios: Sequence[Ratio], *, judged: bool
) -> Iterator[str]:
    """A table of the forms and a line for each ratio. judged: whether the sizes are those that the bars are for."""
    width = max(len(name) for name in figures)
    yield heading
    yield " ".join([f"{'form':{width}}", *(f"{heading:>9}" for heading in HEADINGS)])
    for name, one in figures.items():
        yield " ".join([f"{name:{width}}", *(f"{value:9.3f}" for value in one.as_json().values())])
    yield from (ratio.line(judged=judged) for ratio in ratios)
    yield ""
