"""The parts of the small base but for its VAE: real classes of diffusers and transformers, a few million weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from transformers import CLIPTextModel

from trainer.model.tiny import tiny_scheduler, tiny_text_encoder
from trainer.smallworld.tokens import new_tokenizer
from trainer.smallworld.vae import LATENT_CHANNELS

WIDTHS = (72, 96)
TEXT_WIDTH = 64
NORM_GROUPS = 8
HEADS = 4


@dataclass(frozen=True, slots=True)
class LearnedParts:
    """What learns together: the UNet and the text encoder."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel


def new_parts(seed: int) -> LearnedParts:
    """Both with random weights, drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LearnedParts(new_unet(), tiny_text_encoder(new_tokenizer(), TEXT_WIDTH))


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * len(WIDTHS),  # pyright: ignore
        up_block_types=("CrossAttnUpBlock2D",) * len(WIDTHS),  # pyright: ignore
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=HEADS,
        norm_num_groups=NORM_GROUPS,
    )


def new_scheduler() -> DDPMScheduler:
    """The noise schedule of Stable Diffusion; the UNet predicts the velocity, as in version 2.1, since that weighs
    what shows at high noise (places and colours) more than noise prediction does."""
    return tiny_scheduler("v_prediction")


def save_base(folder: Path, vae: AutoencoderKL, parts: LearnedParts) -> None:
    """Writes a base in diffusers layout, weights in half precision."""
    new_tokenizer().save_pretrained(folder / "tokenizer")
    new_scheduler().save_pretrained(folder / "scheduler")
    for name, module in (("vae", vae), ("unet", parts.unet), ("text_encoder", parts.text_encoder)):
        copy.deepcopy(module).half().save_pretrained(folder / name)
