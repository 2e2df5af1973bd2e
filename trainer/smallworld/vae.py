"""The VAE of the small base: an encoder whose weights are set, and a decoder that learns its inverse in minutes.

The encoder turns cells of 8 x 8 pixels into 24 numbers: three steps of 2 x 2 pixels to the channels that carry most of
their variance (principal components of real renders), each one convolution of an ordinary `AutoencoderKL`. What such a
net has on top is made to change nothing: its residual branches are zero; the last norm sees every channel x together
with -x and two large constants, so that it scales by a constant; and SiLU(x) - SiLU(-x) = x.

A decoder cannot be set in this way: it enlarges by repeating pixels, and no convolution tells the copies apart.

Shape letters: B images, C channels, H and W of a map.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn

from trainer.model.blocks import zero_layer

CELL = 8
"""Side of what one latent stands for, in pixels."""
LATENT_CHANNELS = 24
WIDTHS = (16, 24, 32, 64)
NORM_GROUPS = 8
KEPT = (12, 24, LATENT_CHANNELS)
"""Channels after each step of 2 x 2."""
CONSTANT = 1024.0
"""In the last norm: large against latents, so that the scale does not depend on them."""
LOG_VARIANCE = -12.0
WHITENING = 0.5
"""Latents are components divided by their deviation to this power: fine detail keeps some weight in the loss."""


def new_vae(images_B3HW: Tensor) -> AutoencoderKL:
    """The VAE with its encoder set from images in [-1, 1], and a decoder of random weights."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),  # pyright: ignore
        up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),  # pyright: ignore
        block_out_channels=WIDTHS,  # pyright: ignore
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        latent_channels=LATENT_CHANNELS,
        sample_size=images_B3HW.shape[-1],
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    set_encoder(vae, images_B3HW)
    return vae


@torch.no_grad()
def set_encoder(vae: AutoencoderKL, images_B3HW: Tensor) -> None:
    """Sets all weights of the encoder, in place."""
    encoder: Any = vae.encoder
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D):
            zero_layer(module.conv2)
            if module.conv_shortcut is not None:
                nn.init.dirac_(module.conv_shortcut.weight)  # pyright: ignore
                nn.init.zeros_(module.conv_shortcut.bias)  # pyright: ignore
    _pass_on(encoder.conv_in)
    x = images_B3HW
    for block, kept in zip(encoder.down_blocks, KEPT, strict=False):
        components, _ = principal_components(patches(x), kept)
        _set_step(block.downsamplers[0].conv, components)
        x = rearrange(patches(x) @ components.T, "(b h w) c -> b c h w", b=len(x), h=x.shape[-2] // 2)
    values = rearrange(x, "b c h w -> (b h w) c")
    scale = values.std(0) ** -WHITENING
    scale = scale / ((values - values.mean(0)) * scale).square().mean().sqrt()
    _set_pairs(encoder, values.mean(0), scale)
    for layer in (vae.quant_conv, vae.post_quant_conv):
        _pass_on(layer)  # pyright: ignore


@torch.no_grad()
def encode_linear(vae: AutoencoderKL, images_B3HW: Tensor) -> Tensor:
    """The means of the latents, scaled, as `vae.encode` gives them but a hundred times as fast: what the encoder
    computes is one linear map of each cell."""
    pixels = torch.eye(3 * CELL * CELL).reshape(-1, 3, CELL, CELL)
    bias = vae.encode(torch.zeros(1, 3, CELL, CELL)).latent_dist.mean.flatten()  # pyright: ignore
    columns = vae.encode(pixels).latent_dist.mean.flatten(1) - bias  # pyright: ignore
    cells = rearrange(images_B3HW, "b c (h i) (w j) -> b h w (c i j)", i=CELL, j=CELL)
    return rearrange(cells @ columns + bias, "b h w c -> b c h w") * vae.config["scaling_factor"]


def patches(x_BCHW: Tensor) -> Tensor:
    """Each 2 x 2 square of a map as a row of 4 C numbers."""
    return rearrange(x_BCHW, "b c (h i) (w j) -> (b h w) (c i j)", i=2, j=2)


def principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions [count, C] of most variance, orthonormal, and their variances; signs are fixed."""
    centred = (rows - rows.mean(0)).double()
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    chosen = vectors.flip(1).T[:count]
    signs = torch.sign(chosen.gather(1, chosen.abs().argmax(1, keepdim=True)))
    return (chosen * signs).float(), variances.flip(0)[:count].float()


def _pass_on(conv: nn.Conv2d) -> None:
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)  # pyright: ignore


def _set_step(conv: nn.Conv2d, components_KC: Tensor) -> None:
    """A convolution with stride 2, padded right and below: its first 2 x 2 taps see the square."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # pyright: ignore
    taps = rearrange(components_KC, "k (c i j) -> k c i j", i=2, j=2)
    conv.weight[: taps.shape[0], : taps.shape[1], :2, :2] = taps


def _set_pairs(encoder: Any, mean_C: Tensor, scale_C: Tensor) -> None:
    """The last width change writes each latent as x and -x, beside constants; the output layer takes their
    difference."""
    shortcut, norm, out = encoder.down_blocks[-1].resnets[0].conv_shortcut, encoder.conv_norm_out, encoder.conv_out
    for layer in (shortcut, out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    width, share = WIDTHS[-1] // NORM_GROUPS, LATENT_CHANNELS // NORM_GROUPS
    for channel in range(LATENT_CHANNELS):
        first = channel // share * width + channel % share
        for place, sign in ((first, 1.0), (first + share, -1.0)):
            shortcut.weight[place, channel] = sign * scale_C[channel]
            shortcut.bias[place] = -sign * scale_C[channel] * mean_C[channel]
            out.weight[channel, place, 1, 1] = sign
    for group in range(NORM_GROUPS):
        shortcut.bias[group * width + 2 * share], shortcut.bias[group * width + 2 * share + 1] = CONSTANT, -CONSTANT
    nn.init.constant_(norm.weight, CONSTANT * (2 / width) ** 0.5)
    nn.init.zeros_(norm.bias)
    out.bias[LATENT_CHANNELS:] = LOG_VARIANCE
