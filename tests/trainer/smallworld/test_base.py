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
from trainer.smallworld.base_parts import new_parts
from trainer.smallworld.base_watch import draw_captions
from trainer.smallworld.pretrain import PretrainSettings, as_tensor, main
from trainer.smallworld.scene import still
from trainer.smallworld.tokens import LENGTH, caption_words, new_tokenizer
from trainer.smallworld.vae import LATENT_CHANNELS, encode_linear, new_vae
from trainer.smallworld.words import ALL_WORDS


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
    # Mutation tried: the last merge of every word left out -> red.
    tokenizer = new_tokenizer()
    for word in caption_words():
        assert len(tokenizer(word)["input_ids"]) == 3, word  # with start and end
    ids = tokenize(tokenizer, [words.caption for words in ALL_WORDS])
    assert ids.shape == (len(ALL_WORDS), LENGTH)
    assert len({tuple(row) for row in ids.tolist()}) == len(ALL_WORDS)
    assert tokenizer.decode(tokenizer("zebra")["input_ids"], skip_special_tokens=True) == "zebra"


def settings(output: Path) -> PretrainSettings:
    counts = {"images": 60, "decoder_steps": 3, "decoder_batch": 2, "steps": 3, "batch": 4, "look_every": 0}
    return PretrainSettings(output=output, save_s=0, **counts)


def killed_at(output: Path, point: str, marker: Path) -> int:
    """Trains in a process of its own, which is killed at a fault point; returns its exit status."""
    code = (
        "import sys, pathlib; from tests.trainer.smallworld import test_base as t; t.train(pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "LPOSEKIT_FAULT": f"smallworld:{point}@{marker}"}
    return subprocess.run([sys.executable, "-c", code, str(output)], env=environment, check=False).returncode


def train(output: Path) -> Path:
    return main(settings(output))


@pytest.mark.parametrize("point", ["base_step_2", pytest.param("decoder_step_2", marks=pytest.mark.more)])
def test_a_base_trained_in_pieces_is_the_base_trained_in_one_go_and_the_trainer_loads_it(
    point: str, tmp_path: Path
) -> None:
    # Mutations tried: the optimiser's state not restored -> red; timesteps from torch's global generator -> red; the
    # moving average not restored -> red.
    whole = train(tmp_path / "whole")
    assert killed_at(tmp_path / "pieces", point, tmp_path / "marker") == -signal.SIGKILL
    pieces = train(tmp_path / "pieces")
    files = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
    for name in [*files, "text_encoder/model.safetensors"]:
        assert (whole / name).read_bytes() == (pieces / name).read_bytes(), name
    base = load_base(str(whole))
    assert base.unet.config["in_channels"] == LATENT_CHANNELS
    assert base.scheduler.config["prediction_type"] == "v_prediction"
    assert sum(file.stat().st_size for file in whole.rglob("*") if file.is_file()) < 8_000_000


@pytest.mark.more
def test_samples_of_captions_are_images_and_the_same_each_time(vae: AutoencoderKL) -> None:
    # Mutation tried: noise from torch's global generator -> red.
    parts, words = new_parts(0), list(ALL_WORDS[:2])
    first, again = draw_captions(vae, parts, words), draw_captions(vae, parts, words)
    assert first.shape == (2, 64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
