"""What `run` returns, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lposekit.errors import Interrupted
from lposekit.words import counted
from trainer.run.build import step_tflop
from trainer.run.data import RunData
from trainer.run.memory import GIB, GPU_GIB, ROOM, MemoryNeed, Way, memory_need, ways_to_fit
from trainer.run.train_module import TrainModule
from trainer.settings import TrainSettings, batch_size, max_steps


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The end of a training run. `last`: the newest value of everything that was measured."""

    stage: int
    output: Path
    first_step: int
    step: int
    max_steps: int
    interrupted: bool
    seconds: float
    last: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return Interrupted.exit_code if self.interrupted else 0

    def as_json(self) -> dict[str, object]:
        return {
            "stage": self.stage,
            "output": str(self.output),
            "first_step": self.first_step,
            "step": self.step,
            "max_steps": self.max_steps,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "last": dict(self.last),
        }

    def summary_lines(self) -> list[str]:
        """The end of a run on a terminal."""
        if self.first_step >= self.max_steps:
            return [f"{self.output} has all of its {counted(self.max_steps, 'step')}; raise --max-steps to go on."]
        what = "interrupted" if self.interrupted else "done"
        lines = [
            f"stage {self.stage} {what} at step {self.step} of {self.max_steps} in {self.seconds:.0f} s: {self.output}"
        ]
        if "loss" in self.last:
            speed = f"at the end {self.last['samples_per_s']:.3g} samples/s"
            if self.last["mfu"]:  # 0 where --watch.no-mfu left it out
                speed += f", {self.last['tflops']:.3f} TFLOP/s ({self.last['mfu']:.0%} of this device's matmul peak)"
            lines.append(f"loss {self.last['loss']:.4f}, {speed}, waiting for data {self.last['data_wait']:.1%}")
        panel = [f"{name.removeprefix('probe/').replace('_', ' ')} {self.last[name]:.4f}" for name in self._probes()]
        if panel:
            question = "is the pose learned?" if self.stage == 1 else "is the order of frames learned?"
            lines.append(f"{question} loss with {', '.join(panel)}")
        if self.interrupted:
            lines.append("run the same command again to resume")
        return [*lines, f"look at it: lposekit view {self.output}"]

    def _probes(self) -> list[str]:
        return [name for name in self.last if name.startswith("probe/")]


@dataclass(frozen=True, slots=True)
class DryRunReport:
    """What a run would cost. `fits`: size of a GPU in GiB -> the flags with which the run fits it in bf16, None if it
    does not."""

    stage: int
    parameters: int
    trained_parameters: int
    steps: int
    batch_size: int
    micro_batch: int
    tflop_per_step: float
    memory: MemoryNeed
    fits: Mapping[int, Way | None]
    exit_code: int = 0

    def as_json(self) -> dict[str, object]:
        need = self.memory
        plain = ("stage", "parameters", "trained_parameters", "steps", "batch_size", "micro_batch", "tflop_per_step")
        return {
            **{name: getattr(self, name) for name in plain},
            "weight_gib": need.weights / GIB,
            "optimizer_gib": (need.moments + need.average) / GIB,
            "activation_gib": need.kept / GIB,
            "memory_gib": need.peak / GIB,
            "saved_bytes": need.kept,
            "peak_bytes": need.peak,
            "fits_gpu": {str(size): None if way is None else asdict(way) for size, way in self.fits.items()},
            "exit_code": self.exit_code,
        }

    def summary_lines(self) -> list[str]:
        need, passes = self.memory, f"in micro-batches of {self.micro_batch}"
        parts = {
            "their Winograd transforms": need.transformed,
            "AdamW": need.moments,
            "moving average": need.average,
            "forward and backward pass": need.step,
        }
        return [
            f"stage {self.stage}: {counted(self.steps, 'step')} of {counted(self.batch_size, 'sample')}, {passes}",
            f"parameters: {self.parameters / 1e6:.2f} M, trained: {self.trained_parameters / 1e6:.2f} M",
            f"arithmetic: {self.tflop_per_step:.4g} TFLOP a step on each process",
            f"memory: at most about {need.peak / GIB:.2f} GiB on each process",
            f"  weights {need.weights / GIB:.2f}"
            + "".join(f", {name} {size / GIB:.2f}" for name, size in parts.items() if size),
            f"  kept for the backward pass {need.kept / GIB:.2f}, encoding at most {need.encode / GIB:.2f}",
            *(f"a GPU of {size} GB in bf16: {self._settings_for(way)}" for size, way in self.fits.items()),
        ]

    def _settings_for(self, way: Way | None) -> str:
        if way is None:
            return "too small, even with --compute.gradient-checkpointing"
        return f"{way.flags()} (about {way.peak / GIB:.1f} GiB)"


def describe_run(settings: TrainSettings, train_module: TrainModule, data: RunData) -> DryRunReport:
    """The report of a dry run."""
    modules = (train_module.stage, train_module.encoders.vae, train_module.encoders.text_encoder)
    ways = list(ways_to_fit(settings, train_module, data, torch.bfloat16))
    return DryRunReport(
        stage=settings.stage,
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in train_module.trained.values()),
        steps=max_steps(settings),
        batch_size=batch_size(settings),
        micro_batch=data.loader.split.micro_batch,
        tflop_per_step=step_tflop(train_module, data),
        memory=memory_need(settings, train_module, data),
        fits={size: next((way for way in ways if way.peak <= ROOM * size * GIB), None) for size in GPU_GIB},
    )
