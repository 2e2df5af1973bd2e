"""The video UNet: diffusers' `UNet2DConditionModel` with frames folded into the batch.

`inflate` turns a UNet into the video UNet in place. The names of its weights stay those of diffusers; in the 16
transformer blocks `attn_temp`, `norm_temp` and `conv_temporal` come on top: exactly the names of the official release
(830, with the 38 of the pose encoder 868).

Shape letters: B clips, C channels, F frames, H and W of the latents, L text tokens, D text width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (pipelines look it up here to load a VideoUNet)
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lposekit.errors import UsageError
from trainer.model.blocks import (
    VideoResnetBlock,
    VideoTransformer,
    inflate_resnet,
    inflate_transformer,
    joint_group_norm,
)
from trainer.model.switches import ModelSwitches
from trainer.model.tensor_files import load_strictly, read_safetensors

NOT_SUPPORTED = {
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "dual_cross_attention": False,
    "encoder_hid_dim_type": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "attention_type": "default",
}
"""Fields of a UNet configuration and the one value of each that the video UNet computes."""

RECOMPILE_LIMIT = 64
"""Shapes of one kind of block that may be compiled: levels, skip widths, training and validation."""


class VideoUNet(UNet2DConditionModel):
    """The UNet of both stages. Made by `inflate`, never constructed.

    switches: what it was inflated with.
    checkpointed: recompute resnets and transformers in the backward pass instead of keeping their insides; the pose is
        added outside of them, so it is never lost.
    """

    switches: ModelSwitches
    checkpointed: bool

    @classmethod
    def from_pretrained(  # pyright: ignore
        cls, pretrained_model_name_or_path: str | Path, torch_dtype: torch.dtype | None = None, **_: Any
    ) -> VideoUNet:
        """The UNet that `save_pretrained` wrote to a folder; options of diffusers' own method are passed over.

        Raises:
            UsageError: the weights are not exactly those of the configuration, where diffusers would drop the
                temporal layers and go on.
        """
        folder = Path(pretrained_model_name_or_path)
        config: dict[str, Any] = dict(cls.load_config(folder))  # pyright: ignore
        if "switches" not in config:
            raise UsageError(f"{folder} holds no video UNet: its config.json has no `switches`. Name a saved pipeline.")
        switches = ModelSwitches(**config.pop("switches"))
        del config["_class_name"]
        unet = inflate(UNet2DConditionModel.from_config(config), switches)  # pyright: ignore
        load_strictly(unet, read_safetensors(folder / "diffusion_pytorch_model.safetensors"), f"UNet of {folder}")
        if torch_dtype:
            nn.Module.to(unet, torch_dtype)  # torch's own: that of diffusers warns about every cast
        return unet.eval()

    def forward(  # pyright: ignore
        self,
        latents_BCFHW: Tensor,
        timesteps_B: Tensor,
        text_BLD: Tensor,
        pose_features: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Noise prediction, BCFHW, in the type of the UNet's frozen weights.

        latents_BCFHW: noisy latents; any H and W from 8 up. timesteps_B: one step 0..999 for each clip (any dtype).
        text_BLD: one caption for each clip. pose_features: None, or one BCFHW map for each level (PoseEncoder's
        output); map i is added after the last layer of down level i, before its downsampler, so it also goes into
        that skip connection (unless the switch `pose_at` says otherwise).

        Raises:
            ValueError: maps that do not fit.
        """
        frames = latents_BCFHW.shape[2]
        dtype = self.conv_in.weight.dtype
        time_BT = self.time_embedding(self.time_proj(timesteps_B).to(dtype))
        x = self.conv_in(rearrange(latents_BCFHW.to(dtype), "b c f h w -> (b f) c h w"))
        at_input, *maps = self._pose_maps(pose_features)
        if at_input is not None:
            x = add_pose(x, at_input)
        skips = [x]
        for level, pose in zip(self.down_blocks, maps, strict=True):
            x, level_skips = self._down(level, x, time_BT, text_BLD, frames, pose)
            skips.extend(level_skips)
        x = self._middle(x, time_BT, text_BLD, frames)
        for level in self.up_blocks:
            x = self._up(level, x, skips, time_BT, text_BLD, frames)
        x = joint_group_norm(self.conv_norm_out, x, frames, self.switches.joint_group_norm)  # pyright: ignore
        assert self.conv_act is not None
        return rearrange(self.conv_out(self.conv_act(x)), "(b f) c h w -> b c f h w", f=frames)

    def _pose_maps(self, pose_features: Sequence[Tensor] | None) -> list[Tensor | None]:
        """What to add to the first convolution's output, and after each down level."""
        levels = len(self.down_blocks)
        if pose_features is None:
            return [None] * (1 + levels)
        if len(pose_features) != len(self.down_blocks):
            raise ValueError(f"{len(pose_features)} pose feature maps for {len(self.down_blocks)} down levels")
        maps: list[Tensor | None] = [rearrange(feature, "b c f h w -> (b f) c h w") for feature in pose_features]
        if self.switches.pose_at == "input":
            return [maps[0], *[None] * levels]
        if self.switches.pose_at == "first_level":
            return [None, maps[0], *[None] * (levels - 1)]
        return [None, *maps]

    def _down(
        self, level: Any, x: Tensor, time_BT: Tensor, text_BLD: Tensor, frames: int, pose: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        for i, (resnet, attention) in enumerate(layers_of(level)):
            x = self._layer(resnet, attention, x, time_BT, text_BLD, frames)
            if pose is not None and i == len(level.resnets) - 1:
                x = add_pose(x, pose)
            skips.append(x)
        for downsampler in level.downsamplers or ():
            x = downsampler(x)
            skips.append(x)
        return x, skips

    def _middle(self, x: Tensor, time_BT: Tensor, text_BLD: Tensor, frames: int) -> Tensor:
        middle: Any = self.mid_block
        x = self._run(middle.resnets[0], x, time_BT, frames)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            x = self._run(attention, x, text_BLD, frames)
            x = self._run(resnet, x, time_BT, frames)
        return x

    def _up(self, level: Any, x: Tensor, skips: list[Tensor], time_BT: Tensor, text_BLD: Tensor, frames: int) -> Tensor:
        for resnet, attention in layers_of(level):
            x = torch.cat([x, skips.pop()], dim=1)
            x = self._layer(resnet, attention, x, time_BT, text_BLD, frames)
        for upsampler in level.upsamplers or ():
            # the size of the skip that comes next, so that odd sizes come out as they went in
            x = upsampler(x, output_size=skips[-1].shape[-2:])
        return x

    def _layer(
        self, resnet: nn.Module, attention: nn.Module | None, x: Tensor, time_BT: Tensor, text_BLD: Tensor, frames: int
    ) -> Tensor:
        x = self._run(resnet, x, time_BT, frames)
        return x if attention is None else self._run(attention, x, text_BLD, frames)

    def _run(self, module: nn.Module, *inputs: Tensor | int) -> Tensor:
        if self.checkpointed and torch.is_grad_enabled():
            # no dropout in this net: no random state to keep for the second run
            out = checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(out, Tensor)
            return out
        return module(*inputs)


def layers_of(level: Any) -> list[tuple[nn.Module, nn.Module | None]]:
    """The (resnet, transformer) pairs of an up or down level; the lowest level has no transformers."""
    attentions = getattr(level, "attentions", None)
    pairs: list[Any] = [None] * len(level.resnets) if attentions is None else list(attentions)
    return list(zip(level.resnets, pairs, strict=True))


def add_pose(x: Tensor, pose: Tensor) -> Tensor:
    """x + pose, refusing shapes that would silently broadcast (a pose map shrunk to one row, say)."""
    if x.shape != pose.shape:
        raise ValueError(
            f"pose feature map {tuple(pose.shape)} does not fit the UNet level {tuple(x.shape)} "
            "((clip x frame), channel, height, width): the pose image must have 8 times the height and width of the "
            "latents, and the pose encoder the widths of the UNet"
        )
    return x + pose.to(x.dtype)


def inflate(unet2d: UNet2DConditionModel, switches: ModelSwitches, seed: int = 0) -> VideoUNet:
    """The same UNet, in place, with frames: see `VideoUNet.forward` for what it computes.

    New temporal layers start as `switches` say, drawn from `seed` alone.

    Raises:
        UsageError: a UNet that is not of the Stable Diffusion 1.x / 2.x kind.
    """
    check_configuration(unet2d)
    unet2d.__class__ = VideoUNet
    assert isinstance(unet2d, VideoUNet)
    unet2d.switches, unet2d.checkpointed = switches, False
    # so that `save_pretrained` writes them and `from_pretrained` finds them
    unet2d.register_to_config(switches=dataclasses.asdict(switches))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in list(unet2d.modules()):
            if isinstance(module, ResnetBlock2D):
                inflate_resnet(module, switches)
            elif isinstance(module, Transformer2DModel):
                inflate_transformer(module, switches)
    return unet2d


def check_configuration(unet2d: UNet2DConditionModel) -> None:
    """Refuses a UNet whose configuration asks for parts that the video forward leaves out."""
    for field, supported in NOT_SUPPORTED.items():
        value = unet2d.config.get(field, supported)
        if value != supported:
            raise UsageError(
                f"the base UNet has {field} = {value!r}; only {supported!r} can be made a video UNet. "
                "Take a base of the Stable Diffusion 1.x or 2.x kind."
            )


def compile_blocks(unet: VideoUNet, **options: Any) -> None:
    """`torch.compile` of each resnet and each transformer by itself, in place; `options` as for `torch.compile`.

    Small graphs compile in seconds and blocks of one shape share their code. Names of weights do not change.
    """
    # all resnets share one `forward`, and SD 1.4 has 14 shapes of them: past the limit (8 by default) dynamo would
    # quietly run the rest uncompiled
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    for module in unet.modules():
        if isinstance(module, VideoResnetBlock | VideoTransformer):
            module.compile(**{"dynamic": False, **options})
