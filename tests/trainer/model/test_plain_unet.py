"""Contract: at any widths, heads, groups, frames and sizes the video UNet equals the same arithmetic written plainly.

The plain form shares the weights and nothing else; the golden fixtures hold one set of sizes, this holds others.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tests.benchmarks.plain_unet import plain_forward
from tests.trainer.model.small import shaken
from trainer.model.pose_encoder import build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.model.unet import inflate

pytestmark = pytest.mark.timeout(180)

SIZES: list[dict[str, Any]] = [
    {"widths": (12, 12, 20, 24), "heads": 2, "groups": 4, "text": 10, "shape": (1, 4, 2, 16, 8)},
    {"widths": (8, 16, 24, 40), "heads": 4, "groups": 2, "text": 6, "shape": (3, 4, 4, 8, 8)},
    {"widths": (176, 176, 176, 176), "heads": 11, "groups": 16, "text": 5, "shape": (1, 4, 6, 8, 8)},
]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size["shape"])))
@pytest.mark.parametrize("with_pose", [False, True])
def test_other_sizes_equal_the_plain_arithmetic(size: dict[str, Any], with_pose: bool) -> None:
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel(
        block_out_channels=size["widths"],
        attention_head_dim=size["heads"],
        norm_num_groups=size["groups"],
        cross_attention_dim=size["text"],
    )
    unet = shaken(inflate(unet2d, OFFICIAL))
    batch, _, frames, height, width = size["shape"]
    latents, text = torch.randn(size["shape"]), torch.randn(batch, 9, size["text"])
    timesteps = torch.arange(batch) * 300 + 5
    pose = torch.rand(batch, frames, 3, 8 * height, 8 * width)
    features = build_pose_encoder(size["widths"], OFFICIAL)(pose) if with_pose else None
    expected = plain_forward(unet, latents, timesteps, text, features)
    limit = 2e-5 * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(unet(latents, timesteps, text, features), expected, atol=limit, rtol=0)
