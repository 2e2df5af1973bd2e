"""Measures of clips: pose and words over all frames, stillness, and whether the weights know the order of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from trainer.data.batch import vae_input_BF3HW
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.model.base import draw_latents, encode_images, encode_text, tokenize
from trainer.smallworld.draw import Image
from trainer.smallworld.measures import flicker, identity
from trainer.smallworld.posed import measure_images
from trainer.smallworld.scene import Scene
from trainer.stages import StageModel

ORDER_SEED = 7
ORDER_TIMESTEPS = (100, 300, 500, 700)
"""Of the noise under which the order of frames is asked for."""


def measure_walks(drawn_BFHWC: Image, scenes: Sequence[Scene]) -> dict[str, float]:
    """Pose, words, flicker of the background and identity, means over the walks."""
    return {
        **measure_images(drawn_BFHWC, scenes),
        "flicker": float(np.mean([flicker(frames_FHWC) for frames_FHWC in drawn_BFHWC])),
        "identity": float(np.mean([identity(frames_FHWC) for frames_FHWC in drawn_BFHWC])),
    }


@torch.no_grad()
def order_gap(pipeline: FollowYourPosePipeline, scenes: Sequence[Scene]) -> float:
    """By how much the loss grows when the frames of walks are shuffled, as a share of the loss of walks in order: 0 if
    the weights know nothing of order."""
    scheduler: DDPMScheduler = DDPMScheduler.from_config(pipeline.scheduler.config)  # pyright: ignore
    stage = StageModel(2, pipeline.unet, None, scheduler)
    clips_BFHWC = torch.from_numpy(np.stack([scene.frames() for scene in scenes])).to(pipeline.device)
    moments = encode_images(pipeline.vae, vae_input_BF3HW(clips_BFHWC))
    random = torch.Generator().manual_seed(ORDER_SEED)
    latents = draw_latents(pipeline.vae, moments, torch.zeros_like(moments.chunk(2, dim=2)[0]))
    noise = torch.randn(latents.shape, generator=random).to(pipeline.device)
    order = torch.randperm(latents.shape[2], generator=random)
    ids_BL = tokenize(pipeline.tokenizer, [scene.words.caption for scene in scenes])
    text = encode_text(pipeline.text_encoder, ids_BL.to(pipeline.device))
    in_order, shuffled = (
        sum(
            float(stage.losses(clips, noise, torch.full((len(scenes),), timestep, device=pipeline.device), text).mean())
            for timestep in ORDER_TIMESTEPS
        )
        for clips in (latents, latents[:, :, order])
    )
    return shuffled / in_order - 1
