"""What a run takes of its device's memory, told before the first step, and the settings with which it would fit.

All of it is counted on tensors that have sizes and no contents (`trainer.run.cost`), so the estimate for a GPU comes
from any machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lposekit.errors import LposekitError, UsageError
from trainer.model.base import encode_images, encode_text, num_slices
from trainer.model.winograd import transformed_bytes
from trainer.run.cost import forward_bytes, pass_bytes, weight_bytes
from trainer.run.data import RunData
from trainer.run.distributed import World
from trainer.run.shapes import for_counting, images_like, stage_inputs
from trainer.run.train_module import TrainModule
from trainer.settings import TrainSettings, largest_part

GIB = 2**30
MOMENT_BYTES = 8
"""Of one trained float32 weight: AdamW's two moments."""
AVERAGE_BYTES = 4
ROOM = 0.92
"""Of a GPU's memory that a run may be estimated to take; the rest is for CUDA's context, the workspaces of its
kernels, and gaps between tensors."""
GPU_GIB = (80, 24, 16)
"""Sizes of GPUs for which a dry run names settings."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of a step on one process, from the second step on.

    weights: of UNet, pose encoder, VAE and text encoder. transformed: those of the UNet's wide convolutions as
    Winograd's algorithm needs them, on a CPU. moments: AdamW's. average: the EMA's. kept: by a forward pass for its
    backward pass. step: the most that forward and backward pass take at any moment, gradients included. encode: the
    most that VAE and text encoder take, beside gradients that wait for further passes.
    """

    weights: int
    transformed: int
    moments: int
    average: int
    kept: int
    step: int
    encode: int

    @property
    def peak(self) -> int:
        return self.weights + self.transformed + self.moments + self.average + max(self.step, self.encode)


@dataclass(frozen=True, slots=True)
class Way:
    """Settings with which a run fits, and what it then needs."""

    micro_batch: int
    checkpointed: bool
    peak: int

    def flags(self) -> str:
        checkpointing = " --compute.gradient-checkpointing" if self.checkpointed else ""
        return f"--optim.micro-batch {self.micro_batch}{checkpointing}"


def memory_need(
    settings: TrainSettings,
    train_module: TrainModule,
    data: RunData,
    frozen: torch.dtype | None = None,
    micro_batch: int | None = None,
    *,
    checkpointed: bool | None = None,
    direct: bool = False,
) -> MemoryNeed:
    """The need of a run as it is set, or with other values of what is named here. `frozen`: type of the frozen
    weights and the arithmetic on a GPU, whose memory is asked for. `direct`: without Winograd's algorithm."""
    encoders, stage = train_module.encoders, train_module.stage
    modules = (stage, encoders.vae, encoders.text_encoder)
    split = data.loader.split
    micro = micro_batch or split.micro_batch
    # the gradients of further processes are laid out beforehand, as those of an earlier pass are
    adds_up = split.world > 1 or split.batch_size > micro
    checkpointed = stage.unet.checkpointed if checkpointed is None else checkpointed
    with for_counting(stage, checkpointed=checkpointed, direct=direct or frozen is not None):
        step = pass_bytes(stage, stage_inputs(train_module, data, micro), frozen=frozen, adds_up=adds_up)
        transformed = transformed_bytes(stage)  # 0 where they are direct
    trained = sum(parameter.numel() for parameter in train_module.trained.values())
    return MemoryNeed(
        weights=weight_bytes(*modules, frozen=frozen),
        transformed=transformed,
        moments=trained * MOMENT_BYTES,
        average=0 if settings.ema.decay is None else trained * AVERAGE_BYTES,
        kept=step.kept,
        step=step.peak,
        encode=_encoder_bytes(train_module, data, micro, frozen) + (step.gradients if adds_up else 0),
    )


