"""The cells of `tests.benchmarks.gpu`: what each measures. A group is a process of its own; its cells share a model.

    python -m tests.benchmarks.gpu_cells --done FILE --group GROUP CELL ...

writes a line for each cell when it begins and when it is done, so that the next process knows what ended this one.
"""

from __future__ import annotations

import argparse
import functools
import gc
import hashlib
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.gpu_plan import CELLS, Cell, Place, note
from trainer.data.batch import Batch
from trainer.model.base import encode_images, encode_text, load_base
from trainer.model.blocks import joint_group_norm
from trainer.model.kernels import Kernel, use_kernels
from trainer.run.attention_choice import Milliseconds, fastest, measure_kernels
from trainer.run.background import CheckpointWriter
from trainer.run.build import build, prepare_torch
from trainer.run.checkpoint import Checkpoint
from trainer.run.compiling import compile_parts
from trainer.run.cost import attention_shapes, forward_tflop, pass_tflop
from trainer.run.distributed import World
from trainer.run.memory import GIB
from trainer.run.metrics import measure_peak_tflops, read_metrics
from trainer.run.outcome import DryRunReport
from trainer.run.shapes import for_counting
from trainer.settings import (
    CheckpointSettings,
    ClipSamplingSettings,
    ComputeSettings,
    FramingSettings,
    LoaderSettings,
    OptimSettings,
    TrainSettings,
    WatchSettings,
)
from trainer.train import run

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


def step_group(stage: int, form: str) -> Callable[[Place], Callable[[Cell], Figures]]:
    def opened(place: Place) -> Callable[[Cell], Figures]:
        steps = Steps(place, stage, compiled=form == "compiled")
        others = {"attention": steps.attention_table, "checkpoint": steps.checkpoint}
        return lambda cell: others.get(str(cell.options.get("what")), steps.measure)(cell)

    return opened


def device_group(place: Place) -> Callable[[Cell], Figures]:
    """The machine's ceilings: a large product, and copies."""
    device = torch.device(place.device)

    def measure(_: Cell) -> Figures:
        on_gpu = device.type == "cuda"
        dtype = torch.bfloat16 if on_gpu else torch.float32
        size = 2**28 if on_gpu else 2**20
        here = torch.empty(size, dtype=torch.uint8, device=device)
        host = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "CPU",
            "memory GiB": torch.cuda.get_device_properties(0).total_memory / GIB if on_gpu else 0.0,
            "torch": torch.__version__,
            "matmul TFLOP/s": measure_peak_tflops(device, dtype),
            "copy on the device GB/s": 2 * size / 1e9 / _shortest(lambda: here.clone(), device),
            "copy to pinned memory GB/s": size / 1e9 / _shortest(lambda: host.copy_(here), device),
        }

    return measure


