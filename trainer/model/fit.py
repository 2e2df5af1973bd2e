"""Least squares for the last layers of the tiny base: they map the features of random layers to something useful.

Shape letters: B samples, C channels, H and W of a map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.blocks import zero_layer

RIDGE = 1e-2
LOG_VARIANCE = -8.0
"""Of the fitted VAE's latents: like a trained VAE's, small against their spread."""


def random_images(count: int, side: int = 64) -> Tensor:
    """Coloured noise of all scales, B3HW in [-1, 1]; drawn from torch's global generator."""
    images = torch.zeros(count, 3, side, side)
    for cells in (1, 2, 4, 8, 16):
        coarse = torch.randn(count, 3, cells, cells) * cells**-0.5
        images += functional.interpolate(coarse, size=side, mode="bicubic", align_corners=False)
    return torch.tanh(images)


def fit_convolution(conv: nn.Conv2d, features_BCHW: Tensor, targets_BCHW: Tensor) -> None:
    """Sets weight and bias of the first `targets` output channels by ridge regression, so that conv(features) is near
    the targets."""
    (kernel, _), outputs = conv.kernel_size, targets_BCHW.shape[1]
    patches = functional.unfold(features_BCHW, kernel, padding=kernel // 2)
    patches = rearrange(patches, "b p n -> (b n) p").double()
    patches = torch.cat([patches, torch.ones(len(patches), 1, dtype=torch.float64)], dim=1)
    targets = rearrange(targets_BCHW, "b c h w -> (b h w) c").double()
    gram = patches.T @ patches + RIDGE * len(patches) * torch.eye(patches.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(gram, patches.T @ targets)
    with torch.no_grad():
        conv.weight[:outputs] = rearrange(solution[:-1].float(), "(c kh kw) o -> o c kh kw", kh=kernel, kw=kernel)
        assert conv.bias is not None
        conv.bias[:outputs] = solution[-1].float()


@torch.no_grad()
def inputs_of(layer: nn.Module, run: Callable[[], object]) -> Tensor:
    """The tensor that `layer` is given while `run` runs."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    handle.remove()
    return seen[0]


@torch.no_grad()
def fit_vae(vae: AutoencoderKL, images_B3HW: Tensor) -> None:
    """Makes the latents a blurred copy of the image (three colours, one brightness slope) of unit spread once scaled,
    with a small variance, and the decoder their inverse as far as it goes."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            # random residuals would only bury the image; without them the random layers are projections of it
            zero_layer(module.conv2)
        elif isinstance(module, Attention):
            zero_layer(module.to_out[0])  # pyright: ignore
    latents = patch_means(images_B3HW, 2 ** (len(vae.config["block_out_channels"]) - 1))
    means = latents / latents.std(dim=(0, 2, 3), keepdim=True) / vae.config["scaling_factor"]
    for layer in (vae.quant_conv, vae.post_quant_conv):
        nn.init.dirac_(layer.weight)  # pyright: ignore
        nn.init.zeros_(layer.bias)  # pyright: ignore
    last: nn.Conv2d = vae.encoder.conv_out
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, LOG_VARIANCE)  # pyright: ignore
    fit_convolution(last, inputs_of(last, lambda: vae.encoder(images_B3HW)), means)
    latents = vae.encode(images_B3HW).latent_dist.mode()  # pyright: ignore
    last = vae.decoder.conv_out
    fit_convolution(last, inputs_of(last, lambda: vae.decode(latents)), images_B3HW)


def patch_means(images_B3HW: Tensor, side: int) -> Tensor:
    """Mean colours of squares of `side` pixels, and the difference in brightness of their halves: B4hw."""
    colours = functional.avg_pool2d(images_B3HW, side)
    brightness = images_B3HW.mean(dim=1, keepdim=True)
    left, right = (functional.avg_pool2d(brightness[..., shift:], (side, side // 2), side) for shift in (0, side // 2))
    return torch.cat([colours, right - left], dim=1)


@torch.no_grad()
def fit_unet(unet: UNet2DConditionModel, vae: AutoencoderKL, scheduler: DDPMScheduler, images_B3HW: Tensor) -> None:
    """Makes the UNet predict the noise in latents of images as well as a last layer on random features can."""
    latents = vae.encode(images_B3HW).latent_dist.sample() * vae.config["scaling_factor"]  # pyright: ignore
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, len(scheduler.betas), (len(latents),))
    noisy = scheduler.add_noise(latents, noise, timesteps)  # pyright: ignore
    text = torch.randn(len(latents), 77, unet.config["cross_attention_dim"])
    fit_convolution(unet.conv_out, inputs_of(unet.conv_out, lambda: unet(noisy, timesteps, text)), noise)
