"""What a run shows of itself while it trains: numbers, the panel "is the pose learned?", validation images, a bar."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lposekit.setting_values import plain_leaves
from lposekit.words import seconds_in_words
from trainer.data.batch import Batch
from trainer.data.order import OrderState
from trainer.run.build import tflop_of_steps
from trainer.run.data import RunData, held_out_refs, watched_refs
from trainer.run.metrics import (
    METRICS_NAME,
    Clock,
    JsonLines,
    ScalarBoard,
    WandbBoard,
    measure_peak_tflops,
    peak_memory_gib,
    rewind,
)
from trainer.run.probe import PoseProbe, ValidationLoss, build_probe
from trainer.run.run_card import KEYS_NAME
from trainer.run.train_module import StepOutcome, TrainModule
from trainer.run.validation_images import ValidationSet, build_validation, write_image
from trainer.settings import TrainSettings, batch_size, max_steps

log = logging.getLogger(__name__)

FIRST_STEP = "waiting for the first step"
LINE_EVERY_S = 15.0


@dataclass(slots=True)
class Watch:
    """The main process's view of a run. Made by `open_watch`.

    tflop: of a step on one process, by the frames of its samples; empty: not counted.
    """

    settings: TrainSettings
    train_module: TrainModule
    output: Path
    metrics: JsonLines
    keys: JsonLines
    boards: Sequence[ScalarBoard | WandbBoard]
    bar: Progress
    task: TaskID
    probe: PoseProbe | None
    validation: ValidationSet | None
    held_out: ValidationLoss | None
    tflop: Mapping[int, float]
    peak_tflops: float
    clock: Clock = field(default_factory=Clock)
    last: dict[str, Any] = field(default_factory=dict)
    _next_line_s: float = 0.0
    _passed_over: int = 0

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Around the wait for data."""
        return self.clock.spending("data")

    def record(
        self, step: int, outcome: StepOutcome, order: OrderState, keys: Sequence[str] | None, passes: Sequence[Batch]
    ) -> None:
        """One finished step. `passes`: its micro-batches on this process."""
        passed_over = sum(batch.passed_over for batch in passes)
        if passed_over and not self._passed_over:
            log.warning("clips with fewer frames than --clip.frames give way to others; `short_clips` counts them")
        self._passed_over += passed_over
        self.clock.tick(self.tflop.get(passes[0].frames, 0.0))
        self.bar.update(self.task, completed=step, note=f"loss {outcome.loss:.4f}")
        if keys is not None:
            self.keys.write({"step": step, "keys": list(keys)})
        if step % self.settings.watch.log_every and step != max_steps(self.settings):
            return
        values = {
            "step": step,
            "loss": outcome.loss,
            "loss_hex": outcome.loss.hex(),
            "grad_norm": outcome.grad_norm,
            "lr": outcome.lr,
            "epoch": order.epoch,
            "consumed": order.consumed,
            **self.clock.report(batch_size(self.settings), self.peak_tflops),
            "peak_memory_gib": peak_memory_gib(self.train_module.world.device),
        }
        if self.settings.stage == 2:
            values["short_clips"] = self._passed_over
        self._write(values)
        self._log_line(values)

    def validate(self, step: int, *, last: bool = False) -> None:
        """Run the probe and draw the validation images, if the step is one for it: every so many, and the last."""
        watch = self.settings.watch
        # its batches have shapes of their own, which would be compiled while the other processes wait
        with self.clock.spending("validation"), torch.compiler.set_stance("force_eager"):
            if self.probe and (last or step % watch.probe_every == 0):
                self.bar.update(self.task, note="measuring the probe")
                held_out = self.held_out.measure(self.train_module) if self.held_out else {}
                self._write({"step": step, **self.probe.measure(self.train_module), **held_out})
            if self.validation and (last or step % watch.sample_every == 0):
                self.bar.update(self.task, note="drawing validation images")
                grid = self.validation.grid(self.validation.generate(self.train_module))
                write_image(self.output / "samples" / f"step-{step:06d}.jpg", grid)
                for board in self.boards:
                    board.image("samples", grid, step)

    def close(self) -> None:
        for part in (self.metrics, self.keys, *self.boards):
            part.close()

    def _write(self, values: dict[str, Any]) -> None:
        self.last.update(values)
        self.metrics.write(values)
        for board in self.boards:
            board.write(values, values["step"])

    def _log_line(self, values: dict[str, Any]) -> None:
        if time.monotonic() < self._next_line_s:
            return
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        log.info("%s", progress_line(values, max_steps(self.settings)))