def _shortest(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return min(once() for _ in range(1 + rounds))


def limits_group(place: Place) -> Callable[[Cell], Figures]:
    """Real runs with the settings that a dry run names for a GPU, under a limit of that size."""

    @functools.cache
    def dry(stage: int) -> DryRunReport:
        report = run(settings_at(place, stage, place.folder / "dry", batch_size=place.most), dry_run=True)
        assert isinstance(report, DryRunReport)
        return report

    def measure(cell: Cell) -> Figures:
        stage, size = int(cell.options["stage"]), int(cell.options["gib"])
        settings = settings_at(place, stage, place.folder / f"limit-{stage}-{size}")
        way = dry(stage).fits[size]
        if way is None:
            raise LeftOutError("no settings fit, says the dry run")
        _limit(place, size)
        # two passes: gradients of one lie beside those of the next
        optim = OptimSettings(micro_batch=way.micro_batch)
        compute = replace(settings.compute, gradient_checkpointing=way.checkpointed)
        run(replace(settings, max_steps=2, batch_size=2 * way.micro_batch, optim=optim, compute=compute))
        peak = torch.cuda.max_memory_allocated() / GIB if place.device == "cuda" else 0.0
        reserved = torch.cuda.max_memory_reserved() / GIB if place.device == "cuda" else 0.0
        return {
            "stage": stage,
            "GPU GiB": size,
            "settings": way.flags(),
            "estimate GiB": way.peak / GIB,
            "allocated GiB": peak,
            "reserved GiB": reserved,
        }

    return measure


def _limit(place: Place, gib: int) -> None:
    if place.device != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    if gib * GIB > total:
        raise LeftOutError("this GPU is smaller")
    torch.cuda.set_per_process_memory_fraction(gib * GIB / total)


def resume_group(place: Place) -> Callable[[Cell], Figures]:
    """Stopped and resumed against undisturbed, in bf16 with deterministic kernels, at small sizes."""

    def measure(cell: Cell) -> Figures:
        stage, compiled = int(cell.options["stage"]), bool(cell.options["compiled"])
        compute = ComputeSettings(device=place.device, precision="bf16", deterministic=True, compile=compiled)
        if place.device == "cpu":
            compute = replace(compute, compile=False)
        folders = [place.folder / f"{cell.name}-{form}".replace(" ", "-") for form in ("whole", "parted")]
        whole, parted = (
            settings_at(place, stage, folder, base=place.small_base, batch_size=2, compute=compute, max_steps=4)
            for folder in folders
        )
        run(whole)
        run(replace(parted, max_steps=2))
        run(parted)
        logs = [[line["loss_hex"] for line in read_metrics(folder / "metrics.jsonl")] for folder in folders]
        files = [_digests(folder / "checkpoints" / "step-000004") for folder in folders]
        return {
            "stage": stage,
            "form": "compiled" if compute.compile else "eager",
            "losses": "equal" if logs[0] == logs[1] else f"differ: {logs}",
            "checkpoints": "equal" if files[0] == files[1] else "differ",
        }

    return measure


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def norms_group(place: Place) -> Callable[[Cell], Figures]:
    """GroupNorm over all frames of a clip, forward and backward, in both memory layouts."""
    device = torch.device(place.device)
    channels, side, dtype = (320, 64, torch.bfloat16) if place.device == "cuda" else (32, 8, torch.float32)
    norm = torch.nn.GroupNorm(32, channels).to(device, dtype).requires_grad_(False)
    frames = place.frames

    def pass_of(function: Callable[[Tensor], Tensor], layout: torch.memory_format) -> float:
        x = torch.randn(4 * frames, channels, side, side, device=device, dtype=dtype)
        x = x.to(memory_format=layout).requires_grad_()
        grad = torch.randn_like(x)
        return 1e3 * _shortest(lambda: torch.autograd.grad(function(x), x, grad), device)

    def measure(_: Cell) -> Figures:
        def ours(x: Tensor) -> Tensor:
            return joint_group_norm(norm, x, frames)

        compiled = torch.compile(ours, dynamic=False, **place.compile_options)
        return {
            "shape": f"{4 * frames} x {channels} x {side} x {side}, {frames} frames a clip",
            "channels last ms": pass_of(ours, torch.channels_last),
            "contiguous ms": pass_of(ours, torch.contiguous_format),
            "channels last, compiled ms": pass_of(compiled, torch.channels_last),
        }

    return measure


def pose_group(place: Place) -> Callable[[Cell], Figures]:
    """Bare forward passes of the pose model."""
    try:
        import mmpose  # noqa: F401
    except ImportError as error:
        raise LeftOutError(f"MMPose's wheels are not here ({error})") from error
    from tests.benchmarks.gpu_pose import persons_per_second

    return lambda cell: persons_per_second(
        place.device, str(cell.options["precision"]), int(cell.options["batch"]), place.rounds
    )


GROUPS: Mapping[str, Callable[[Place], Callable[[Cell], Figures]]] = {
    "device": device_group,
    **{f"stage {stage} {form}": step_group(stage, form) for stage in (1, 2) for form in ("compiled", "eager")},
    "resume": resume_group,
    "limits": limits_group,
    "norms": norms_group,
    "pose": pose_group,
}


def run_cells(place: Place, done: Path, group: str, names: Sequence[str]) -> None:
    """The cells of a group, each noted when it begins and ends. One that fails is noted with its error."""
    opened: Callable[[Cell], Figures] | None = None
    for cell in (cell for cell in CELLS if cell.name in names):
        note(done, cell, begun=True)
        started = time.perf_counter()
        try:
            opened = opened or GROUPS[group](place)
            figures = opened(cell)
        except LeftOutError as reason:
            note(done, cell, left_out=str(reason))
        except Exception as error:
            note(done, cell, error=f"{type(error).__name__}: {error}".strip().split("\n")[0])
            logging.exception("%s", cell.name)
            if isinstance(error, torch.OutOfMemoryError):
                gc.collect()
                torch.cuda.empty_cache()
        else:
            note(done, cell, figures=figures, seconds=time.perf_counter() - started)
    use_kernels({})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--done", type=Path, required=True)
    parser.add_argument("--place", required=True, help="as JSON")
    parser.add_argument("--group", choices=GROUPS, required=True)
    parser.add_argument("cells", nargs="+")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run_cells(Place.of_json(json.loads(asked.place)), asked.done, asked.group, asked.cells)


if __name__ == "__main__":
    main()
