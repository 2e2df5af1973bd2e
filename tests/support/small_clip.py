"""A CLIP model of the small world, trained from scratch in seconds, saved as `CLIPModel.save_pretrained` does."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.support.train_runs import scratch
from trainer.smallworld.scene import Scene, still
from trainer.smallworld.tokens import LENGTH, new_tokenizer

STEPS, BATCH, LR = 60, 32, 1e-3
SEED = 5


def scenes(split: str, count: int) -> list[Scene]:
    """Scenes of one frame."""
    return [still(SEED, split, number) for number in range(count)]  # pyright: ignore


@functools.cache
def small_clip() -> Path:
    """The folder of the trained model, made once."""
    torch.set_num_threads(1)
    folder = scratch() / "small-clip"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = new_tokenizer()
        images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})  # pyright: ignore
        model = CLIPModel(_config(len(tokenizer), int(tokenizer.eos_token_id)))  # pyright: ignore
        taught = scenes("train", 8 * BATCH)
        pixels = images(images=[scene.frames()[0] for scene in taught], return_tensors="pt").pixel_values
        ids = tokenizer([s.words.caption for s in taught], padding="max_length", return_tensors="pt").input_ids
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        order = np.random.default_rng(0)
        for _ in range(STEPS):
            batch = torch.from_numpy(order.choice(len(taught), BATCH, replace=False))
            loss = model(input_ids=ids[batch], pixel_values=pixels[batch], return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for part in (model, tokenizer, images):
        part.save_pretrained(folder)
    return folder


def _config(words: int, end: int) -> CLIPConfig:
    common = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **common,
        "vocab_size": words,
        "max_position_embeddings": LENGTH,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {**common, "image_size": 64, "patch_size": 8}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