def _encoder_bytes(train_module: TrainModule, data: RunData, micro: int, frozen: torch.dtype | None) -> int:
    encoders = train_module.encoders
    sample = data.loader.reader.read(data.loader.reader.ref(0, 0))
    ids = torch.empty(micro, encoders.text_encoder.config.max_position_embeddings, dtype=torch.int64)
    text = forward_bytes(encode_text, encoders.text_encoder, ids, frozen)
    if sample.rgb_FHWC is None:
        return text
    frames, height, width, _ = sample.rgb_FHWC.shape
    count = micro * frames
    together = -(-count // num_slices(count, height, width))
    images = images_like((1, height, width, 3), together)
    whole = images_like(sample.rgb_FHWC.shape, micro)
    return max(text, forward_bytes(encode_images, encoders.vae, images, frozen) + whole.nbytes)


def ways_to_fit(
    settings: TrainSettings, train_module: TrainModule, data: RunData, frozen: torch.dtype | None
) -> Iterator[Way]:
    """Micro-batches from the default on down, first without gradient checkpointing, then with it.

    What a pass takes grows with its samples by the same amount each, so two counts tell the rest.
    """
    split = data.loader.split
    share = split.batch_size // split.world
    for checkpointed in (False, True):
        one, two = (
            memory_need(settings, train_module, data, frozen, micro, checkpointed=checkpointed).peak for micro in (1, 2)
        )
        micro = split.micro_batch
        while micro:
            yield Way(micro, checkpointed, one + (micro - 1) * max(0, two - one))
            micro = largest_part(share, micro - 1) if micro > 1 else 0


def best_way(
    settings: TrainSettings, train_module: TrainModule, data: RunData, frozen: torch.dtype | None, limit: float
) -> Way | None:
    """The first way that stays within `limit` bytes; None if there is none."""
    ways = ways_to_fit(settings, train_module, data, frozen)
    return next((way for way in ways if way.peak <= limit), None)


def memory_limit(settings: TrainSettings, device: torch.device) -> float | None:
    """Bytes that a run may be estimated to take; None: nothing is known of a limit."""
    if settings.compute.memory_gib is not None:
        return settings.compute.memory_gib * GIB
    if device.type == "cuda":
        return ROOM * torch.cuda.get_device_properties(device).total_memory
    return None


def refuse_too_large(settings: TrainSettings, train_module: TrainModule, data: RunData, world: World) -> None:
    """Compares what the run needs with what its device has.

    Raises:
        UsageError: it needs more, on some process; says with which settings it fits. Raised in all of them.
    """
    limit, problem = memory_limit(settings, world.device), None
    if limit is not None:
        need = memory_need(settings, train_module, data)
        if need.peak > limit:
            problem = (
                f"the run needs about {need.peak / GIB:.1f} GiB on {world.device}, and may take {limit / GIB:.1f} GiB "
                f"(weights {need.weights / GIB:.1f}, kept for the backward pass {need.kept / GIB:.1f}). "
                + advice(best_way(settings, train_module, data, None, limit))
                + way_without_winograd(settings, train_module, data, need)
            )
    problems = [found for found in world.gather(problem) if found]
    if problems:
        raise UsageError(problems[0])


def advice(way: Way | None) -> str:
    """What to do against too little memory."""
    others = "--loader.latents, a smaller --image.size or fewer --clip.frames need less as well."
    if way is None:
        return f"No micro-batch fits, not even with --compute.gradient-checkpointing; {others}"
    return (
        f"It fits with {way.flags()} (about {way.peak / GIB:.1f} GiB; the batch stays the same). {others.capitalize()}"
    )


def way_without_winograd(settings: TrainSettings, train_module: TrainModule, data: RunData, need: MemoryNeed) -> str:
    """What the same run needs with direct convolutions, where that is less: they keep more for the backward pass."""
    if not need.transformed:
        return ""
    direct = memory_need(settings, train_module, data, direct=True).peak
    if direct >= need.peak:
        return ""
    return f" With --compute.no-winograd it needs about {direct / GIB:.1f} GiB, and steps take longer."


@contextlib.contextmanager
def named_out_of_memory(settings: TrainSettings) -> Iterator[None]:
    """Turns the device's refusal into one that says what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(error, settings) from error


def _out_of_memory(error: BaseException, settings: TrainSettings) -> LposekitError:
    micro = settings.optim.micro_batch
    now = f"--optim.micro-batch is {micro}: lower it" if micro != 1 else "--optim.micro-batch is 1 already"
    checkpointing = "" if settings.compute.gradient_checkpointing else "add --compute.gradient-checkpointing, "
    return LposekitError(
        f"the device is out of memory ({str(error).strip().splitlines()[0]}). {now}, {checkpointing}or look with "
        "--dry-run what fits; --optim.micro-batch auto measures it. The batch stays the same. Run the same command "
        "with those settings to go on from the last checkpoint."
    )


def with_micro_batch(settings: TrainSettings, micro_batch: int) -> TrainSettings:
    return dataclasses.replace(settings, optim=dataclasses.replace(settings.optim, micro_batch=micro_batch))
