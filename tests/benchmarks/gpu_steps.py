"""Steps of the trainer for `tests.benchmarks.gpu_cells`, on random batches: timed, counted, beside a checkpoint."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.gpu_plan import Cell, Place
from trainer.data.batch import Batch
from trainer.model.base import encode_images, encode_text, load_base
from trainer.model.kernels import Kernel, use_kernels
from trainer.run.attention_choice import Milliseconds, fastest, measure_kernels
from trainer.run.background import CheckpointWriter
from trainer.run.build import build, prepare_torch
from trainer.run.checkpoint import Checkpoint
from trainer.run.compiling import compile_parts
from trainer.run.cost import attention_shapes, forward_tflop, pass_tflop
from trainer.run.distributed import World
from trainer.run.memory import GIB
from trainer.run.metrics import measure_peak_tflops
from trainer.run.shapes import for_counting
from trainer.settings import (
    CheckpointSettings,
    ClipSamplingSettings,
    ComputeSettings,
    FramingSettings,
    LoaderSettings,
    TrainSettings,
    WatchSettings,
)

Figures = dict[str, Any]
QUIET = WatchSettings(probe_every=0, sample_every=0, validation_samples=0, tensorboard=False, mfu=False)


class LeftOutError(Exception):
    """A cell that cannot be measured here, and why."""


def settings_at(place: Place, stage: int, output: Path, **changes: Any) -> TrainSettings:
    """A run of this stage on random data of the place's sizes."""
    return replace(
        TrainSettings(
            stage=stage,  # pyright: ignore
            data=(place.dataset(stage),),
            output=output,
            base=place.base,
            pose_encoder="" if stage == 1 else "none",
            image=FramingSettings(size=place.side),
            clip=ClipSamplingSettings(frames=place.frames, stride=1),
            loader=LoaderSettings(workers=0, held_out=0),
            compute=ComputeSettings(device=place.device, compile=False),
            checkpoint=CheckpointSettings(every_steps=10**6),
            watch=QUIET,
        ),
        **changes,
    )


