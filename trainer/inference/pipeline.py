"""`FollowYourPosePipeline`: prompt and skeleton images in, frames out. A diffusers pipeline: it saves, loads and moves
like any other.

Shape letters: F frames, H and W of the images (h and w of their latents), C channels, L text tokens, D text width. One
clip a call; memory grows with the window, not with the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.utils.outputs import BaseOutput
from einops import rearrange
from torch import Tensor, nn
from transformers import BaseImageProcessor, CLIPTextModel, CLIPTokenizer

from lposekit.errors import LposekitError
from trainer.inference.denoise import GUIDANCE, DenoisingStep, FirstFrameChoice, PoseMaps, denoise
from trainer.inference.windows import Method, WindowPlan
from trainer.model.base import decode_latents, encode_text, tokenize
from trainer.model.unet import VideoUNet

Frames = npt.NDArray[np.uint8]

STEPS = 50
WINDOW_FRAMES = 32
"""As many frames as the released sampler draws in one pass."""
OVERLAP_FRAMES = 8
ALIGNMENT = 64
"""Bytes; what torch's own allocator gives on a CPU."""
KEPT_MAPS = 32
"""Frames whose pose features are kept over all steps, at most: at 512 pixels each takes 10 MiB in float32."""


@dataclass
class FollowYourPoseOutput(BaseOutput):
    """frames: RGB uint8 [F, H, W, 3], or latents BCFHW. flagged: frames that the safety checker turned black."""

    frames: Any
    flagged: list[int]


