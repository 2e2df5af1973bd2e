"""The denoising loop: from noise to latents, with guidance and pose, in one window or in many.

Tensors in, tensors out; prompts, skeletons and images are the caller's. Shape letters: B clips, C latent channels, F
frames, H and W of the latents, L text tokens, D text width.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.inference.windows import DenoisingWindow, WindowPlan
from trainer.model.blocks import VideoTransformerBlock
from trainer.model.first_frame import FirstFrame
from trainer.model.unet import VideoUNet

GUIDANCE = 12.5
"""The guidance scale of the released sampler."""

FirstFrameChoice = Literal["window", "clip"]
PoseMaps = Callable[[int, int], Sequence[Tensor] | None]
"""Feature maps BCFHW of the frames from one to another (exclusive), or None without pose."""


@dataclass(frozen=True, slots=True)
class DenoisingStep:
    """One step: its number from 0, its timestep, the noise prediction (2B)CFHW (negative half first; BCFHW without
    guidance) averaged over the windows, in float32, and the latents BCFHW after it."""

    index: int
    timestep: float
    prediction: Tensor
    latents_BCFHW: Tensor


@torch.no_grad()
def denoise(
    unet: VideoUNet,
    scheduler: Any,
    latents_BCFHW: Tensor,
    text_BLD: Tensor,
    pose_maps: PoseMaps,
    plan: WindowPlan,
    *,
    guidance: float = GUIDANCE,
    first_frame: FirstFrameChoice = "window",
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[DenoisingStep]:
    """Denoises latents step by step, with any diffusers scheduler whose steps are set.

    latents_BCFHW: standard normal times `scheduler.init_noise_sigma`. text_BLD: embeddings of the prompts; with
    `guidance` above 1 (2B)LD, those of the negative prompts first. guidance: prediction = negative + guidance *
    (prompt - negative); 1 or less runs the prompt alone. first_frame: what the windows' sparse-causal attention looks
    at, their own first frame or the clip's. eta, generator: for schedulers that draw noise.
    """
    options = step_options(scheduler, eta, generator)
    with looking_at(unet, first_frame) as blocks:
        for index, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(latents_BCFHW, timestep)
            batch = torch.cat([scaled, scaled]) if guidance > 1 else scaled

            def predict(window: DenoisingWindow, batch: Tensor = batch, timestep: Tensor = timestep) -> Tensor:
                for block in blocks:
                    block.held = window.start == 0
                frames = batch[:, :, window.start : window.stop]
                times_B = timestep.to(batch.device).expand(len(batch))
                return unet(frames, times_B, text_BLD, doubled(pose_maps(window.start, window.stop), guidance > 1))

            prediction = averaged(predict, plan.windows(index), batch)
            guided = guide(prediction, guidance)
            latents_BCFHW = scheduler.step(guided, timestep, latents_BCFHW, return_dict=False, **options)[0]
            yield DenoisingStep(index, float(timestep), prediction, latents_BCFHW)


def averaged(predict: Callable[[DenoisingWindow], Tensor], windows: Sequence[DenoisingWindow], like: Tensor) -> Tensor:
    """The mean of the windows' predictions, frame by frame over the windows in which the frame counts, in float32."""
    if len(windows) == 1:
        return predict(windows[0]).float()
    total = torch.zeros_like(like, dtype=torch.float32)
    count_F = torch.zeros(like.shape[2], device=like.device)
    for window in windows:
        counting = slice(window.counts_from, window.stop)
        total[:, :, counting] += predict(window)[:, :, window.counts_from - window.start :]
        count_F[counting] += 1
    return total / count_F[:, None, None]


def guide(prediction: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance over a batch whose first half is the negative prompts'."""
    if guidance <= 1:
        return prediction
    negative, prompt = prediction.chunk(2)
    return negative + guidance * (prompt - negative)


def doubled(maps: Sequence[Tensor] | None, guided: bool) -> list[Tensor] | None:
    """The same pose for both halves of the guidance batch."""
    if maps is None:
        return None
    return [torch.cat([x, x]) if guided else x for x in maps]


def step_options(scheduler: Any, eta: float, generator: torch.Generator | None) -> dict[str, Any]:
    """The options that this scheduler's `step` takes, as diffusers' own pipelines pass them."""
    known = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in known}


@contextlib.contextmanager
def looking_at(unet: VideoUNet, first_frame: FirstFrameChoice) -> Iterator[list[FirstFrame]]:
    """Inside, the blocks of the UNet remember the clip's first frame, if that is the choice."""
    blocks = [module for module in unet.modules() if isinstance(module, VideoTransformerBlock)]
    remembered = []
    if first_frame == "clip":
        for block in blocks:
            block.first_frame = FirstFrame()
            remembered.append(block.first_frame)
    try:
        yield remembered
    finally:
        for block in blocks:
            block.first_frame = None
