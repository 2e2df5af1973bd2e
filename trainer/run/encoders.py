"""The frozen parts around the UNet: captions to text embeddings, images or cached moments to latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from trainer.data.batch import Batch
from trainer.model.base import Base, decode_latents, draw_latents, encode_images, encode_text, tokenize


@dataclass(frozen=True, slots=True)
class Encoders:
    """Tokenizer, text encoder and VAE of a base, frozen, in low precision, on the training device."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    device: torch.device

    def text_BLD(self, captions: list[str]) -> Tensor:
        """Embeddings of captions; the empty one stands for no caption."""
        return encode_text(self.text_encoder, tokenize(self.tokenizer, captions).to(self.device))

    def latents_BCFHW(self, batch: Batch) -> Tensor:
        """Scaled latents of a batch on the device: from its images, or from cached moments."""
        moments = batch.moments_BFCHW
        if moments is None:
            moments = encode_images(self.vae, batch.images_BF3HW())
        return draw_latents(self.vae, moments, batch.latent_noise_BFCHW)

    def images_BFHWC(self, latents_BCFHW: Tensor) -> Tensor:
        """Images uint8 RGB on the CPU, of scaled latents."""
        rgb = decode_latents(self.vae, latents_BCFHW)
        return rearrange(((rgb + 1) * 127.5).round().to(torch.uint8).cpu(), "b f c h w -> b f h w c")


def freeze_encoders(base: Base, device: torch.device, dtype: torch.dtype) -> Encoders:
    """The base's encoders for training: no gradients, `dtype`, on `device`."""
    for module in (base.text_encoder, base.vae):
        module.requires_grad_(False).eval()
        # torch's own `to`: that of diffusers warns about every cast
        nn.Module.to(module, device, dtype)
    if device.type == "cuda":
        nn.Module.to(base.vae, memory_format=torch.channels_last)  # pyright: ignore
    return Encoders(base.tokenizer, base.text_encoder, base.vae, device)