def progress_line(values: Mapping[str, Any], steps: int) -> str:
    """A line of metrics as the log tells it: what was not measured is left out.

    Args:
        steps: of the whole run.
    """
    parts = [
        f"step {values['step']:,} of {steps:,}",
        f"loss {values['loss']:.4f}",
        f"{values['steps_per_s']:.2f} steps/s",
        f"{values['samples_per_s']:.1f} samples/s",
    ]
    if values["mfu"]:
        parts += [f"{values['tflops']:.3g} TFLOP/s", f"MFU {values['mfu']:.0%}"]
    parts += [f"waiting for data {values['data_wait']:.0%}", f"memory {values['peak_memory_gib']:.1f} GiB"]
    left = steps - values["step"]
    if left and values["steps_per_s"]:
        parts.append(f"{seconds_in_words(left / values['steps_per_s'])} left")
    return "  ".join(parts)


@contextlib.contextmanager
def open_watch(settings: TrainSettings, train_module: TrainModule, data: RunData, step: int) -> Iterator[Watch]:
    """The watch of a run that stands at `step`; what was written of later steps is dropped, they are made again."""
    assert settings.output is not None
    for name in (METRICS_NAME, KEYS_NAME):
        rewind(settings.output / name, step)
    reader, watch = data.loader.reader, settings.watch
    measured = "measuring this device, then the first step" if watch.mfu else FIRST_STEP
    log.info("stage %d: %s of %s steps are done; %s", settings.stage, f"{step:,}", f"{max_steps(settings):,}", measured)
    noise = reader.recipe.noise
    assert noise is not None
    bar = Progress(
        TextColumn(f"stage {settings.stage}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    probe = validation = held_out = None
    micro_batch = data.loader.split.micro_batch
    if watch.probe_every:
        probe = build_probe(reader, watched_refs(reader, watch.probe_samples), micro_batch, noise.num_timesteps)
        held_out = validation_loss(data, watch.validation_samples, noise.num_timesteps)
    if watch.sample_every:
        validation = build_validation(reader, settings, noise.channels, noise.downscale)
    with bar:
        opened = Watch(
            settings=settings,
            train_module=train_module,
            output=settings.output,
            metrics=JsonLines(settings.output / METRICS_NAME),
            keys=JsonLines(settings.output / KEYS_NAME),
            boards=(
                ScalarBoard(settings.output / "tensorboard", watch.tensorboard, step + 1 if step else 0),
                WandbBoard(settings.output, watch.wandb, dict(plain_leaves(settings)), resumed=step > 0),
            ),
            bar=bar,
            task=bar.add_task("train", total=max_steps(settings), completed=step, note=FIRST_STEP),
            probe=probe,
            validation=validation,
            held_out=held_out,
            tflop=tflop_of_steps(train_module, data) if watch.mfu else {},
            peak_tflops=measure_peak_tflops(train_module.world.device, train_module.encoders.vae.dtype)
            if watch.mfu
            else 0.0,
        )
        try:
            yield opened
        finally:
            opened.close()


def validation_loss(data: RunData, count: int, num_timesteps: int) -> ValidationLoss | None:
    """The loss of samples that are held out; None, said in the log, if there are none."""
    split = data.loader.reader.split
    if not count or split is None:
        return None
    if not split.num_held:
        log.info("no sample is held out of the data; probe and validation images are of training samples")
        return None
    refs = held_out_refs(data.loader.reader, count)
    if not refs:
        log.info("no clip that is held out has --clip.frames frames; there is no validation loss")
        return None
    return ValidationLoss(data.loader.reader, refs, data.loader.split.micro_batch, num_timesteps)
