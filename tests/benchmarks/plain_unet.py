"""The same arithmetic written plainly: the peer of the step benchmark, and an independent check of the video UNet.

It walks the same weights with torch functions alone, all frames at once, without the savings of `trainer/model`: keys
of frames 0 and 1 duplicated as the released code has them, text repeated for each frame, attention as softmax(QK^T)V,
temporal layers on moved copies, memory in torch's default layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.unet import VideoUNet


def plain_forward(
    unet: VideoUNet, latents_BCFHW: Tensor, timesteps_B: Tensor, text_BLD: Tensor, pose: Sequence[Tensor] | None = None
) -> Tensor:
    """What `unet(...)` computes, with the switches of the `official` preset."""
    net: Any = unet
    frames = latents_BCFHW.shape[2]
    temb = functional.silu(net.time_embedding(net.time_proj(timesteps_B)))
    text = repeat(text_BLD, "b l d -> (b f) l d", f=frames)
    x = framewise(net.conv_in, latents_BCFHW)
    skips = [x]
    for i, level in enumerate(net.down_blocks):
        for j, resnet in enumerate(level.resnets):
            x = plain_resnet(resnet, x, temb)
            if hasattr(level, "attentions"):
                x = plain_transformer(level.attentions[j], x, text)
            if pose is not None and j == len(level.resnets) - 1:
                x = x + pose[i]
            skips.append(x)
        if level.downsamplers is not None:
            x = framewise(level.downsamplers[0].conv, x)
            skips.append(x)
    x = plain_resnet(net.mid_block.resnets[0], x, temb)
    x = plain_transformer(net.mid_block.attentions[0], x, text)
    x = plain_resnet(net.mid_block.resnets[1], x, temb)
    for level in net.up_blocks:
        for j, resnet in enumerate(level.resnets):
            x = plain_resnet(resnet, torch.cat([x, skips.pop()], dim=1), temb)
            if hasattr(level, "attentions"):
                x = plain_transformer(level.attentions[j], x, text)
        if level.upsamplers is not None:
            x = framewise(level.upsamplers[0].conv, functional.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))
    return framewise(net.conv_out, functional.silu(plain_norm(net.conv_norm_out, x)))


def framewise(layer: nn.Module, x_BCFHW: Tensor) -> Tensor:
    """A 2-D layer on each frame."""
    frames = x_BCFHW.shape[2]
    return rearrange(layer(rearrange(x_BCFHW, "b c f h w -> (b f) c h w")), "(b f) c h w -> b c f h w", f=frames)


def plain_norm(norm: Any, x: Tensor) -> Tensor:
    return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def plain_resnet(resnet: Any, x: Tensor, temb: Tensor) -> Tensor:
    hidden = framewise(resnet.conv1, functional.silu(plain_norm(resnet.norm1, x)))
    hidden = hidden + resnet.time_emb_proj(temb)[:, :, None, None, None]
    hidden = framewise(resnet.conv2, functional.silu(plain_norm(resnet.norm2, hidden)))
    return hidden + (x if resnet.conv_shortcut is None else framewise(resnet.conv_shortcut, x))


def plain_transformer(transformer: Any, x: Tensor, text: Tensor) -> Tensor:
    frames, height = x.shape[2], x.shape[3]
    images = rearrange(x, "b c f h w -> (b f) c h w")
    hidden = transformer.proj_in(plain_norm(transformer.norm, images))
    tokens = rearrange(hidden, "n c h w -> n (h w) c")
    for block in transformer.transformer_blocks:
        tokens = plain_block(block, tokens, text, frames)
    out = transformer.proj_out(rearrange(tokens, "n (h w) c -> n c h w", h=height))
    return rearrange(out + images, "(b f) c h w -> b c f h w", f=frames)


def plain_block(block: Any, tokens: Tensor, text: Tensor, frames: int) -> Tensor:
    normed = rearrange(block.norm1(tokens), "(b f) n c -> b f n c", f=frames)
    previous = [0, *range(frames - 1)]
    context = torch.cat([normed[:, [0] * frames], normed[:, previous]], dim=2)
    context = rearrange(context, "b f n c -> (b f) n c")
    tokens = tokens + plain_attention(block.attn1, rearrange(normed, "b f n c -> (b f) n c"), context)
    tokens = tokens + plain_attention(block.attn2, block.norm2(tokens), text)
    tokens = tokens + block.ff(block.norm3(tokens))
    if block.attn_temp is None:
        return tokens
    n = tokens.shape[1]
    tracks = rearrange(tokens, "(b f) n c -> (b n) f c", f=frames)
    normed = block.norm_temp(tracks)
    tracks = tracks + plain_attention(block.attn_temp, normed, normed)
    moved = rearrange(tracks, "m f c -> m c f")
    moved = moved + block.conv_temporal.up(block.conv_temporal.down(moved))
    return rearrange(moved, "(b n) c f -> (b f) n c", n=n)


def plain_attention(attn: Any, x: Tensor, context: Tensor) -> Tensor:
    heads = attn.heads
    query, key, value = (
        rearrange(layer(y), "b n (h d) -> (b h) n d", h=heads)
        for layer, y in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
    )
    scores = torch.bmm(query, key.transpose(1, 2)) * query.shape[-1] ** -0.5
    seen = rearrange(torch.bmm(scores.softmax(dim=-1), value), "(b h) n d -> b n (h d)", h=heads)
    return attn.to_out[0](seen)
