"""What a trained run makes of a pose: held-out scenes drawn with their own pose, with another's, with left and right
exchanged, and with none; measured by the reader.

The ordinary pieces of `lposekit sample`, many scenes at a time. Shape letters: B scenes, F frames, C channels, H and W
of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.skeleton import draw_skeleton
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.sample import ddim_sample, ddim_scheduler
from trainer.model.base import decode_latents, encode_text, tokenize
from trainer.smallworld.body import Points
from trainer.smallworld.draw import SIDE, Image
from trainer.smallworld.measures import oks, pck, text_shares
from trainer.smallworld.read_joints import read_joints
from trainer.smallworld.scene import Scene
from trainer.smallworld.vae import CELL

Case = Literal["right", "shuffled", "mirrored", "swapped", "none"]
"""Which skeleton a scene is drawn with: its own, the next scene's, its own with the colours of left and right
exchanged, its own with red and blue exchanged (as where RGB is taken for BGR), none."""
GUIDANCE = 3.0
STEPS = 20


def measure_images(images_BFHWC: Image, scenes: Sequence[Scene]) -> dict[str, float]:
    """PCK, OKS and shares of right words, means over all frames of the scenes. The pose that is measured against is
    the scene's own, whichever it was drawn with."""
    rows = [
        (read_joints(rgb_HWC), joints_17x2, scene.words)
        for frames_FHWC, scene in zip(images_BFHWC, scenes, strict=True)
        for rgb_HWC, joints_17x2 in zip(frames_FHWC, scene.joints_F17x2, strict=True)
    ]
    found = {
        "pck": float(np.mean([pck(read, true, words) for read, true, words in rows])),
        "oks": float(np.mean([oks(read, true) for read, true, _ in rows])),
    }
    images = rearrange(images_BFHWC, "b f h w c -> (b f) h w c")
    return {**found, **{f"words/{k}": v for k, v in text_shares(images, [row[2] for row in rows]).items()}}


@torch.no_grad()
def draw_scenes(pipeline: FollowYourPosePipeline, scenes: Sequence[Scene], case: Case, seed: int) -> Image:
    """The scenes as the pipeline draws them, RGB uint8 [B, F, 64, 64, 3]; all scenes have the same number of frames.

    Weights of stage 1 draw every frame by itself, from the same noise as those of stage 2.
    """
    frames = len(scenes[0].joints_F17x2)
    captions = [scene.words.caption for scene in scenes]
    said = tokenize(pipeline.tokenizer, captions), tokenize(pipeline.tokenizer, [""] * len(scenes))
    text, empty = (encode_text(pipeline.text_encoder, ids_BL.to(pipeline.device)) for ids_BL in said)
    shape = (len(scenes), pipeline.unet.config["in_channels"], frames, SIDE // CELL, SIDE // CELL)
    # on the CPU, so that every device starts from the same
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pipeline.device)
    maps = _pose_maps(pipeline, scenes, case)
    if pipeline.config["stage"] == 1:
        noise, maps = _apart(noise), None if maps is None else [_apart(each) for each in maps]
        text, empty = (each.repeat_interleave(frames, 0) for each in (text, empty))
    ddim = ddim_scheduler(pipeline.scheduler, STEPS)
    latents = ddim_sample(pipeline.unet, ddim, noise, text, empty, maps, guidance=GUIDANCE)
    rgb = (decode_latents(pipeline.vae, latents) + 1) * 127.5
    images = rearrange(rgb.round().to(torch.uint8).cpu(), "b f c h w -> (b f) h w c").numpy()
    return rearrange(images, "(b f) h w c -> b f h w c", f=frames)


def _apart(clips_BCFHW: Tensor) -> Tensor:
    """Every frame a clip of its own."""
    return rearrange(clips_BCFHW, "b c f h w -> (b f) c 1 h w")


def _pose_maps(pipeline: FollowYourPosePipeline, scenes: Sequence[Scene], case: Case) -> list[Tensor] | None:
    if case == "none":
        return None
    assert pipeline.pose_encoder is not None, "these weights have no pose encoder"
    style, width = pipeline.config["pose_style"], pipeline.config["pose_line_width"]
    posed = [*scenes[1:], scenes[0]] if case == "shuffled" else scenes
    skeletons_BFHWC = np.stack([skeletons(s.joints_F17x2, style, width, mirrored=case == "mirrored") for s in posed])
    if case == "swapped":
        skeletons_BFHWC = np.ascontiguousarray(skeletons_BFHWC[..., ::-1])
    images = torch.from_numpy(rearrange(skeletons_BFHWC, "b f h w c -> (b f) c h w")).float() / 255
    maps = pipeline.pose_encoder(images.to(pipeline.device))
    return [rearrange(x, "(b f) c h w -> b c f h w", b=len(scenes)) for x in maps]


def skeletons(joints_F17x2: Points, style: str, line_width: float | None, *, mirrored: bool) -> npt.NDArray[np.uint8]:
    """Skeleton images, RGB uint8 [F, 64, 64, 3]. ``mirrored``: with left and right exchanged."""
    order = np.arange(17)
    if mirrored:
        for left, right in KEYPOINT_FORMATS["coco17"].flip_pairs:
            order[[left, right]] = right, left
    scores_F17x1 = np.ones((*joints_F17x2.shape[:2], 1))
    keypoints_F17x3 = np.concatenate([joints_F17x2[:, order], scores_F17x1], axis=2).astype(np.float32)
    drawn = [
        draw_skeleton(each[None], SIDE, SIDE, style=style, score_threshold=0.5, line_width=line_width)
        for each in keypoints_F17x3
    ]
    return np.stack(drawn)
