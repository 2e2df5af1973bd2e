"""The pose encoder: diffusers' `T2IAdapter("full_adapter")` under the names of the official release.

It turns skeleton images into one feature map for each UNet level; frames are independent of one another. Its state
dict has the names of `pose_encoder.pth` (`conv_in.*`, `body.N.{block1,block2,in_conv}.*`), which T2I-Adapter's
keypose file for SD 1.4 shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.adapter import FullAdapter, T2IAdapter
from einops import rearrange
from torch import Tensor, nn

from trainer.model.blocks import zero_layer
from trainer.model.switches import ModelSwitches

BLOCKS_PER_LEVEL = 2
OFFICIAL_WIDTHS = (320, 640, 1280, 1280)
POSE_PREFIX = "skeleton_adapter."
"""What the official UNet state dict puts before the names of the pose encoder."""


class PoseEncoder(nn.Module):
    """Skeleton images BF3HW in [0, 1] -> a list of feature maps BCFHW, one for each UNet level.

    The maps have 1/8, 1/16, 1/32 and 1/64 of the images' height and width. Made by `build_pose_encoder`.
    """

    def __init__(self, adapter: FullAdapter) -> None:
        super().__init__()
        self.unshuffle = adapter.unshuffle
        self.conv_in = adapter.conv_in
        self.body = nn.ModuleList(block for level in adapter.body for block in level.resnets)  # pyright: ignore
        for i, level in enumerate(adapter.body):
            if level.in_conv is not None:
                # the official names put the width-changing 1x1 into the first block of its level
                self.body[i * BLOCKS_PER_LEVEL].in_conv = level.in_conv
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature map."""
        return tuple(self.body[i].block1.out_channels for i in range(0, len(self.body), BLOCKS_PER_LEVEL))  # pyright: ignore

    def forward(self, pose_BF3HW: Tensor) -> list[Tensor]:
        """See the class. Height and width must be multiples of 8; raises ValueError otherwise."""
        if pose_BF3HW.shape[-2] % 8 or pose_BF3HW.shape[-1] % 8:
            raise ValueError(f"pose images of {tuple(pose_BF3HW.shape[-2:])} pixels: both sides must be multiples of 8")
        frames = pose_BF3HW.shape[1]
        x = self.conv_in(self.unshuffle(rearrange(pose_BF3HW, "b f c h w -> (b f) c h w")))
        features = []
        for i, block in enumerate(self.body):
            if i and i % BLOCKS_PER_LEVEL == 0:
                x = self.pool(x)
            if hasattr(block, "in_conv"):
                x = block.in_conv(x)  # pyright: ignore
            x = block(x)
            if i % BLOCKS_PER_LEVEL == BLOCKS_PER_LEVEL - 1:
                features.append(rearrange(x, "(b f) c h w -> b c f h w", f=frames))
        return features


def build_pose_encoder(widths: Sequence[int], switches: ModelSwitches, seed: int = 0) -> PoseEncoder:
    """A new pose encoder for a UNet of these level widths, drawn from `seed` alone.

    `switches.pose_init` "zero": conv_in, every block's last 1x1 and the width changes' biases are zero, so all maps are
    exactly zero. (Zeroing the last 1x1 of each scale alone would not do: the blocks have identity skips.) It still
    learns from the first step, for conv_in reaches all four maps through those skips.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        t2i = T2IAdapter(channels=list(widths), num_res_blocks=BLOCKS_PER_LEVEL, adapter_type="full_adapter")
    encoder = PoseEncoder(t2i.adapter)  # pyright: ignore
    if switches.pose_init == "zero":
        zero_pose_residuals(encoder)
    return encoder


def zero_pose_residuals(encoder: PoseEncoder) -> None:
    """Makes every feature map exactly zero for any image, in place, and leaves it able to learn."""
    zero_layer(encoder.conv_in)
    for block in encoder.body:
        zero_layer(block.block2)  # pyright: ignore
        if hasattr(block, "in_conv"):
            nn.init.zeros_(block.in_conv.bias)  # pyright: ignore


def to_t2i_adapter(encoder: PoseEncoder) -> T2IAdapter:
    """A diffusers `T2IAdapter` with a copy of the encoder's weights, for pipelines and `save_pretrained`."""
    t2i = T2IAdapter(channels=list(encoder.widths), num_res_blocks=BLOCKS_PER_LEVEL, adapter_type="full_adapter")
    t2i.load_state_dict({diffusers_name(name): value for name, value in encoder.state_dict().items()})
    return t2i


def diffusers_name(official_name: str) -> str:
    """`body.5.block1.weight` -> `adapter.body.2.resnets.1.block1.weight`, and so on."""
    part, _, rest = official_name.partition(".")
    if part != "body":
        return f"adapter.{official_name}"
    index, _, rest = rest.partition(".")
    level, block = divmod(int(index), BLOCKS_PER_LEVEL)
    inner = rest if rest.startswith("in_conv") else f"resnets.{block}.{rest}"
    return f"adapter.body.{level}.{inner}"
