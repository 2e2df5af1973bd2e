"""The base `tiny`: a random model of Stable Diffusion's shape, built by code in diffusers layout.

It has every part of a real base at a size that trains on a laptop: UNet of four levels, VAE with 8-fold reduction,
CLIP text encoder, a tokenizer of single characters. Everything follows from `SEED`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import platformdirs
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from trainer.model.fit import fit_unet, fit_vae, random_images

logger = logging.getLogger(__name__)

TINY = "tiny"
"""The name of this base."""
VERSION = 3
"""Part of the folder's name in the cache; raise it with every change to what `build_tiny` writes."""
SEED = 20240320
FIT_SAMPLES = 48
"""Images of 64 x 64 that the last layers are fitted on."""
START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_WIDTH = 32
WIDTHS = (32, 48, 64, 64)


def quiet_progress_bars() -> None:
    """No bars for files that load in a blink: they would cut the trainer's own lines in two."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def tiny_folder() -> Path:
    """The folder of the tiny base in the user's cache, built on first use. Safe to call from several processes."""
    folder = Path(platformdirs.user_cache_dir("lposekit")) / f"tiny-v{VERSION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="tiny-") as temporary:
            build_tiny(Path(temporary) / "base")
            move_unless_there(Path(temporary) / "base", folder)
        logger.info("built the base %s in %s", TINY, folder)
    return folder


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def move_unless_there(source: Path, target: Path) -> None:
    """Renames a folder; another process that was faster has written the same, so its folder stays."""
    try:
        os.rename(source, target)
    except OSError:
        if not target.exists():
            raise


def build_tiny(folder: Path, seed: int = SEED) -> None:
    """Writes the tiny base to a folder in diffusers layout."""
    quiet_progress_bars()
    # one thread: some processors sum in another order with two
    with torch.random.fork_rng(devices=[]), one_torch_thread():
        torch.manual_seed(seed)
        tokenizer, vae, unet, scheduler = tiny_tokenizer(), tiny_vae(), tiny_unet(), tiny_scheduler()
        fit_vae(vae, random_images(FIT_SAMPLES))
        fit_unet(unet, vae, scheduler, random_images(FIT_SAMPLES))
        tokenizer.save_pretrained(folder / "tokenizer")
        tiny_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
        vae.save_pretrained(folder / "vae")
        unet.save_pretrained(folder / "unet")
        scheduler.save_pretrained(folder / "scheduler")


def tiny_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer without merges: every printable ASCII character is a token, at a word's end another."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*characters, *(f"{character}</w>" for character in characters), START, END]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def tiny_text_encoder(tokenizer: CLIPTokenizer, width: int = TEXT_WIDTH) -> CLIPTextModel:
    """A text encoder of two layers, with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.get_vocab()[START],
            eos_token_id=tokenizer.get_vocab()[END],
            pad_token_id=tokenizer.get_vocab()[END],
        )
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore
        block_out_channels=(16, 16, 32, 32),  # pyright: ignore
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )


def tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def tiny_scheduler(prediction_type: Literal["epsilon", "v_prediction"] = "epsilon") -> DDPMScheduler:
    """The noise schedule of Stable Diffusion 1.4."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
    )
