"""Trains the small base from scratch: first the VAE's decoder, then UNet and text encoder, on captions without pose.

`python -m trainer.smallworld.pretrain --output DIR` may be killed at any time; the same command goes on. Every step's
randomness is a function of (seed, step), so that a run in pieces gives the same weights as one in one go.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from lposekit.shards.files import replacing
from trainer.data.batch import vae_input_BF3HW
from trainer.smallworld.base_parts import LearnedParts, new_parts, new_scheduler, save_base
from trainer.smallworld.base_watch import look
from trainer.smallworld.scene import Scene, still
from trainer.smallworld.tokens import new_tokenizer
from trainer.smallworld.vae import encode_linear, new_vae

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings:
    """How the small base is trained."""

    output: Path
    """Folder of checkpoints, curve and, at the end, the base."""
    seed: int = 11
    images: int = 24_000
    """Renders that are trained on."""
    decoder_steps: int = 2500
    decoder_batch: int = 16
    decoder_lr: float = 2e-3
    steps: int = 12_000
    batch: int = 64
    lr: float = 8e-4
    warmup: int = 200
    ema: float = 0.999
    caption_dropout: float = 0.1
    clip_norm: float = 1.0
    save_s: float = 180.0
    """Seconds between two checkpoints."""
    look_every: int = 500
    """Steps between two measurements of the samples."""
    threads: int = 2


@dataclass(slots=True)
class Phase:
    """One of the two trainings: what learns, with its optimiser and moving average, and how far it is."""

    name: str
    modules: nn.ModuleDict
    steps: int
    lr: float
    settings: PretrainSettings
    optimiser: torch.optim.AdamW
    average: dict[str, Tensor]
    step: int = 0

    @property
    def path(self) -> Path:
        return self.settings.output / f"{self.name}.pt"

    def learn(self, loss: Tensor) -> None:
        """One step of the optimiser, at the rate of its place in the schedule."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * rate(self.step, self.steps, self.settings.warmup)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        self.step += 1
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self.modules.named_parameters():
                self.average[name].lerp_(weight, 1 - decay)

    def save(self) -> None:
        state = {"step": self.step, "modules": self.modules.state_dict(), "average": self.average}
        with replacing(self.path) as partial:
            torch.save({**state, "optimiser": self.optimiser.state_dict()}, partial)

    def resume(self) -> None:
        """Goes on where the checkpoint is, if there is one."""
        if self.path.exists():
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            self.modules.load_state_dict(state["modules"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], state["step"]
            log.info("%s: resuming after step %d", self.name, self.step)

    def use_average(self) -> dict[str, Tensor]:
        """Puts the moving average in; returns the weights that learn, for `put_back`."""
        before = {name: weight.detach().clone() for name, weight in self.modules.named_parameters()}
        self.put_back(self.average)
        return before

    def put_back(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.modules.named_parameters():
                weight.copy_(weights[name])


def open_phase(name: str, modules: dict[str, nn.Module], steps: int, lr: float, settings: PretrainSettings) -> Phase:
    """A phase at its start, or where its checkpoint left it."""
    learning = nn.ModuleDict(modules)
    optimiser = torch.optim.AdamW(learning.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-2)
    average = {key: weight.detach().clone() for key, weight in learning.named_parameters()}
    phase = Phase(name, learning, steps, lr, settings, optimiser, average)
    phase.resume()
    return phase


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate: up over the warm-up, then level, down to nothing over the last 40 %."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (0.4 * steps))


def main(settings: PretrainSettings) -> Path:
    """Trains what is left to train; returns the folder of the base."""
    torch.set_num_threads(settings.threads)
    settings.output.mkdir(parents=True, exist_ok=True)
    log.info("rendering %d images", settings.images)
    scenes = [still(settings.seed, "train", number) for number in range(settings.images)]
    rgb_BHWC = np.concatenate([scene.frames() for scene in scenes])
    vae = new_vae(as_tensor(rgb_BHWC[:1000]))
    train_decoder(settings, vae, rgb_BHWC)
    parts = train_base(settings, vae, scenes, encode_all(vae, rgb_BHWC))
    folder = settings.output / "base"
    save_base(folder, vae, parts)
    log.info("the base is in %s", folder)
    return folder


def as_tensor(rgb_BHWC: np.ndarray) -> Tensor:
    """Images B3HW in [-1, 1]."""
    return vae_input_BF3HW(torch.from_numpy(rgb_BHWC)[:, None])[:, 0]


def encode_all(vae: AutoencoderKL, rgb_BHWC: np.ndarray) -> Tensor:
    return torch.cat([encode_linear(vae, as_tensor(part)) for part in np.array_split(rgb_BHWC, len(rgb_BHWC) // 500 + 1)])


def generator(settings: PretrainSettings, phase: Phase) -> torch.Generator:
    """The randomness of a phase's next step."""
    return torch.Generator().manual_seed((settings.seed << 32) + (phase.name == "base") * (1 << 30) + phase.step)


def train_decoder(settings: PretrainSettings, vae: AutoencoderKL, rgb_BHWC: np.ndarray) -> None:
    """The decoder learns the inverse of the encoder, from latents with a little noise, as samples have."""
    modules = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    phase = open_phase("decoder", modules, settings.decoder_steps, settings.decoder_lr, settings)  # pyright: ignore
    for _ in running(phase):
        random = generator(settings, phase)
        chosen = torch.randint(0, len(rgb_BHWC), (settings.decoder_batch,), generator=random)
        images = as_tensor(rgb_BHWC[chosen.numpy()])
        latents = encode_linear(vae, images)
        noisy = latents + 0.03 * torch.randn(latents.shape, generator=random)
        loss = functional.l1_loss(vae.decode(noisy).sample, images)  # pyright: ignore
        phase.learn(loss)
        note(phase, {"loss": float(loss.detach())})
    phase.put_back(phase.average)


def train_base(settings: PretrainSettings, vae: AutoencoderKL, scenes: list[Scene], latents: Tensor) -> LearnedParts:
    """UNet and text encoder learn to denoise, with captions of which some are left out."""
    parts, scheduler, tokenizer = new_parts(settings.seed), new_scheduler(), new_tokenizer()
    parts.unet.to(memory_format=torch.channels_last)  # pyright: ignore
    captions = ["", *sorted({scene.words.caption for scene in scenes})]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt")["input_ids"]
    said = torch.tensor([captions.index(scene.words.caption) for scene in scenes])
    modules = {"unet": parts.unet, "text_encoder": parts.text_encoder}
    phase = open_phase("base", modules, settings.steps, settings.lr, settings)  # pyright: ignore
    for _ in running(phase):
        random = generator(settings, phase)
        chosen = torch.randint(0, len(latents), (settings.batch,), generator=random)
        kept = torch.rand(settings.batch, generator=random) >= settings.caption_dropout
        text = parts.text_encoder(ids[said[chosen] * kept])[0]
        noise = torch.randn(latents[chosen].shape, generator=random)
        # one timestep from each of as many slices: the loss is less noisy
        places = torch.arange(settings.batch) + torch.rand(settings.batch, generator=random)
        timesteps = (places * 1000 / settings.batch).long()
        noisy = scheduler.add_noise(latents[chosen], noise, timesteps)  # pyright: ignore
        target = scheduler.get_velocity(latents[chosen], noise, timesteps)  # pyright: ignore
        noisy = noisy.to(memory_format=torch.channels_last)
        loss = functional.mse_loss(parts.unet(noisy, timesteps, text).sample, target)
        phase.learn(loss)
        note(phase, {"loss": float(loss.detach())})
        if phase.step % settings.look_every == 0 or phase.step == phase.steps:
            before = phase.use_average()
            note(phase, look(vae, parts, settings.output / f"samples-{phase.step:06d}.png"), every=1)
            phase.put_back(before)
    phase.put_back(phase.average)
    return parts


def running(phase: Phase) -> Iterator[None]:
    """The steps that are left, with a checkpoint from time to time and at the end."""
    saved = time.monotonic()
    while phase.step < phase.steps:
        yield
        if time.monotonic() - saved > phase.settings.save_s or phase.step == phase.steps:
            phase.save()
            saved = time.monotonic()


def note(phase: Phase, values: dict[str, float], every: int = 50) -> None:
    """A line of the curve."""
    if phase.step % every == 0:
        line = {"phase": phase.name, "step": phase.step, "time": round(time.time(), 1), **values}
        with (phase.settings.output / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        log.info("%s", line)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(tyro.cli(PretrainSettings))
