"""What `run` returns, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lposekit.errors import Interrupted
from lposekit.words import counted
from trainer.run.build import activation_bytes, step_tflop
from trainer.run.cost import weight_bytes
from trainer.run.data import RunData
from trainer.run.train_module import TrainModule
from trainer.settings import TrainSettings, max_steps

ADAM_BYTES = 12
"""Of one trained float32 weight: its gradient and AdamW's two moments."""


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
    """What a run would cost."""

    stage: int
    parameters: int
    trained_parameters: int
    steps: int
    batch_size: int
    tflop_per_step: float
    weight_gib: float
    optimizer_gib: float
    activation_gib: float
    exit_code: int = 0

    @property
    def memory_gib(self) -> float:
        return self.weight_gib + self.optimizer_gib + self.activation_gib

    def as_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in (*self.__dataclass_fields__, "memory_gib")}

    def summary_lines(self) -> list[str]:
        return [
            f"stage {self.stage}: {counted(self.steps, 'step')} of {counted(self.batch_size, 'sample')}",
            f"parameters: {self.parameters / 1e6:.2f} M, trained: {self.trained_parameters / 1e6:.2f} M",
            f"arithmetic: {self.tflop_per_step:.4g} TFLOP a step on each process",
            f"memory: about {self.memory_gib:.2f} GiB on each process",
            f"  weights {self.weight_gib:.2f}, gradients and AdamW {self.optimizer_gib:.2f}",
            f"  kept for the backward pass {self.activation_gib:.2f}",
        ]


def describe_run(settings: TrainSettings, train_module: TrainModule, data: RunData) -> DryRunReport:
    """The report of a dry run."""
    modules = (train_module.stage, train_module.encoders.vae, train_module.encoders.text_encoder)
    trained = sum(parameter.numel() for parameter in train_module.trained.values())
    return DryRunReport(
        stage=settings.stage,
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
        trained_parameters=trained,
        steps=max_steps(settings),
        batch_size=settings.batch_size,
        tflop_per_step=step_tflop(train_module, data),
        weight_gib=weight_bytes(*modules) / 2**30,
        optimizer_gib=trained * ADAM_BYTES / 2**30,
        activation_gib=activation_bytes(train_module, data) / 2**30,
    )
