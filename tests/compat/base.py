"""The base of the kept training run: Stable Diffusion's shape at the smallest widths, its weights written by integer
arithmetic. So it is the same to the bit under every version of torch, and a resumed run finds the base that it knows.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from trainer.model.tiny import TEXT_WIDTH, tiny_scheduler, tiny_text_encoder, tiny_tokenizer

WIDTHS = (2, 2, 2, 2)


def write_base(folder: Path, salt: int = 0) -> Path:
    """Write it in diffusers layout; another ``salt`` gives another VAE and UNet of the same shapes."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    text_encoder = tiny_text_encoder(tokenizer)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore
        block_out_channels=WIDTHS,  # pyright: ignore
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    for model, name in ((text_encoder, "text_encoder"), (vae, "vae"), (unet, "unet")):
        _fill(model, salt)
        model.save_pretrained(folder / name)
    tiny_scheduler().save_pretrained(folder / "scheduler")
    return folder


def _fill(model: torch.nn.Module, salt: int) -> None:
    """Every weight becomes a function of its name and place: norms near 1, the rest in [-1/8, 1/8)."""
    for name, weight in model.state_dict().items():
        if not weight.is_floating_point():
            continue
        first = zlib.crc32(f"{salt} {name}".encode())
        number = (np.arange(weight.numel(), dtype=np.uint64) * 2654435761 + first) % 2**32
        values = (number >> 16).astype(np.float32) / 2**18 - 0.125
        values += 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weight.copy_(torch.from_numpy(values).reshape(weight.shape))
