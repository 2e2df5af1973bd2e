"""The released sampler's DDIM, all frames as one clip: for validation images and comparisons.

Shape letters: B clips, C latent channels, F frames, H and W of the latents, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from trainer.inference.denoise import GUIDANCE, DenoisingStep, denoise
from trainer.inference.schedulers import make_scheduler
from trainer.inference.windows import WindowPlan
from trainer.model.unet import VideoUNet


def ddim_scheduler(scheduler: SchedulerMixin, steps: int) -> DDIMScheduler:
    """DDIM as the released sampler sets it (eta 0, offset 1, final alpha that of step 0, no clipping) over the betas
    of `scheduler`, set to `steps` steps."""
    ddim = make_scheduler("ddim", scheduler.config)  # pyright: ignore
    ddim.set_timesteps(steps)
    return ddim


def ddim_steps(
    unet: VideoUNet,
    ddim: DDIMScheduler,
    latents_BCFHW: Tensor,
    prompt_BLD: Tensor,
    negative_BLD: Tensor,
    pose_features: Sequence[Tensor] | None = None,
    guidance: float = GUIDANCE,
) -> Iterator[DenoisingStep]:
    """Denoises standard normal latents, one step at a time (see `denoise`).

    pose_features: the pose encoder's maps of the B clips, computed once; both halves of the guidance batch get them.
    """
    text = torch.cat([negative_BLD, prompt_BLD]) if guidance > 1 else prompt_BLD
    frames = latents_BCFHW.shape[2]
    plan = WindowPlan(frames, frames)
    return denoise(unet, ddim, latents_BCFHW, text, lambda *_: pose_features, plan, guidance=guidance)


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