class Steps:
    """Steps of one stage on random batches, through the trainer's own step."""

    def __init__(self, place: Place, stage: int, *, compiled: bool) -> None:
        self.place, self.stage, self.compiled = place, stage, compiled
        self.device = torch.device(place.device)
        # counting and timing of these takes seconds, and cells share them
        self.tflops: dict[tuple[int, bool], float] = {}
        self.kernel_times: dict[int, Milliseconds] = {}
        settings = settings_at(place, stage, place.folder / "unused")
        prepare_torch(settings)
        self.module = build(settings, load_base(place.base), None, World(self.device))
        if compiled:
            torch._dynamo.reset()
            compile_parts(self.module, **place.compile_options)

    @functools.cached_property
    def peak_tflops(self) -> float:
        return measure_peak_tflops(self.device, self.module.stage.unet.conv_in.weight.dtype)

    def measure(self, cell: Cell) -> Figures:
        """Time of a step, the first (which compiles) apart, its arithmetic and the allocator's maximum."""
        batch = self.batch(int(cell.options["micro"]), cached=bool(cell.options["cached"]))
        kernels = self.kernels(str(cell.options["attention"]), batch)
        use_kernels(kernels)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        first_s = self.seconds(lambda: self.module.step(1, [batch]))
        self.seconds(lambda: self.module.step(2, [batch]))
        rounds = [self.seconds(lambda: self.module.step(3, [batch])) for _ in range(self.place.rounds)]
        tflop, step_s = self.tflop(batch), statistics.median(rounds)
        peak = torch.cuda.max_memory_allocated() / GIB if self.device.type == "cuda" else 0.0
        return {
            "stage": self.stage,
            "form": "compiled" if self.compiled else "eager",
            "latents": "cached" if cell.options["cached"] else "encoded",
            "micro-batch": len(batch),
            "attention": ", ".join(f"{width}: {kernel}" for width, kernel in kernels.items()) or "torch's choice",
            "first step s": first_s,
            "step ms": f"{1e3 * step_s:.1f} ({1e3 * min(rounds):.1f}-{1e3 * max(rounds):.1f})",
            "samples/s": len(batch) / step_s,
            "TFLOP": tflop,
            "TFLOP/s": tflop / step_s,
            "of the matmul peak": f"{tflop / step_s / self.peak_tflops:.1%}",
            "peak GiB": peak,
        }

    def kernels(self, name: str, batch: Batch) -> dict[int, Kernel]:
        """`torch`: its own choice; `measured`: the fastest; else that kernel for all widths."""
        if name == "torch":
            return {}
        measured = self.measured_kernels(batch)
        if name == "measured":
            return fastest(measured)
        able: dict[int, Kernel] = {width: name for width, row in measured.items() if name in row}  # pyright: ignore
        if not able:
            raise LeftOutError("this kernel can do none of the shapes here")
        return able

    def measured_kernels(self, batch: Batch) -> Milliseconds:
        if len(batch) not in self.kernel_times:
            with for_counting(self.module.stage, checkpointed=False):
                shapes = attention_shapes(self.module.stage, self.module.inputs(batch))
            self.kernel_times[len(batch)] = measure_kernels(shapes, self.module, self.place.kernels)
        return self.kernel_times[len(batch)]

    def attention_table(self, _: Cell) -> Figures:
        """All attentions of a step, forward and backward, by kernel."""
        batch = self.batch(self.place.micro[self.stage], cached=True)
        times = self.measured_kernels(batch)
        cells = {f"heads of {width}, {kernel} ms": ms for width, row in times.items() for kernel, ms in row.items()}
        return {"stage": self.stage, "micro-batch": len(batch), **cells}

    def tflop(self, batch: Batch) -> float:
        """Counted without computing, as a run's MFU is."""
        of = len(batch), batch.rgb_BFHWC is None
        if of not in self.tflops:
            self.tflops[of] = self.counted_tflop(batch)
        return self.tflops[of]

    def counted_tflop(self, batch: Batch) -> float:
        module, encoders = self.module, self.module.encoders
        with for_counting(module.stage, checkpointed=False):
            tflop = pass_tflop(module.stage, module.inputs(batch))
            ids = torch.empty(len(batch), encoders.text_encoder.config.max_position_embeddings, dtype=torch.int64)
            tflop += forward_tflop(encode_text, encoders.text_encoder, ids)
            if batch.rgb_BFHWC is not None:
                tflop += forward_tflop(encode_images, encoders.vae, batch.images_BF3HW())
        return tflop

    def batch(self, micro: int, *, cached: bool) -> Batch:
        generator = torch.Generator().manual_seed(0)
        micro = min(micro, self.place.most or micro)
        frames, side = (1 if self.stage == 1 else self.place.frames), self.place.side

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        def images() -> Tensor:
            shape = (micro, frames, side, side, 3)
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

        return Batch(
            keys=[str(i) for i in range(micro)],
            captions=["a person dancing"] * micro,
            timesteps_B=torch.randint(0, 1000, (micro,), generator=generator),
            noise_BCFHW=random(micro, 4, frames, side // 8, side // 8),
            latent_noise_BFCHW=random(micro, frames, 4, side // 8, side // 8),
            rgb_BFHWC=None if cached else images(),
            skeleton_BFHWC=images() if self.stage == 1 else None,
            moments_BFCHW=random(micro, frames, 8, side // 8, side // 8).half() if cached else None,
        )

    def seconds(self, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def checkpoint(self, _: Cell) -> Figures:
        """How long steps wait for a checkpoint, beside how long it takes to write one."""
        batch = self.batch(self.place.micro[self.stage], cached=True)
        plain_s = min(self.seconds(lambda: self.module.step(1, [batch])) for _ in range(3))
        waits: list[float] = []
        with CheckpointWriter(self.place.folder / "checkpoints", 2, lambda step: False) as writer:

            def settle() -> None:
                started = time.perf_counter()
                writer.settle()
                waits.append(time.perf_counter() - started)

            self.module.before_change = settle
            for number in (1, 2, 3):
                started = time.perf_counter()
                writer.save(Checkpoint(number, *self.module.state()))
                waits.append(time.perf_counter() - started)
                beside_s = self.seconds(lambda: self.module.step(1, [batch]))
                writer.wait()
                write_s = time.perf_counter() - started
        self.module.before_change = lambda: None
        stop_s = sum(waits[-2:])
        return {
            "stage": self.stage,
            "step ms": 1e3 * plain_s,
            "step ms, beside the writer": 1e3 * beside_s,
            "stop ms": 1e3 * stop_s,
            "write s": write_s,
            "stop / write": f"{stop_s / write_s:.1%}",
        }
