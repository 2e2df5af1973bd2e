"""From settings to a model that is ready to learn."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.model.base import Base, encode_images, encode_text
from trainer.model.pose_encoder import PoseEncoder
from trainer.model.switches import ModelSwitches, preset
from trainer.model.unet import compile_blocks
from trainer.run.cost import forward_tflop, kept_bytes, pass_tflop
from trainer.run.data import RunData
from trainer.run.distributed import World
from trainer.run.encoders import freeze_encoders
from trainer.run.train_module import TrainModule, build_train_module
from trainer.settings import ModelSettings, TrainSettings
from trainer.stages import StageModel, build_stage, lower_frozen_precision

log = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def prepare_torch(settings: TrainSettings) -> None:
    """Process-wide switches: threads, matmul precision, determinism."""
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    if settings.compute.deterministic:
        # cuBLAS reads it when its first handle is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(settings.compute.deterministic)
    # sizes do not change within a run
    torch.backends.cudnn.benchmark = not settings.compute.deterministic
    torch.manual_seed(settings.seed)


def choose_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """Type of the frozen weights and the arithmetic."""
    return DTYPES[settings.compute.precision or ("bf16" if device.type == "cuda" else "fp32")]


def model_switches(settings: ModelSettings) -> ModelSwitches:
    """The preset with the switches that are set."""
    chosen = {
        name: value for name, value in dataclasses.asdict(settings).items() if name != "preset" and value is not None
    }
    return dataclasses.replace(preset(settings.preset), **chosen)


def build_model(settings: TrainSettings, base: Base, pose_encoder: PoseEncoder | None, world: World) -> StageModel:
    """The stage's model on the device: trained weights in float32, frozen ones in the precision of the settings."""
    switches = model_switches(settings.model)
    stage = build_stage(
        settings.stage, base.unet, base.scheduler, switches, pose_encoder, settings.loss.min_snr_gamma, settings.seed
    )
    lower_frozen_precision(stage, choose_dtype(settings, world.device))
    stage.unet.checkpointed = settings.compute.gradient_checkpointing
    stage.to(world.device)
    if world.device.type == "cuda":
        stage.to(memory_format=torch.channels_last)  # pyright: ignore
        # diffusers moves the betas at every call otherwise, and waits for the device each time
        stage.scheduler.alphas_cumprod = stage.scheduler.alphas_cumprod.to(world.device)
    return stage


def build(settings: TrainSettings, base: Base, pose_encoder: PoseEncoder | None, world: World) -> TrainModule:
    """The train module: model, frozen encoders and optimiser on the device."""
    stage = build_model(settings, base, pose_encoder, world)
    encoders = freeze_encoders(base, world.device, choose_dtype(settings, world.device))
    train_module = build_train_module(stage, encoders, world, settings)
    if settings.compute.compile:
        compile_blocks(stage.unet)
    return train_module


def step_tflop(train_module: TrainModule, data: RunData) -> float:
    """Arithmetic of one step on one process, in TFLOP, from the shapes of a first micro-batch; nothing is computed.

    What gradient checkpointing does again is not counted: it is not progress.
    """
    split, encoders = data.loader.split, train_module.encoders
    sample = data.loader.reader.read(data.loader.reader.ref(0, 0))
    with _for_counting(train_module.stage, checkpointed=False):
        tflop = pass_tflop(train_module.stage, _stage_inputs(train_module, data))
    ids = torch.empty(split.micro_batch, encoders.text_encoder.config.max_position_embeddings, dtype=torch.int64)
    tflop += forward_tflop(encode_text, encoders.text_encoder, ids)
    if sample.rgb_FHWC is not None:
        tflop += forward_tflop(encode_images, encoders.vae, _images_like(sample.rgb_FHWC.shape, split.micro_batch))
    return tflop * split.passes


def activation_bytes(train_module: TrainModule, data: RunData) -> int:
    """What the forward pass of a micro-batch keeps for its backward pass."""
    with _for_counting(train_module.stage, checkpointed=train_module.stage.unet.checkpointed):
        return kept_bytes(train_module.stage, _stage_inputs(train_module, data))


def _stage_inputs(train_module: TrainModule, data: RunData) -> tuple[Tensor | None, ...]:
    """Tensors without contents, of the shapes that the stage takes."""
    micro, encoders = data.loader.split.micro_batch, train_module.encoders
    sample = data.loader.reader.read(data.loader.reader.ref(0, 0))
    noise = torch.empty(micro, *sample.noise_CFHW.shape, device="meta")
    config = encoders.text_encoder.config
    text = torch.empty(
        micro, config.max_position_embeddings, config.hidden_size, device="meta", dtype=encoders.vae.dtype
    )
    pose = None if sample.skeleton_FHWC is None else _images_like(sample.skeleton_FHWC.shape, micro)
    return noise, noise, torch.empty(micro, dtype=torch.int64, device="meta"), text, pose


def _images_like(shape_FHWC: tuple[int, ...], batch: int) -> Tensor:
    frames, height, width, channels = shape_FHWC
    return torch.empty(batch, frames, channels, height, width, device="meta")


@contextlib.contextmanager
def _for_counting(stage: StageModel, *, checkpointed: bool) -> Iterator[None]:
    before = stage.unet.checkpointed, stage.scheduler
    # diffusers moves a scheduler's tables to the device of its inputs; those of a copy may be lost
    stage.unet.checkpointed, stage.scheduler = checkpointed, copy.deepcopy(stage.scheduler)
    try:
        # a block that runs first under a counter is one that dynamo never compiles after
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        stage.unet.checkpointed, stage.scheduler = before
