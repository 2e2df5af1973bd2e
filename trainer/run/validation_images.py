"""Validation images: the same prompts, poses and noise every time, so that only the weights differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange

from lposekit.errors import LposekitError
from lposekit.shards.files import disk_error
from trainer.data.held_out import WATCH_VISIT
from trainer.data.order import SampleRef
from trainer.data.reader import SampleReader
from trainer.inference.sample import ddim_sample, ddim_scheduler
from trainer.run.data import watched_refs
from trainer.run.train_module import TrainModule
from trainer.run.walker import walker_skeletons
from trainer.settings import TrainSettings
from trainer.stages import run_pose_encoder

NOISE_SEED = 33
"""The released sampler's."""
MAX_SIDE_PX = 256
"""Images are stored no larger than this: a page shows dozens of them."""


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Prompts and skeleton images uint8 [N, F, H, W, 3] that are drawn with every few steps."""

    prompts: list[str]
    skeletons_NFHWC: npt.NDArray[np.uint8]
    latent_shape: tuple[int, int, int, int]
    steps: int
    guidance: float

    @torch.no_grad()
    def generate(self, train_module: TrainModule) -> npt.NDArray[np.uint8]:
        """Generated images uint8 [N, F, H, W, 3], by the moving average's weights if there is one."""
        generator = torch.Generator().manual_seed(NOISE_SEED)
        device, stage = train_module.world.device, train_module.stage
        ddim = ddim_scheduler(stage.scheduler, self.steps)
        made = []
        with train_module.averaged():
            # one by one: a clip at full size fills a GPU by itself
            for prompt, skeletons in zip(self.prompts, self.skeletons_NFHWC, strict=True):
                latents = torch.randn((1, *self.latent_shape), generator=generator).to(device)
                text, negative = train_module.encoders.text_BLD([prompt]), train_module.encoders.text_BLD([""])
                out = ddim_sample(
                    stage.unet, ddim, latents, text, negative, self._pose(train_module, skeletons), self.guidance
                )
                made.append(train_module.encoders.images_BFHWC(out)[0].numpy())
        return np.stack(made)

    def _pose(self, train_module: TrainModule, skeletons_FHWC: npt.NDArray[np.uint8]) -> list[torch.Tensor] | None:
        encoder = train_module.stage.pose_encoder
        if encoder is None:
            return None
        pose = torch.from_numpy(skeletons_FHWC).to(train_module.world.device).float() / 255
        return run_pose_encoder(
            encoder, rearrange(pose, "f h w c -> 1 f c h w"), train_module.stage.unet.conv_in.weight.dtype
        )

    def grid(self, images_NFHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """One image RGB [H, W, 3]: for each prompt a row of skeletons over a row of frames; single frames side by
        side."""
        both = np.stack([self.skeletons_NFHWC, images_NFHWC], 1)
        if both.shape[2] == 1:
            grid = rearrange(both, "n two 1 h w c -> (two h) (n w) c")
            scale = MAX_SIDE_PX / both.shape[3]
        else:
            grid = rearrange(both, "n two f h w c -> (n two h) (f w) c")
            scale = MAX_SIDE_PX / 2 / both.shape[3]
        if scale < 1:
            size = (round(grid.shape[1] * scale), round(grid.shape[0] * scale))
            grid = cv2.resize(grid, size, interpolation=cv2.INTER_AREA)
        return grid  # pyright: ignore


def build_validation(
    reader: SampleReader, settings: TrainSettings, latent_channels: int, downscale: int
) -> ValidationSet:
    """Stage 1: poses (and captions, unless prompts are set) of samples that are held out, or of the first ones if none
    are. Stage 2: captions of such clips, and the walking figure, for clips carry no pose."""
    watch, size = settings.watch, settings.image.size
    samples = [reader.read(ref) for ref in first_refs(reader, watch.sample_count)]
    prompts = list(watch.sample_prompts) or [sample.caption for sample in samples]
    frames = settings.clip.frames if settings.stage == 2 else 1
    if settings.stage == 1:
        drawn = np.stack([samples[i % len(samples)].skeleton_FHWC for i in range(len(prompts))])  # pyright: ignore
    else:
        walk = walker_skeletons(frames, size, settings.pose.style, settings.pose.line_width)
        drawn = np.stack([walk] * len(prompts))
    shape = (latent_channels, frames, size // downscale, size // downscale)
    return ValidationSet(prompts, drawn, shape, watch.sample_steps, watch.guidance)


def first_refs(reader: SampleReader, count: int) -> list[SampleRef]:
    """So many of the samples that are held out; if none are, the first of the data."""
    if reader.split is not None and reader.split.num_held:
        return watched_refs(reader, count)
    return [reader.ref(i, WATCH_VISIT) for i in range(min(count, reader.num_samples))]


def write_image(path: Path, rgb_HWC: npt.NDArray[np.uint8]) -> None:
    """A JPEG of an image.

    Raises:
        LposekitError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    if not cv2.imwrite(str(path), np.ascontiguousarray(rgb_HWC[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90]):
        raise LposekitError(f"{path}: the image cannot be written. Free space or check the folder.")
