"""What a base draws while it learns: samples of captions, measured and laid out as one image."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange

from trainer.inference.sample import ddim_sample, ddim_scheduler
from trainer.model.base import decode_latents, encode_text, tokenize
from trainer.model.switches import preset
from trainer.model.unet import VideoUNet, inflate
from trainer.smallworld.base_parts import LearnedParts, new_scheduler
from trainer.smallworld.draw import SIDE, Image
from trainer.smallworld.measures import text_shares
from trainer.smallworld.sheets import grid, write_sheet
from trainer.smallworld.tokens import new_tokenizer
from trainer.smallworld.vae import CELL, LATENT_CHANNELS
from trainer.smallworld.words import HELD_OUT_WORDS, TRAINING_WORDS, Words

STEPS = 20
GUIDANCE = 3.0
SEED = 33


def look(vae: AutoencoderKL, parts: LearnedParts, sheet: Path) -> dict[str, float]:
    """Draws captions of both splits, writes the first ones as an image, and returns the shares of right words."""
    measured: dict[str, float] = {}
    rows = []
    for name, words in (("seen", TRAINING_WORDS[::2][:40]), ("held_out", HELD_OUT_WORDS * 3)):
        images = draw_captions(vae, parts, list(words))
        measured |= {f"{name}/{key}": value for key, value in text_shares(images, list(words)).items()}
        rows.append(images[:32])
    write_sheet(sheet, grid(np.concatenate(rows), 16))
    return measured


def draw_captions(vae: AutoencoderKL, parts: LearnedParts, words: list[Words]) -> Image:
    """One image for each, RGB uint8 [N, 64, 64, 3]."""
    tokenizer = new_tokenizer()
    unet = frames_unet(parts)
    text = encode_text(parts.text_encoder, tokenize(tokenizer, [each.caption for each in words]))
    empty = encode_text(parts.text_encoder, tokenize(tokenizer, [""] * len(words)))
    noise = torch.randn(
        len(words), LATENT_CHANNELS, 1, SIDE // CELL, SIDE // CELL, generator=torch.Generator().manual_seed(SEED)
    )
    latents = ddim_sample(unet, ddim_scheduler(new_scheduler(), STEPS), noise, text, empty, guidance=GUIDANCE)
    rgb = (decode_latents(vae, latents)[:, 0] + 1) * 127.5
    return rearrange(rgb.round().to(torch.uint8), "b c h w -> b h w c").numpy()


def frames_unet(parts: LearnedParts) -> VideoUNet:
    """A copy of the UNet as stage 1 computes it."""
    return inflate(copy.deepcopy(parts.unet), replace(preset("official"), temporal_layers=False)).eval()
