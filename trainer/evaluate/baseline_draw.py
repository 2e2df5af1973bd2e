"""Draws a pair with a baseline: diffusers' own pipeline, each frame by itself.

Shape letters: F frames, C channels, H and W of images (h and w of their latents).
"""

from __future__ import annotations

import warnings
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from einops import rearrange
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lposekit.errors import LposekitError
from trainer.evaluate.baseline import KINDS, Baseline
from trainer.evaluate.protocol import Pair
from trainer.evaluate.settings import BaselineSettings
from trainer.inference.pipeline import settle
from trainer.inference.pose_input import Frames
from trainer.inference.schedulers import make_scheduler
from trainer.inference.settings import SampleSettings
from trainer.model.base import load_base
from trainer.model.base_check import load_part
from trainer.run.sampler import safety_modules


def load_baseline(baseline: Baseline, sampling: SampleSettings) -> DiffusionPipeline:
    """The pipeline in float32 on the CPU, with the scheduler of the settings.

    Raises:
        UsageError: base or weights are damaged, or not there.
    """
    kind, base = KINDS[baseline.kind], load_base(baseline.base)

    def load() -> Any:
        return kind.model.from_pretrained(baseline.folder, output_loading_info=True, torch_dtype=torch.float32)

    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": make_scheduler(sampling.scheduler, base.scheduler.config),
        kind.part: load_part(baseline.facts.name, baseline.folder, load),
        "safety_checker": None,
        "feature_extractor": None,
    }
    if sampling.safety_checker:
        parts |= safety_modules(baseline.base)
    for part in parts.values():
        if isinstance(part, nn.Module):
            settle(part)
    pipeline = _pipeline_class(kind.pipeline)(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_class(name: str) -> Any:
    """A class of diffusers, which is imported here: it would warn everybody else that torchvision is missing."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return getattr(diffusers, name)
    finally:
        transformers_logging.set_verbosity(before)


def draw_baseline(
    pipeline: Any,
    kind: str,
    pair: Pair,
    skeletons_FHWC: Frames,
    sampling: SampleSettings,
    baseline: BaselineSettings,
) -> Frames:
    """The frames of a pair, RGB uint8 [F, H, W, 3].

    Raises:
        LposekitError: the numbers overflow.
    """
    generator = torch.Generator().manual_seed(pair.seed)
    pose_F3HW = rearrange(torch.from_numpy(skeletons_FHWC), "f h w c -> f c h w") / 255
    noise_FChw = frame_noise(pipeline, pose_F3HW, generator, same=baseline.same_noise)
    # one for each frame, so that what `eta` adds does not depend on the batch
    seeds = torch.randint(2**62, (len(pose_F3HW),), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn = []
    for start in range(0, len(pose_F3HW), baseline.batch_size):
        batch = slice(start, start + baseline.batch_size)
        pose = pose_F3HW[batch]
        drawn.append(
            _call(
                pipeline,
                prompt=[pair.prompt] * len(pose),
                image=pose,
                height=pose.shape[-2],
                width=pose.shape[-1],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                eta=sampling.eta,
                generator=generators[batch],
                latents=noise_FChw[batch].to(pipeline.unet.dtype),
                output_type="np",
                **{KINDS[kind].scale: baseline.scale},
            )
        )
    return as_bytes(np.concatenate(drawn))


def _call(pipeline: Any, **arguments: Any) -> npt.NDArray[np.floating]:
    """What a pipeline draws; of its own use of what diffusers will remove, the user hears nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return pipeline(**arguments).images


def frame_noise(pipeline: Any, pose_F3HW: Tensor, generator: torch.Generator, *, same: bool) -> Tensor:
    """Standard normal noise FChw, for each frame its own, as `FollowYourPosePipeline` draws it; or that of the first
    one for all."""
    frames, _, height, width = pose_F3HW.shape
    scale = pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config["in_channels"], frames, height // scale, width // scale)
    noise_FChw = rearrange(torch.randn(shape, generator=generator), "1 c f h w -> f c h w")
    return noise_FChw[:1].expand_as(noise_FChw) if same else noise_FChw


def as_bytes(frames_FHWC: npt.NDArray[np.floating]) -> Frames:
    """Frames of 0..1 as uint8. Raises LposekitError: they are not finite, and would be black without a word."""
    if not np.isfinite(frames_FHWC).all():
        raise LposekitError(
            "the result is not finite: its numbers overflowed. Take --compute.precision fp32, or a smaller "
            "--drawing.guidance."
        )
    return np.round(255 * frames_FHWC).astype(np.uint8)
