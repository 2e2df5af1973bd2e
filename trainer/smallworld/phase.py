"""One training of the small base's own: optimiser, moving average, and a checkpoint that the same command goes on from.

Not the project's trainer, which learns no base: a plain loop, so that the base owes nothing to what it is to prove.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lposekit.faults import fault_point
from lposekit.shards.files import replacing

log = logging.getLogger(__name__)

CLIP_NORM = 1.0
DECAY = 0.999
"""Of the moving average, once it has run for a thousand steps."""
FALLING = 0.4
"""Last part of the steps, over which the learning rate goes down to nothing."""
WARMUP_STEPS = 200


@dataclass(slots=True)
class Phase:
    """What learns, with its optimiser and moving average, and how far it is. ``average``: by the names of the modules'
    parameters."""

    path: Path
    modules: nn.ModuleDict
    steps: int
    lr: float
    save_s: float
    optimiser: torch.optim.AdamW
    average: dict[str, Tensor]
    step: int = 0

    @property
    def name(self) -> str:
        return self.path.stem

    def running(self) -> Iterator[int]:
        """The steps that are left, each to be taken with `learn`; a checkpoint every ``save_s`` seconds and at the
        end."""
        saved = time.monotonic()
        while self.step < self.steps:
            yield self.step
            if time.monotonic() - saved > self.save_s or self.step == self.steps:
                self.save()
                saved = time.monotonic()
            fault_point(f"smallworld:{self.name}_step_{self.step}")

    def learn(self, loss: Tensor) -> None:
        """One step of the optimiser, at the rate of its place in the schedule."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * rate(self.step, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), CLIP_NORM)
        self.optimiser.step()
        self.step += 1
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self.modules.named_parameters():
                self.average[name].lerp_(weight, 1 - decay)

    def save(self) -> None:
        state = {"step": self.step, "modules": self.modules.state_dict(), "average": self.average}
        with replacing(self.path) as partial:
            torch.save({**state, "optimiser": self.optimiser.state_dict()}, partial)

    def resume(self) -> None:
        """Goes on where the checkpoint is, if there is one."""
        if self.path.exists():
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            self.modules.load_state_dict(state["modules"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], state["step"]
            log.info("%s: resuming after step %d", self.name, self.step)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights that learn, for `put`."""
        return {name: weight.detach().clone() for name, weight in self.modules.named_parameters()}

    def put(self, weights: dict[str, Tensor]) -> None:
        """Puts weights in, such as the moving average."""
        with torch.no_grad():
            for name, weight in self.modules.named_parameters():
                weight.copy_(weights[name])


def open_phase(path: Path, modules: dict[str, nn.Module], steps: int, lr: float, save_s: float) -> Phase:
    """A phase at its start, or where its checkpoint ``path`` left it."""
    learning = nn.ModuleDict(modules)
    optimiser = torch.optim.AdamW(learning.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-2)
    phase = Phase(path, learning, steps, lr, save_s, optimiser, {})
    phase.average = phase.weights()
    phase.resume()
    return phase


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: up over the warm-up, then level, and down to nothing over the last part."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (FALLING * steps))