class FollowYourPosePipeline(DiffusionPipeline):
    """Text and skeletons to video (or, with weights of stage 1, to images).

    The pose encoder is a diffusers `T2IAdapter`; without one there is no pose. Scalars, kept in `model_index.json`:

    stage: 2 draws clips, 1 single images. size: side length that it was trained with, in pixels. frames: of the clips
    it was trained with. pose_style, pose_line_width (in pixels of a training image; None: the style's): how its
    skeletons must be drawn.
    """

    model_cpu_offload_seq = "text_encoder->pose_encoder->unet->vae"
    _optional_components = ["pose_encoder", "safety_checker", "feature_extractor"]  # noqa: RUF012 (diffusers' own form)

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: VideoUNet
    scheduler: Any
    pose_encoder: T2IAdapter | None
    safety_checker: StableDiffusionSafetyChecker | None
    feature_extractor: BaseImageProcessor | None

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: VideoUNet,
        scheduler: Any,
        pose_encoder: T2IAdapter | None = None,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        stage: int = 2,
        size: int = 512,
        frames: int = 8,
        pose_style: str = "followyourpose",
        pose_line_width: float | None = None,
    ) -> None:
        super().__init__()
        for module in (vae, text_encoder, unet, pose_encoder, safety_checker):
            settle(module)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            pose_encoder=pose_encoder,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(
            stage=stage, size=size, frames=frames, pose_style=pose_style, pose_line_width=pose_line_width
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | None = None,
        pose: Frames | Tensor | None = None,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = STEPS,
        guidance_scale: float = GUIDANCE,
        negative_prompt: str = "",
        eta: float = 0.0,
        seed: int = 33,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        window: int = WINDOW_FRAMES,
        overlap: int = OVERLAP_FRAMES,
        long_method: Method = "average",
        first_frame: FirstFrameChoice = "window",
        vae_slice: int = 1,
        output_type: str = "np",
        on_step: Callable[[DenoisingStep], None] | None = None,
    ) -> FollowYourPoseOutput:
        """Draw one clip.

        pose: skeleton images, RGB uint8 [F, H, W, 3] or float [1, F, 3, H, W] in [0, 1]; they also give the number of
        frames and the size, which `num_frames`, `height` and `width` give without them (multiples of 8).
        seed: of the noise, drawn on the CPU, alike on every device. latents: noise to start from, BCFHW. prompt_embeds:
        1LD, instead of a prompt. window, overlap, long_method, first_frame: see `WindowPlan` and `denoise`; clips of up
        to `window` frames run as one. vae_slice: frames that the VAE decodes at a time. output_type: `np` or
        `latent`. on_step: called after every step.

        Raises ValueError for inputs that do not fit one another, LposekitError if the numbers overflow.
        """
        generator = torch.Generator().manual_seed(seed)
        self.scheduler.set_timesteps(num_inference_steps)
        pose = checked_pose(pose)
        if latents is None:
            sigma = float(self.scheduler.init_noise_sigma)
            latents = self._noise(pose, num_frames, height, width, generator) * sigma
        text = self._text(prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, guidance_scale)
        plan = WindowPlan(latents.shape[2], window, overlap, long_method)
        if self.config["stage"] == 1:
            # every image by itself
            plan = WindowPlan(latents.shape[2], 1)
        maps = self._pose_maps(pose, plan)
        latents = latents.to(self._execution_device)
        options = {"guidance": guidance_scale, "first_frame": first_frame, "eta": eta, "generator": generator}
        for step in denoise(self.unet, self.scheduler, latents, text, maps, plan, **options):
            latents = step.latents_BCFHW
            if on_step:
                on_step(step)
        refuse_overflow(latents)
        if output_type == "latent":
            return FollowYourPoseOutput(frames=latents, flagged=[])
        frames, flagged = self._images(latents, vae_slice)
        self.maybe_free_model_hooks()
        return FollowYourPoseOutput(frames=frames, flagged=flagged)

    def _noise(
        self,
        pose: Tensor | None,
        num_frames: int | None,
        height: int | None,
        width: int | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Independent standard normal noise for every frame, as the released sampler draws it, 1CFhw on the CPU."""
        if pose is not None:
            num_frames, (height, width) = pose.shape[1], pose.shape[-2:]
        size, scale = self.config["size"], 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        frames = num_frames or (self.config["frames"] if self.config["stage"] == 2 else 1)
        height, width = height or size, width or size
        if height % scale or width % scale:
            raise ValueError(f"images of {width} x {height} pixels: both sides must be multiples of {scale}")
        shape = (1, self.unet.config["in_channels"], frames, height // scale, width // scale)
        return torch.randn(shape, generator=generator)

    def _text(
        self,
        prompt: str | None,
        embeds: Tensor | None,
        negative: str,
        negative_embeds: Tensor | None,
        guidance: float,
    ) -> Tensor:
        """Embeddings LD of the prompt, behind those of the negative one if there is guidance."""
        if (prompt is None) == (embeds is None):
            raise ValueError("give either a prompt or prompt_embeds")
        parts = [(prompt or "", embeds)]
        if guidance > 1:
            parts.insert(0, (negative, negative_embeds))
        return torch.cat([self._encoded(text, given) for text, given in parts])

    def _encoded(self, text: str, given: Tensor | None) -> Tensor:
        if given is None:
            given = encode_text(self.text_encoder, tokenize(self.tokenizer, [text]).to(self._execution_device))
        return given.to(self._execution_device, self.unet.conv_in.weight.dtype)

    def _pose_maps(self, pose: Tensor | None, plan: WindowPlan) -> PoseMaps:
        """The pose encoder's maps of a stretch of frames.

        Maps of a clip that fits are computed once; those of a longer one, again for every window, which costs 3 % of
        the arithmetic and keeps the memory bounded.
        """
        if pose is None:
            return lambda start, stop: None
        if self.pose_encoder is None:
            raise ValueError("a pose was given, but these weights have no pose encoder")
        kept = self._encode_pose(pose) if plan.num_frames <= max(plan.length, KEPT_MAPS) else None

        def maps(start: int, stop: int) -> Sequence[Tensor]:
            if kept is None:
                return self._encode_pose(pose[:, start:stop])
            return [x[:, :, start:stop] for x in kept]

        return maps

    def _encode_pose(self, pose_1F3HW: Tensor) -> list[Tensor]:
        assert self.pose_encoder is not None
        scaled = pose_1F3HW / 255 if pose_1F3HW.dtype == torch.uint8 else pose_1F3HW
        images = scaled[0].to(self._execution_device, self.pose_encoder.dtype)
        return [rearrange(x, "f c h w -> 1 c f h w") for x in self.pose_encoder(images)]

    def _images(self, latents_1CFHW: Tensor, vae_slice: int) -> tuple[Frames, list[int]]:
        """RGB frames uint8 FHWC, and those that were turned black."""
        images: Frames | None = None
        done, flagged = 0, []
        for frames in self._decoded(latents_1CFHW, vae_slice):
            for i in self._unsafe(frames):
                frames[i] = 0
                flagged.append(done + i)
            if images is None:
                images = np.empty((latents_1CFHW.shape[2], *frames.shape[1:]), np.uint8)
            images[done : done + len(frames)] = frames
            done += len(frames)
        assert images is not None
        return images, flagged

    def _decoded(self, latents_1CFHW: Tensor, vae_slice: int) -> Iterator[Frames]:
        for part in latents_1CFHW.split(vae_slice, dim=2):
            rgb = decode_latents(self.vae, part)[0]
            yield rearrange(((rgb + 1) * 127.5).round().to(torch.uint8).cpu(), "f c h w -> f h w c").numpy()

    def _unsafe(self, frames_FHWC: Frames) -> list[int]:
        """Frames that the base's safety checker objects to; none without a checker."""
        if self.safety_checker is None:
            return []
        if self.feature_extractor is None:
            raise ValueError("a safety checker needs its feature extractor")
        pixels = self.feature_extractor(list(frames_FHWC), return_tensors="pt").pixel_values
        pixels = pixels.to(self._execution_device, self.safety_checker.dtype)
        _, unsafe = self.safety_checker(images=frames_FHWC.copy(), clip_input=pixels)
        return [i for i, found in enumerate(unsafe) if found]


def refuse_overflow(latents: Tensor) -> None:
    """Raises LposekitError for latents that would become black frames without a word."""
    if not torch.isfinite(latents).all():
        raise LposekitError(
            f"the result is not finite in {latents.dtype}: its numbers overflowed. Take --compute.precision bf16 or "
            "fp32, and a --guidance of at most 20."
        )


def settle(module: nn.Module | None) -> None:
    """Make a part draw the same bytes wherever its weights come from: it learns no more, and weights on the CPU that
    start at odd addresses, as those of a memory-mapped file do, move to memory of their own.

    torch computes with other kernels where a weight asks for a gradient, even if none is taken; and kernels treat the
    ends of unaligned arrays otherwise. Either rounds otherwise.
    """
    if module is None:
        return
    module.requires_grad_(False).eval()
    for parameter in module.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()


def checked_pose(pose: Frames | Tensor | None) -> Tensor | None:
    """Skeleton images as a tensor 1F3HW: uint8, or float in [0, 1]. Raises ValueError for anything else."""
    if pose is None:
        return None
    if isinstance(pose, Tensor):
        if pose.dim() != 5 or pose.shape[:1] + pose.shape[2:3] != (1, 3) or not pose.is_floating_point():
            raise ValueError(f"pose tensor {tuple(pose.shape)} {pose.dtype}: give float [1, F, 3, H, W] in [0, 1]")
        return pose
    if pose.dtype != np.uint8 or pose.ndim != 4 or pose.shape[-1] != 3 or not len(pose):
        raise ValueError(f"pose images {pose.shape} {pose.dtype}: give RGB uint8 [F, H, W, 3] with a frame at least")
    return rearrange(torch.from_numpy(np.ascontiguousarray(pose)), "f h w c -> 1 f c h w")
