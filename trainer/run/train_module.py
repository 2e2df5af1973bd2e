"""The model with everything that a step changes: optimiser, learning rate, moving average, loss scale."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from lposekit.errors import LposekitError
from lposekit.faults import fault_point
from lposekit.json_values import JsonValue
from trainer.data.batch import Batch
from trainer.run.checkpoint import (
    EMA,
    OPTIMIZER,
    RANDOM,
    WEIGHTS,
    Checkpoint,
    copy_weights,
    optimizer_tensors,
    restore_optimizer,
)
from trainer.run.distributed import World
from trainer.run.encoders import Encoders
from trainer.settings import OptimSettings, TrainSettings, learning_rate, max_steps
from trainer.stages import StageModel

log = logging.getLogger(__name__)

OVERFLOWS_ALLOWED = 20
"""Steps in a row whose gradients may overflow under a loss scale, which each of them halves: enough to find its value
from any start, and no more than that."""
LEAST_LOSS_SCALE = 2.0**-8
"""Below it the overflow is in the gradients and not in the scale."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One step, over all processes. `stop`: some process was asked to stop."""

    loss: float
    grad_norm: float
    lr: float
    stop: bool


@dataclass(slots=True)
class TrainModule:
    """Steps of one stage. Made by `build_train_module`.

    model: `stage`, with gradients averaged over all processes. trained: its parameters by official name.
    schedule: factor of the learning rate of each step, from 1. overflows: steps in a row, up to the last, whose
    gradients overflowed under the loss scale. before_change: called whenever weights, moments or average are about to
    change.
    """

    stage: StageModel
    model: nn.Module
    encoders: Encoders
    world: World
    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    lr: float
    clip_norm: float
    ema: EMAModel | None
    scaler: torch.amp.GradScaler
    overflows: int = 0
    before_change: Callable[[], None] = lambda: None

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """A batch as the stage takes it: latents, noise, timesteps, text, pose."""
        batch = batch.to(self.world.device)
        pose_BF3HW = None if batch.skeleton_BFHWC is None else batch.pose_BF3HW()
        return (
            self.encoders.latents_BCFHW(batch),
            batch.noise_BCFHW,
            batch.timesteps_B,
            self.encoders.text_BLD(batch.captions),
            pose_BF3HW,
        )

    def step(self, step: int, batches: Sequence[Batch], stop: bool = False) -> StepOutcome:
        """Step number `step` (from 1) on this process's micro-batches of it.

        Raises:
            LposekitError: loss or gradients are not finite on some process (under a loss scale: gradients, whatever the
            scale); raised in all, nothing was updated.
        """
        loss = self._accumulate(batches)
        fault_point("train:in_step")
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.clip_norm)
        loss, grad_norm, stop = self._agree(step, batches, loss, norm, stop)
        lr = self.lr * self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.before_change()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.trained.values())
        return StepOutcome(loss, grad_norm, lr, stop)

    def _accumulate(self, batches: Sequence[Batch]) -> Tensor:
        """Gradients of the mean loss of this process's samples, and that loss."""
        samples = sum(len(batch) for batch in batches)
        total = torch.zeros((), device=self.world.device)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with contextlib.nullcontext() if last else self._without_averaging():
                loss = self.model(*self.inputs(batch)).sum() / samples
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _without_averaging(self) -> contextlib.AbstractContextManager[None]:
        no_sync = getattr(self.model, "no_sync", None)
        return contextlib.nullcontext() if no_sync is None else no_sync()

    def _agree(
        self, step: int, batches: Sequence[Batch], loss: Tensor, norm: Tensor, stop: bool
    ) -> tuple[float, float, bool]:
        """Mean loss, gradient norm and wish to stop, of all processes; one wait for the device in a step."""
        overflowed = ~torch.isfinite(norm)
        wish = torch.tensor(float(stop), device=loss.device)
        summed = self.world.sum(torch.stack([loss, ~torch.isfinite(loss), overflowed, wish]).double())
        total, num_bad, num_overflowed, wishes, grad_norm = torch.cat([summed, norm.double().reshape(1)]).tolist()
        if num_bad or self._is_lost(num_overflowed > 0):
            self._refuse(step, batches, loss)
        return total / self.world.size, grad_norm, wishes > 0

    def _is_lost(self, overflowed: bool) -> bool:
        """Whether gradients that overflow, or not, mean the end. A loss scale finds its value by overflows, and skips
        their updates; but a gradient that is not finite for another reason would have it skip all updates for good."""
        if not self.scaler.is_enabled():
            return overflowed
        self.overflows = self.overflows + 1 if overflowed else 0
        return self.overflows >= OVERFLOWS_ALLOWED or (overflowed and self.scaler.get_scale() < LEAST_LOSS_SCALE)

    def _refuse(self, step: int, batches: Sequence[Batch], loss: Tensor) -> None:
        mine = (self.world.rank, float(loss), [key for batch in batches for key in batch.keys])
        reports = self.world.gather(mine)
        # where only one process's loss is bad, the averaged gradients are bad everywhere: name that one alone
        guilty = [report for report in reports if not math.isfinite(report[1])] or reports
        details = "; ".join(f"rank {rank}: loss {value}, samples {' '.join(keys)}" for rank, value, keys in guilty)
        what = "loss" if guilty is not reports else "gradient"
        if self.overflows and guilty is reports:
            what = f"gradient, even with a loss scale of {self.scaler.get_scale():g},"
        raise LposekitError(
            f"step {step}: the {what} is not finite ({details}). Nothing was updated. Look at these samples; "
            "lower --optim.lr, or take --compute.precision fp32; resume from the last checkpoint by the same command."
        )

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, JsonValue]]:
        """What a checkpoint holds of this: tensors by file, and JSON values."""
        random = {"cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.world.device)
        tensors: dict[str, Mapping[str, Tensor]] = {
            WEIGHTS: self.trained,
            OPTIMIZER: optimizer_tensors(self.optimizer, self.trained),
            RANDOM: random,
        }
        facts: dict[str, JsonValue] = {"loss_scale": self.scaler.state_dict()}
        if self.ema is not None:
            tensors[EMA] = dict(zip(self.trained, self.ema.shadow_params, strict=True))
            facts["ema_step"] = self.ema.optimization_step
        return tensors, facts

    def restore(self, checkpoint: Checkpoint, where: str) -> None:
        """Put back what `state` took.

        Raises:
            LposekitError: it is of another model.
        """
        tensors = checkpoint.tensors
        copy_weights(self.trained, tensors[WEIGHTS], where)
        restore_optimizer(self.optimizer, self.trained, tensors[OPTIMIZER])
        torch.set_rng_state(tensors[RANDOM]["cpu"])
        if self.world.device.type == "cuda" and "cuda" in tensors[RANDOM]:
            torch.cuda.set_rng_state(tensors[RANDOM]["cuda"], self.world.device)
        # empty where the checkpoint's steps ran in another precision: the scale then starts afresh
        if self.scaler.is_enabled() and checkpoint.facts["loss_scale"]:
            self.scaler.load_state_dict(checkpoint.facts["loss_scale"])
        if self.ema is not None:
            kept = tensors.get(EMA)
            copy_weights(dict(zip(self.trained, self.ema.shadow_params, strict=True)), kept or tensors[WEIGHTS], where)
            self.ema.optimization_step = checkpoint.facts.get("ema_step", 0)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the trained weights are their moving average, if there is one: what is to be judged and used."""
        if self.ema is None:
            yield
            return
        self.before_change()
        self.ema.store(self.trained.values())
        self.ema.copy_to(self.trained.values())
        try:
            yield
        finally:
            self.ema.restore(self.trained.values())


def build_train_module(stage: StageModel, encoders: Encoders, world: World, settings: TrainSettings) -> TrainModule:
    """The train module of a stage whose weights are in place, on the device, in their types."""
    trained = stage.trainable()
    optim, lr = settings.optim, learning_rate(settings)
    optimizer = torch.optim.AdamW(
        trained.values(), lr=lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=True
    )
    ema = None
    if settings.ema.decay is not None:
        ema = EMAModel(
            trained.values(), decay=settings.ema.decay, update_after_step=settings.ema.start_step, foreach=True
        )
    half = stage.unet.conv_in.weight.dtype == torch.float16
    return TrainModule(
        stage=stage,
        model=world.wrap(stage),
        encoders=encoders,
        world=world,
        trained=trained,
        optimizer=optimizer,
        schedule=_schedule(optimizer, optim, max_steps(settings)),
        lr=lr,
        clip_norm=optim.clip_norm,
        ema=ema,
        scaler=torch.amp.GradScaler(world.device.type, enabled=half),
    )


def _schedule(optimizer: torch.optim.Optimizer, optim: OptimSettings, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate as a function of the step alone, so that nothing of it needs to be saved.

    Steps count from 1. The last step of the warm-up has all of the rate, so has the first after it, and the last step
    of all still has some.
    """
    name = {"constant": "constant_with_warmup"}.get(optim.schedule, optim.schedule)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=optim.warmup_steps, num_training_steps=steps)
    factor = schedule.lr_lambdas[0]
    return lambda step: factor(step if step <= optim.warmup_steps else step - 1)
