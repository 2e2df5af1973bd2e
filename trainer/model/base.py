"""The base: a Stable Diffusion model in diffusers layout, from a folder, the hub, or built by code (`tiny`).

Shape letters: B samples, F frames, L text tokens, D text width, H and W of an image (h and w of its latents).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lposekit.errors import UsageError
from trainer.model.base_check import load_part, refuse_unfit_configurations
from trainer.model.tiny import TINY, quiet_progress_bars, tiny_folder
from trainer.model.weights_folder import weights_folder

logger = logging.getLogger(__name__)

SMALLWORLD = "smallworld"
"""The name of the base that comes with the package; docs/guide/smallworld.md says what it draws."""
SMALLWORLD_FOLDER = Path(__file__).parent.parent / "smallworld" / "base"
PARTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")
WEIGHTED_PARTS = ("text_encoder", "vae", "unet")
HUB_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
)
"""What a base needs from the hub: safetensors only, no half-precision or EMA copies."""
VAE_SLICE_PIXELS = 8 * 512 * 512
"""Of the images that the VAE works on at a time. Its first layers take 64 times the memory of an image for each
tensor, so a whole batch at once would take more than the step that follows."""
WAYS_ON = (
    "Ways on: `--base FOLDER` with a local copy in diffusers layout (folders unet, vae, text_encoder, tokenizer, "
    "scheduler), `--base smallworld` for the small trained base that comes along, or `--base tiny` for a random one."
)


@dataclass(frozen=True, slots=True)
class Base:
    """The parts of a base, in float32 on the CPU. source: the folder they came from."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    source: str


def load_base(name: str) -> Base:
    """The base of this name: a local folder in diffusers layout, a hub id `owner/name`, `smallworld` or
    `tiny`.

    A hub id is fetched into the hub's cache once.

    Raises:
        UsageError: it is not found, is not complete, is damaged, or cannot be trained.
    """
    folder = base_folder(name)
    missing = missing_parts(folder)
    if missing:
        raise UsageError(f"the base {name} is not complete: {folder} lacks {', '.join(missing)}. {WAYS_ON}")
    refuse_unfit_configurations(name, folder)
    quiet_progress_bars()

    def part(loads: Any, where: str, **precision: torch.dtype) -> Any:
        at = folder / where
        return load_part(
            f"the base {name}", at, lambda: loads.from_pretrained(at, output_loading_info=True, **precision)
        )

    # transformers would take the type of the file; training decides the precision of frozen parts itself
    return Base(
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=part(CLIPTextModel, "text_encoder", dtype=torch.float32),
        vae=part(AutoencoderKL, "vae", torch_dtype=torch.float32),
        unet=part(UNet2DConditionModel, "unet", torch_dtype=torch.float32),
        scheduler=read_scheduler(folder / "scheduler"),
        source=str(folder),
    )


def base_folder(name: str, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder of a base, fetched (these `files` of it) or built if need be; raises UsageError if there is
    none."""
    if name == TINY:
        return tiny_folder()
    if name == SMALLWORLD:
        return SMALLWORLD_FOLDER
    return weights_folder(f"the base {name} is not found", name, files, WAYS_ON)


def missing_parts(folder: Path) -> list[str]:
    """What a base folder lacks: parts, or the weights of a part."""
    parts = [part for part in PARTS if not (folder / part).is_dir()]
    weights = [
        f"the weights of {part}"
        for part in WEIGHTED_PARTS
        if part not in parts
        and not any((folder / part).glob("*.safetensors"))
        and not any((folder / part).glob("*.bin"))
    ]
    return parts + weights


def random_base(folder: Path, seed: int = 0) -> Base:
    """A base of the sizes that a folder's configuration files state, with random weights: for tests and benchmarks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Base(
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            vae=AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),  # pyright: ignore
            unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),  # pyright: ignore
            scheduler=read_scheduler(folder / "scheduler"),
            source=f"{folder} with random weights",
        )


def read_scheduler(folder: Path) -> DDPMScheduler:
    """The forward diffusion of a base, whatever sampler its file names."""
    return DDPMScheduler.from_config(DDPMScheduler.load_config(folder))  # pyright: ignore


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids of captions, padded and cut to the model's length: (B, L) int64."""
    length = tokenizer.model_max_length
    tokens = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens["input_ids"]


@torch.no_grad()
def encode_text(text_encoder: CLIPTextModel, ids_BL: Tensor) -> Tensor:
    """The last hidden states, BLD, in the type of the encoder's weights."""
    return text_encoder(ids_BL)[0]


@torch.no_grad()
def encode_images(vae: AutoencoderKL, rgb_BF3HW: Tensor) -> Tensor:
    """Mean and log-variance of images in [-1, 1]: B F 2C h w, mean channels first, unscaled; what a cache stores."""
    frames = rgb_BF3HW.shape[1]
    images = rearrange(rgb_BF3HW, "b f c h w -> (b f) c h w")
    moments = torch.cat(
        [
            vae.encode(part.to(vae.dtype)).latent_dist.parameters  # pyright: ignore
            for part in images.tensor_split(num_slices(len(images), *images.shape[-2:]))
        ]
    )
    return rearrange(moments, "(b f) c h w -> b f c h w", f=frames)


def draw_latents(vae: AutoencoderKL, moments_BFCHW: Tensor, noise_BFCHW: Tensor) -> Tensor:
    """Latents drawn from `encode_images`' output with given standard normal noise, scaled, as BCFHW in float32."""
    mean, log_variance = moments_BFCHW.float().chunk(2, dim=2)
    # diffusers clamps the log-variance to this range
    deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
    latents = (mean + deviation * noise_BFCHW) * vae.config["scaling_factor"]
    return rearrange(latents, "b f c h w -> b c f h w")


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents_BCFHW: Tensor) -> Tensor:
    """Images B F 3 H W in [-1, 1] (clamped, float32) of scaled latents."""
    frames = latents_BCFHW.shape[2]
    latents = rearrange(latents_BCFHW, "b c f h w -> (b f) c h w") / vae.config["scaling_factor"]
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
    images = torch.cat(
        [
            vae.decode(part.to(vae.dtype), return_dict=False)[0].float().clamp(-1, 1)
            for part in latents.tensor_split(
                num_slices(len(latents), scale * latents.shape[-2], scale * latents.shape[-1])
            )
        ]
    )
    return rearrange(images, "(b f) c h w -> b f c h w", f=frames)


def num_slices(images: int, height: int, width: int) -> int:
    """In how many parts of equal length, or nearly, the VAE works on images of this size. None has one image alone,
    which a CPU's convolutions compute another way: so slices give the bits of the whole."""
    needed = -(-images * height * width // VAE_SLICE_PIXELS)
    return max(1, min(needed, images // 2))


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types and bytes of a module's tensors: the identity of a VAE, or proof of a frozen part."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
