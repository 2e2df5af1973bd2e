"""The shapes of a step: tensors without contents, and the state of a model while it is counted with them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.data.order import SampleRef
from trainer.model.winograd import direct_form
from trainer.run.data import RunData
from trainer.run.train_module import TrainModule
from trainer.stages import StageModel


def stage_inputs(
    train_module: TrainModule, data: RunData, micro_batch: int, ref: SampleRef | None = None
) -> tuple[Tensor | None, ...]:
    """Tensors without contents, of the shapes that the stage takes with samples like that of `ref`; None: the first."""
    encoders, reader = train_module.encoders, data.loader.reader
    sample = reader.read(ref or reader.ref(0, 0))
    noise = torch.empty(micro_batch, *sample.noise_CFHW.shape, device="meta")
    config = encoders.text_encoder.config
    text = torch.empty(
        micro_batch, config.max_position_embeddings, config.hidden_size, device="meta", dtype=encoders.vae.dtype
    )
    pose = None if sample.skeleton_FHWC is None else images_like(sample.skeleton_FHWC.shape, micro_batch)
    return noise, noise, torch.empty(micro_batch, dtype=torch.int64, device="meta"), text, pose


def images_like(shape_FHWC: tuple[int, ...], batch: int) -> Tensor:
    """Images without contents, float32."""
    frames, height, width, channels = shape_FHWC
    return torch.empty(batch, frames, channels, height, width, device="meta")


@contextlib.contextmanager
def for_counting(stage: StageModel, *, checkpointed: bool, direct: bool = True) -> Iterator[None]:
    """Inside, the stage may be run on tensors without contents. direct: without Winograd's convolutions, as on a
    GPU."""
    before = stage.unet.checkpointed, stage.scheduler
    # diffusers moves a scheduler's tables to the device of its inputs; those of a copy may be lost
    stage.unet.checkpointed, stage.scheduler = checkpointed, copy.deepcopy(stage.scheduler)
    try:
        # a block that runs first under a counter is one that dynamo never compiles after
        with torch.compiler.set_stance("force_eager"), direct_form(stage) if direct else contextlib.nullcontext():
            yield
    finally:
        stage.unet.checkpointed, stage.scheduler = before
