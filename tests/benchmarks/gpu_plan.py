"""What `tests.benchmarks.gpu` measures, in order of value, on which sizes; and the file of what is done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.model.kernels import Kernel

FUSED: tuple[Kernel, ...] = ("flash", "cudnn", "efficient")


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of a table. group: the process that measures it. options: what it is told there."""

    name: str
    group: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where and on what is measured. side: of the images. micro: the usual micro-batch of each stage. small_base: for
    what needs real runs of several steps. rounds: timed steps, after two that warm up. folder: for data and runs.
    most: samples of any pass; None: as many as a cell says."""

    device: str
    base: str
    small_base: str
    folder: Path
    side: int
    frames: int
    micro: Mapping[int, int]
    rounds: int
    kernels: tuple[Kernel, ...]
    compile_options: Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None

    def dataset(self, stage: int) -> Path:
        return self.folder / ("images" if stage == 1 else "clips")

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Place:
        micro = {int(stage): count for stage, count in values["micro"].items()}
        kernels = tuple(values["kernels"])
        return cls(**{**values, "folder": Path(values["folder"]), "micro": micro, "kernels": kernels})


def _steps(stage: int, form: str, micro: int, *, cached: bool = True, attention: str = "measured") -> Cell:
    latents = "cached" if cached else "encoded"
    name = f"stage {stage} {form}, {latents}, micro-batch {micro}, attention {attention}"
    return Cell(name, f"stage {stage} {form}", {"micro": micro, "cached": cached, "attention": attention})


def _cells() -> Iterator[Cell]:
    yield Cell("device", "device")
    usual = {1: 32, 2: 4}
    for stage, micro in usual.items():
        yield _steps(stage, "compiled", micro)
        yield Cell(f"stage {stage} attention kernels", f"stage {stage} compiled", {"what": "attention"})
        yield Cell(f"stage {stage} checkpoint", f"stage {stage} compiled", {"what": "checkpoint"})
    for stage in usual:
        yield Cell(f"resume stage {stage} eager", "resume", {"stage": stage, "compiled": False})
    for stage in usual:
        for gib in (80, 24, 16):
            yield Cell(f"limit stage {stage} {gib} GiB", "limits", {"stage": stage, "gib": gib})
    for stage, micro in usual.items():
        yield _steps(stage, "eager", micro)
        for kernel in FUSED:
            yield _steps(stage, "eager", micro, attention=kernel)
    yield from _pose_cells()
    for stage, micro in usual.items():
        yield _steps(stage, "compiled", micro, cached=False)
        yield _steps(stage, "compiled", micro // 4)
        yield _steps(stage, "compiled", micro * 2)
    for stage, micro in usual.items():
        yield _steps(stage, "eager", micro, cached=False)
        yield _steps(stage, "eager", micro // 4)
    yield Cell("group norm", "norms")
    for stage in usual:
        yield Cell(f"resume stage {stage} compiled", "resume", {"stage": stage, "compiled": True})


def _pose_cells() -> Iterator[Cell]:
    for precision in ("float32", "bfloat16", "half"):
        for batch in (32, 128, 512):
            yield Cell(f"pose {precision} batch {batch}", "pose", {"precision": precision, "batch": batch})
    for precision, batch, calls in (("half", 16, 1), ("half", 16, 2), ("float32", 16, 2), ("half", 64, 2)):
        options = {"precision": precision, "batch": batch, "calls_at_once": calls}
        yield Cell(f"pose stage {precision} batch {batch}, {calls} at once", "pose stage", options)


CELLS: tuple[Cell, ...] = tuple(_cells())


def note(done: Path, cell: Cell, **values: Any) -> None:
    """One line about a cell, on the disk at once."""
    with done.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"cell": cell.name, **values}) + "\n")


def read_done(done: Path) -> tuple[dict[str, dict[str, Any]], str | None]:
    """What is known of each cell, and the one that began last and did not end."""
    lines = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    found: dict[str, dict[str, Any]] = {}
    begun: str | None = None
    for line in map(json.loads, lines):
        if line.get("begun"):
            begun = line["cell"]
        else:
            found[line["cell"]] = line
            begun = None
    return found, begun
