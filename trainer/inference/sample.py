"""The DDIM loop: from noise to latents, with guidance and pose.

Tensors in, tensors out; prompts, skeleton videos and images are the caller's. Shape letters: B clips, C latent
channels, F frames, H and W of the latents, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from trainer.model.unet import VideoUNet

GUIDANCE = 12.5
"""The guidance scale of the released sampler."""


@dataclass(frozen=True, slots=True)
class DdimStep:
    """One step: its timestep, the UNet's raw output (2B)CFHW (negative half first; BCFHW without guidance), and the
    latents BCFHW after it."""

    timestep: int
    unet_out: Tensor
    latents_BCFHW: Tensor


def ddim_scheduler(scheduler: SchedulerMixin, steps: int) -> DDIMScheduler:
    """DDIM as the released sampler sets it (eta 0, offset 1, final alpha that of step 0, no clipping) over the betas
    of `scheduler`, set to `steps` steps."""
    betas = {key: scheduler.config[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}  # pyright: ignore
    ddim = DDIMScheduler(
        **betas,
        prediction_type=scheduler.config.get("prediction_type", "epsilon"),  # pyright: ignore
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    ddim.set_timesteps(steps)
    return ddim


@torch.no_grad()
def ddim_steps(
    unet: VideoUNet,
    ddim: DDIMScheduler,
    latents_BCFHW: Tensor,
    prompt_BLD: Tensor,
    negative_BLD: Tensor,
    pose_features: Sequence[Tensor] | None = None,
    guidance: float = GUIDANCE,
) -> Iterator[DdimStep]:
    """Denoises standard normal latents, one step at a time, all frames as one clip.

    pose_features: the pose encoder's maps of the B clips, computed once; both halves of the guidance batch get them.
    guidance: prediction = negative + guidance * (prompt - negative); 1 or less runs the prompt alone.
    """
    guided = guidance > 1
    text = torch.cat([negative_BLD, prompt_BLD]) if guided else prompt_BLD
    pose = None if pose_features is None else [torch.cat([x, x]) if guided else x for x in pose_features]
    for timestep in ddim.timesteps.tolist():
        batch = torch.cat([latents_BCFHW, latents_BCFHW]) if guided else latents_BCFHW
        out = unet(batch, torch.full((len(batch),), timestep, device=batch.device), text, pose)
        prediction = out.to(latents_BCFHW.dtype)
        if guided:
            negative, prompt = prediction.chunk(2)
            prediction = negative + guidance * (prompt - negative)
        latents_BCFHW = ddim.step(prediction, timestep, latents_BCFHW, eta=0.0, return_dict=False)[0]  # pyright: ignore
        yield DdimStep(timestep, out, latents_BCFHW)


def ddim_sample(
    unet: VideoUNet,
    ddim: DDIMScheduler,
    latents_BCFHW: Tensor,
    prompt_BLD: Tensor,
    negative_BLD: Tensor,
    pose_features: Sequence[Tensor] | None = None,
    guidance: float = GUIDANCE,
) -> Tensor:
    """The latents after the last step of `ddim_steps`."""
    for step in ddim_steps(unet, ddim, latents_BCFHW, prompt_BLD, negative_BLD, pose_features, guidance):
        latents_BCFHW = step.latents_BCFHW
    return latents_BCFHW
