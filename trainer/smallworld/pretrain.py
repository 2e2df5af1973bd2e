"""Trains the small base from scratch: first the VAE's decoder, then UNet and text encoder, on captions without pose.

`python -m trainer.smallworld.pretrain --output DIR` may be killed at any time; the same command goes on. Every step's
randomness is a function of (seed, phase, step), so a run in pieces gives the same weights as one in one go.

Shape letters: B images, C channels, H and W of an image.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from lposekit.setting_flags import parse_flags
from lposekit.setting_values import leaves
from lposekit.settings import Layer, merge
from trainer.data.batch import vae_input_BF3HW
from trainer.smallworld.base_parts import LearnedParts, new_parts, new_scheduler, save_base
from trainer.smallworld.base_watch import look
from trainer.smallworld.draw import Image
from trainer.smallworld.phase import Phase, open_phase
from trainer.smallworld.scene import Scene, still
from trainer.smallworld.tokens import new_tokenizer
from trainer.smallworld.vae import encode_linear, new_vae

log = logging.getLogger(__name__)

FITTED_IMAGES = 1000
"""Renders that the VAE's encoder is set from."""
LATENT_NOISE = 0.03
"""Deviation of what the decoder's latents are off by in training, as samples are."""
NOTE_EVERY = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings:
    """How the small base is trained."""

    output: Path
    """Folder of checkpoints, curve and, at the end, the base."""
    seed: int = 11
    """Decides images, weights and every step."""
    images: int = 24_000
    """Renders that are trained on."""
    decoder_steps: int = 1800
    """Steps of the VAE's decoder."""
    decoder_batch: int = 16
    """Images of each."""
    decoder_lr: float = 2e-3
    """Their highest learning rate."""
    steps: int = 6000
    """Steps of UNet and text encoder."""
    batch: int = 64
    """Images of each."""
    lr: float = 8e-4
    """Their highest learning rate."""
    caption_dropout: float = 0.1
    """Share of captions that are replaced by the empty one, for guidance."""
    save_s: float = 180.0
    """Seconds between two checkpoints."""
    look_every: int = 500
    """Steps between two measurements of the samples; 0: never."""
    threads: int = 1
    """Torch threads. Other numbers give other last digits; with one, a loaded machine loses least."""


def main(settings: PretrainSettings) -> Path:
    """Trains what is left to train; returns the folder of the base."""
    torch.set_num_threads(settings.threads)
    settings.output.mkdir(parents=True, exist_ok=True)
    log.info("rendering %d images", settings.images)
    scenes = [still(settings.seed, "train", number) for number in range(settings.images)]
    rgb_BHWC = np.concatenate([scene.frames() for scene in scenes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        vae = new_vae(as_tensor(rgb_BHWC[:FITTED_IMAGES]))
    train_decoder(settings, vae, rgb_BHWC)
    parts = train_base(settings, vae, scenes, encode_all(vae, rgb_BHWC))
    folder = settings.output / "base"
    save_base(folder, vae, parts)
    log.info("the base is in %s", folder)
    return folder


def train_decoder(settings: PretrainSettings, vae: AutoencoderKL, rgb_BHWC: Image) -> None:
    """The decoder learns the inverse of the encoder, in place."""
    modules = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    path = settings.output / "decoder.pt"
    phase = open_phase(path, modules, settings.decoder_steps, settings.decoder_lr, settings.save_s)  # pyright: ignore
    for step in phase.running():
        random = torch.Generator().manual_seed((settings.seed << 32) + step)
        chosen = torch.randint(0, len(rgb_BHWC), (settings.decoder_batch,), generator=random)
        images = as_tensor(rgb_BHWC[chosen.numpy()])
        latents = encode_linear(vae, images)
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=random)
        loss = functional.l1_loss(vae.decode(noisy).sample, images)  # pyright: ignore
        phase.learn(loss)
        note_loss(settings, phase, loss)
    phase.put(phase.average)


def train_base(settings: PretrainSettings, vae: AutoencoderKL, scenes: list[Scene], latents: Tensor) -> LearnedParts:
    """UNet and text encoder learn to denoise latents BCHW of the scenes."""
    parts = new_parts(settings.seed)
    parts.unet.to(memory_format=torch.channels_last)  # pyright: ignore
    captions = ["", *sorted({scene.words.caption for scene in scenes})]
    ids = new_tokenizer()(captions, padding="max_length", return_tensors="pt")["input_ids"]
    said = torch.tensor([captions.index(scene.words.caption) for scene in scenes])
    modules = {"unet": parts.unet, "text_encoder": parts.text_encoder}
    phase = open_phase(settings.output / "base.pt", modules, settings.steps, settings.lr, settings.save_s)  # pyright: ignore
    for step in phase.running():
        random = torch.Generator().manual_seed((settings.seed << 32) + (1 << 30) + step)
        chosen = torch.randint(0, len(latents), (settings.batch,), generator=random)
        kept = torch.rand(settings.batch, generator=random) >= settings.caption_dropout
        loss = denoising_loss(parts, latents[chosen], ids[said[chosen] * kept], random)
        phase.learn(loss)
        note_loss(settings, phase, loss)
        if settings.look_every and (phase.step % settings.look_every == 0 or phase.step == phase.steps):
            learning = phase.weights()
            phase.put(phase.average)
            note(settings, phase, look(vae, parts, settings.output / f"samples-{phase.step:06d}.png"))
            phase.put(learning)
    phase.put(phase.average)
    return parts


def denoising_loss(parts: LearnedParts, latents_BCHW: Tensor, ids_BL: Tensor, random: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity. One timestep comes from each of B slices: it is less noisy so."""
    scheduler, count = new_scheduler(), len(latents_BCHW)
    noise = torch.randn(latents_BCHW.shape, generator=random)
    places = (torch.arange(count) + torch.rand(count, generator=random)) / count
    timesteps = (places * scheduler.config["num_train_timesteps"]).long()
    noisy = scheduler.add_noise(latents_BCHW, noise, timesteps)  # pyright: ignore
    target = scheduler.get_velocity(latents_BCHW, noise, timesteps)  # pyright: ignore
    noisy = noisy.to(memory_format=torch.channels_last)
    return functional.mse_loss(parts.unet(noisy, timesteps, parts.text_encoder(ids_BL)[0]).sample, target)


def as_tensor(rgb_BHWC: Image) -> Tensor:
    """Images B3HW in [-1, 1]."""
    return vae_input_BF3HW(torch.from_numpy(rgb_BHWC)[:, None])[:, 0]


def encode_all(vae: AutoencoderKL, rgb_BHWC: Image) -> Tensor:
    """Latents of all images, a part at a time."""
    parts = np.array_split(rgb_BHWC, len(rgb_BHWC) // 500 + 1)
    return torch.cat([encode_linear(vae, as_tensor(part)) for part in parts])


def note_loss(settings: PretrainSettings, phase: Phase, loss: Tensor) -> None:
    if phase.step % NOTE_EVERY == 0:
        note(settings, phase, {"loss": float(loss.detach())})


def note(settings: PretrainSettings, phase: Phase, values: dict[str, float]) -> None:
    """A line of the curve."""
    line = {"phase": phase.name, "step": phase.step, "time": round(time.time(), 1), **values}
    with (settings.output / "curve.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    log.info("%s", line)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(merge(PretrainSettings, [Layer("flags", parse_flags(sys.argv[1:], leaves(PretrainSettings)).values)]))
