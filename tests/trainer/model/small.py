"""Small models and inputs for the tests of the model: Stable Diffusion's shape, seconds on one core."""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from trainer.model.pose_encoder import PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL, ModelSwitches
from trainer.model.unet import VideoUNet, inflate

Module = TypeVar("Module", bound=nn.Module)
WIDTHS = (16, 24, 32, 32)
TEXT_WIDTH = 20


def small_unet2d(widths: tuple[int, ...] = WIDTHS) -> UNet2DConditionModel:
    """A seeded 2-D UNet; every weight random, none zero."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        block_out_channels=widths,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        sample_size=8,
    )
    return shaken(unet)


def shallow_unet2d() -> UNet2DConditionModel:
    """Two levels of one layer: the fewest blocks that have every kind of part."""
    torch.manual_seed(3)
    return UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 24),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def small_video_unet(switches: ModelSwitches = OFFICIAL) -> VideoUNet:
    """The same UNet inflated; with official switches no temporal weight is zero, so every layer shows."""
    unet = inflate(small_unet2d(), switches)
    return shaken(unet) if switches == OFFICIAL else unet


def small_encoder() -> PoseEncoder:
    return build_pose_encoder(WIDTHS, OFFICIAL, seed=5)


def shaken(module: Module) -> Module:
    """Adds a little noise to every weight: norms and biases that start at one or zero take part too."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def small_scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def inputs(batch: int = 2, frames: int = 3, side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and text of different clips."""
    generator = torch.Generator().manual_seed(17)
    latents = torch.randn(batch, 4, frames, side, side, generator=generator)
    text = torch.randn(batch, 7, TEXT_WIDTH, generator=generator)
    return latents, torch.arange(batch) * 400 + 100, text


def pose_images(batch: int = 2, frames: int = 3, side: int = 8) -> Tensor:
    """Skeleton-like images in [0, 1] for latents of this side."""
    generator = torch.Generator().manual_seed(19)
    return torch.rand(batch, frames, 3, 8 * side, 8 * side, generator=generator)
