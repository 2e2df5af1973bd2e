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
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lposekit.errors import LposekitError
from tests.benchmarks.gpu_plan import CELLS, Cell, Place, note
from tests.benchmarks.gpu_steps import Figures, LeftOutError, Steps, settings_at
from trainer.model.blocks import joint_group_norm
from trainer.model.kernels import use_kernels
from trainer.run.memory import GIB
from trainer.run.metrics import measure_peak_tflops, read_metrics
from trainer.run.outcome import DryRunReport
from trainer.settings import (
    ComputeSettings,
    OptimSettings,
)
from trainer.train import run


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
    _require_mmpose()
    from tests.benchmarks.gpu_pose import persons_per_second

    return lambda cell: persons_per_second(place.device, rounds=place.rounds, **cell.options)


def pose_stage_group(place: Place) -> Callable[[Cell], Figures]:
    """The pose stage of a build, fed from memory."""
    _require_mmpose()
    from tests.benchmarks.gpu_pose import images_per_second

    return lambda cell: images_per_second(place.device, rounds=place.rounds, **cell.options)


def _require_mmpose() -> None:
    try:
        from lposekit.pose.openmmlab import import_models

        import_models()
    except (ImportError, LposekitError) as error:
        raise LeftOutError(f"MMPose's wheels are not here ({error})") from error


GROUPS: Mapping[str, Callable[[Place], Callable[[Cell], Figures]]] = {
    "device": device_group,
    **{f"stage {stage} {form}": step_group(stage, form) for stage in (1, 2) for form in ("compiled", "eager")},
    "resume": resume_group,
    "limits": limits_group,
    "norms": norms_group,
    "pose": pose_group,
    "pose stage": pose_stage_group,
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
