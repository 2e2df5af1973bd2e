"""A step before the first one: it has blocks compiled, and finds the largest micro-batch that fits.

It runs on a sample of the data, changes no weight, draws no random number, and talks to no other process.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence

import torch

from lposekit.errors import LposekitError
from trainer.data.batch import stack_samples
from trainer.data.order import SampleRef
from trainer.run.data import RunData
from trainer.run.distributed import World
from trainer.run.memory import MOMENT_BYTES, ROOM
from trainer.run.train_module import TrainModule

log = logging.getLogger(__name__)


def rehearse(
    train_module: TrainModule, data: RunData, micro_batch: int, *, passes: int = 1, ref: SampleRef | None = None
) -> None:
    """Forward and backward passes of this many samples, with memory taken for what the optimiser will hold. `ref`: the
    sample; None: the first, a clip where there are images beside clips."""
    reader = data.loader.reader
    batch = stack_samples([reader.read(ref or reader.ref(0, 0))] * micro_batch)
    trained = train_module.trained.values()
    optimizer = None
    if not train_module.optimizer.state:
        size = MOMENT_BYTES * sum(parameter.numel() for parameter in trained)
        optimizer = torch.empty(size, dtype=torch.uint8, device=train_module.world.device)
    try:
        for _ in range(passes):
            # the stage itself: gradients of this are not to be averaged over the processes
            train_module.stage(*train_module.inputs(batch)).mean().backward()
    finally:
        del optimizer
        for parameter in trained:
            parameter.grad = None


def parts_of(share: int) -> list[int]:
    """Micro-batches that a process's share of a batch can be cut into, largest first."""
    return [part for part in range(share, 0, -1) if share % part == 0]


def largest_that_fits(candidates: Sequence[int], runs: Callable[[int], bool]) -> int | None:
    """The first of the candidates (largest first) that runs; None if none does."""
    return next((candidate for candidate in candidates if runs(candidate)), None)


def find_micro_batch(train_module: TrainModule, data: RunData, world: World) -> int:
    """The largest micro-batch that fits on every process's device.

    Raises:
        LposekitError: not even one sample fits, on some process; raised in all of them.
    """
    split = data.loader.split

    def runs(micro: int) -> bool:
        try:
            rehearse(train_module, data, micro, passes=min(2, split.batch_size // (split.world * micro)))
        except torch.OutOfMemoryError:
            log.info("a micro-batch of %d does not fit", micro)
            return False
        finally:
            gc.collect()
            taken = _taken(world.device)
        return taken <= ROOM

    found = largest_that_fits(parts_of(split.batch_size // split.world), runs)
    sizes = world.gather(found or 0)
    if not min(sizes):
        rank = sizes.index(0)
        raise LposekitError(
            f"rank {rank}: not even one sample fits into the memory of its device. Add "
            "--compute.gradient-checkpointing, or take a smaller --image.size or fewer --clip.frames."
        )
    # every size divides the share, so the smallest does
    log.info("micro-batch %d, the largest that fits on all processes", min(sizes))
    return min(sizes)


def _taken(device: torch.device) -> float:
    """The part of the device's memory that was taken since the last call, at its most; 0 where there is no such
    count."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return peak / torch.cuda.get_device_properties(device).total_memory
