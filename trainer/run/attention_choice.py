"""The attention kernels of a run: measured once on its GPU, kept by its checkpoints, obeyed when it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lposekit.errors import UsageError
from trainer.model.kernels import KERNELS, KERNELS_OF_CPU, Kernel, run_alone
from trainer.run.cost import Shape, attention_shapes
from trainer.run.data import RunData
from trainer.run.distributed import World
from trainer.run.shapes import for_counting, stage_inputs
from trainer.run.train_module import TrainModule
from trainer.settings import TrainSettings

log = logging.getLogger(__name__)

FUSED: tuple[Kernel, ...] = ("flash", "cudnn", "efficient")
"""What is measured: the plain formula keeps all scores, gigabytes at 64 x 64, and is what is left where none of these
can do a shape."""
ROUNDS = 3
"""Timed calls of a kernel on each shape, after one that warms up."""
FACT = "attention"
"""The name of the choice in a checkpoint's facts."""

Milliseconds = dict[int, dict[Kernel, float]]
"""Of the attentions of one step, forward and backward, by width of a head and kernel."""


def choose_kernels(
    settings: TrainSettings, facts: Mapping[str, Any], train_module: TrainModule, data: RunData, world: World
) -> dict[int, Kernel]:
    """The kernel of each width of a head: what the settings name, else what the run began with (`facts` of the
    checkpoint that it goes on from), else the fastest here. None, torch's choice: on a CPU, which has one fused kernel;
    where runs are to be bit-identical, for times differ from one start to the next.

    All processes get those of the main one.

    Raises:
        UsageError: the settings name a kernel that is not there on a CPU.
    """
    named, on_gpu = settings.compute.attention, world.device.type == "cuda"
    if named != "auto" and not on_gpu and named not in KERNELS_OF_CPU:
        raise UsageError(
            f"--compute.attention {named}: torch has no such kernel on a CPU. Take {' or '.join(KERNELS_OF_CPU)}, or "
            "leave it out."
        )
    if named == "auto" and (settings.compute.deterministic or not on_gpu):
        return {}
    if named == "auto" and _began_with_auto(facts):
        return kernels_of(facts)
    shapes = step_shapes(train_module, data)
    if named != "auto":
        return dict.fromkeys(sorted({query[-1] for query, _ in shapes}), named)
    return world.from_main(fastest(measure_kernels(shapes, train_module)) if world.is_main else {})


def kernels_of(facts: Mapping[str, Any]) -> dict[int, Kernel]:
    """The choice that a checkpoint holds; none if it is of an older version, or holds something else."""
    kept = facts.get(FACT)
    if not isinstance(kept, dict) or not all(kernel in KERNELS and width.isdigit() for width, kernel in kept.items()):
        return {}
    return {int(width): kernel for width, kernel in kept.items()}


def _began_with_auto(facts: Mapping[str, Any]) -> bool:
    """Whether a run goes on that chose before, or is of an older version, which left the choice to torch."""
    return bool(facts) and facts.get("settings", {}).get("compute.attention", "auto") == "auto"


def step_shapes(train_module: TrainModule, data: RunData) -> Mapping[tuple[Shape, Shape], int]:
    """How often a micro-batch attends with which shapes."""
    with for_counting(train_module.stage, checkpointed=False):
        return attention_shapes(train_module.stage, stage_inputs(train_module, data, data.loader.split.micro_batch))


def measure_kernels(
    shapes: Mapping[tuple[Shape, Shape], int], train_module: TrainModule, kernels: tuple[Kernel, ...] = FUSED
) -> Milliseconds:
    """Time of these attentions with each kernel that can do all of a width's shapes, in the type of the arithmetic."""
    device, dtype = train_module.world.device, train_module.stage.unet.conv_in.weight.dtype
    found: Milliseconds = {}
    for width in sorted({query[-1] for query, _ in shapes}):
        of_width = {pair: count for pair, count in shapes.items() if pair[0][-1] == width}
        found[width] = {}
        for kernel in kernels:
            try:
                found[width][kernel] = sum(
                    count * _milliseconds(kernel, query, key, device, dtype) for (query, key), count in of_width.items()
                )
            except RuntimeError as error:
                log.debug("attention kernel %s cannot do heads of %d here: %s", kernel, width, error)
    return found


def _milliseconds(kernel: Kernel, query: Shape, key: Shape, device: torch.device, dtype: torch.dtype) -> float:
    """The shortest of several calls."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        tensors = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for shape in (query, key, key)]
    return 1e3 * min(_seconds(lambda: run_alone(kernel, *tensors), device) for _ in range(1 + ROUNDS))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def fastest(measured: Milliseconds) -> dict[int, Kernel]:
    """The kernel with the least time of each width; nothing where none can do it."""
    chosen: dict[int, Kernel] = {}
    for width, times in measured.items():
        if times:
            chosen[width] = min(times, key=times.__getitem__)
        shown = ", ".join(f"{kernel} {ms:.1f} ms" for kernel, ms in times.items())
        log.info("attention, heads of %d: %s (%s)", width, chosen.get(width, "torch's choice"), shown or "none fused")
    return chosen
