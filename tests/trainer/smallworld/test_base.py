"""Contract: the VAE's encoder is exactly the linear map it is meant to be; every word is one token; training in pieces
gives the same base as in one go; the trainer loads the base.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from trainer.model.base import load_base, tokenize
from trainer.smallworld.pretrain import as_tensor
from trainer.smallworld.scene import still
from trainer.smallworld.tokens import LENGTH, caption_words, new_tokenizer
from trainer.smallworld.vae import LATENT_CHANNELS, encode_linear, new_vae
from trainer.smallworld.words import ALL_WORDS

SETTINGS = ("--images", "60", "--decoder-steps", "3", "--decoder-batch", "2", "--steps", "3", "--batch", "4")


@pytest.fixture(scope="module")
def images_B3HW() -> torch.Tensor:
    return as_tensor(np.concatenate([still(9, "train", number).frames() for number in range(120)]))


@pytest.fixture(scope="module")
def vae(images_B3HW: torch.Tensor) -> AutoencoderKL:
    return new_vae(images_B3HW)


@torch.no_grad()
def test_the_encoder_computes_the_linear_map_that_its_fast_form_computes(
    vae: AutoencoderKL, images_B3HW: torch.Tensor
) -> None:
    # Mutations tried: residual branches left random -> red; the constants in the last norm at 2 -> red; -x not
    # subtracted behind the SiLU -> red.
    exact = vae.encode(images_B3HW[:16]).latent_dist.mean  # pyright: ignore
    assert exact.shape == (16, LATENT_CHANNELS, 8, 8)
    assert (exact - encode_linear(vae, images_B3HW[:16])).abs().max() < 3e-3


@torch.no_grad()
def test_latents_hold_nearly_all_of_an_image_that_is_there_at_half_its_size(
    vae: AutoencoderKL, images_B3HW: torch.Tensor
) -> None:
    # Mutation tried: the components of least variance kept instead -> red.
    latents = encode_linear(vae, images_B3HW)
    assert latents.square().mean() == pytest.approx(1, abs=0.05)
    halved = torch.nn.functional.avg_pool2d(images_B3HW, 2)
    cells = torch.nn.functional.pixel_unshuffle(halved, 4).permute(0, 2, 3, 1).reshape(-1, 48)
    codes = latents.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS)
    codes = torch.cat([codes, torch.ones(len(codes), 1)], dim=1)
    restored = codes @ torch.linalg.lstsq(codes, cells).solution
    assert (restored - cells).square().mean() / cells.var(0).mean() < 0.03


@torch.no_grad()
def test_latents_are_drawn_with_hardly_any_noise(vae: AutoencoderKL, images_B3HW: torch.Tensor) -> None:
    # Mutation tried: the log-variance left at 0 -> red.
    assert float(vae.encode(images_B3HW[:2]).latent_dist.std.max()) < 0.01  # pyright: ignore


def test_every_word_of_the_captions_is_one_token_and_others_are_letters() -> None:
    # Mutation tried: merges from the start of the words, so that one word's merge cuts another's -> red.
    tokenizer = new_tokenizer()
    for word in caption_words():
        assert len(tokenizer(word)["input_ids"]) == 3, word  # with start and end
    ids = tokenize(tokenizer, [words.caption for words in ALL_WORDS])
    assert ids.shape == (len(ALL_WORDS), LENGTH)
    assert len({tuple(row) for row in ids.tolist()}) == len(ALL_WORDS)
    assert tokenizer.decode(tokenizer("zebra")["input_ids"], skip_special_tokens=True) == "zebra"


def pretrain(output: Path, fault: str = "") -> int:
    command = [sys.executable, "-m", "trainer.smallworld.pretrain", "--output", str(output), *SETTINGS]
    command += ["--look-every", "0", "--save-s", "0"]
    environment = {**os.environ, "LPOSEKIT_FAULT": fault}
    return subprocess.run(command, env=environment, check=False, capture_output=True).returncode


def test_a_base_trained_in_pieces_is_the_base_trained_in_one_go_and_the_trainer_loads_it(tmp_path: Path) -> None:
    # Mutations tried: the optimiser's state left out of the checkpoint -> red; timesteps from torch's global generator
    # -> red; the moving average not restored -> red.
    assert pretrain(tmp_path / "whole") == 0
    for point in ("decoder_step_2", "base_step_2"):
        assert pretrain(tmp_path / "pieces", f"smallworld:{point}@{tmp_path / point}") == -signal.SIGKILL
    assert pretrain(tmp_path / "pieces") == 0
    files = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
    for name in [*files, "text_encoder/model.safetensors"]:
        assert (tmp_path / "whole/base" / name).read_bytes() == (tmp_path / "pieces/base" / name).read_bytes(), name
    base = load_base(str(tmp_path / "whole/base"))
    assert base.unet.config["in_channels"] == LATENT_CHANNELS
    assert sum(file.stat().st_size for file in (tmp_path / "whole/base").rglob("*") if file.is_file()) < 8_000_000
