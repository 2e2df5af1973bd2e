"""The three attentions of a video transformer block, as functions over diffusers' `Attention` weights.

Shape letters: B clips, F frames, N tokens of a frame (height x width), L text tokens, C channels, D text width.
Frames lie folded in the batch, clip by clip: (BF)NC. Every attention runs through torch's kernels, which
`trainer.model.kernels` chooses among. Projections take the type of their input, so float32 weights in training work on
bfloat16 activations.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor

from trainer.model.kernels import attention
from trainer.model.linear import project

MAX_ATTENTION_BATCH = 65_535
"""CUDA's fused attention kernels put the batch on a grid axis of 16 bits; temporal attention has one row a pixel."""


def attend(query_BNC: Tensor, key_BMC: Tensor, value_BMC: Tensor, heads: int) -> Tensor:
    """Multi-head attention of projected tensors: softmax(QK^T / sqrt(C / heads)) V, heads joined again, as BNC."""
    if query_BNC.shape[0] > MAX_ATTENTION_BATCH:
        triples = zip(*(x.split(MAX_ATTENTION_BATCH) for x in (query_BNC, key_BMC, value_BMC)), strict=True)
        return torch.cat([attend(query, key, value, heads) for query, key, value in triples])
    query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (query_BNC, key_BMC, value_BMC))
    return rearrange(attention(query, key, value), "b h n d -> b n (h d)")


def output_projection(attn: Attention, x: Tensor) -> Tensor:
    """The output layer of `attn` (its dropout is 0 in every model of this family)."""
    assert attn.to_out is not None
    return project(attn.to_out[0], x)


def sparse_causal_attention(attn: Attention, tokens: Tensor, frames: int, first_BNC: Tensor | None = None) -> Tensor:
    """Frame i looks at frames 0 and i-1 (not at itself): (BF)NC -> (BF)NC, without norm and residual.

    The released code gives frames 0 and 1 the tokens of frame 0 twice. A softmax over keys that all occur twice is the
    softmax over one copy, so these two frames run here with half the keys, exactly. The last frame is nobody's key,
    so it is never projected to keys and values. With one frame this is ordinary self-attention.

    first_BNC: tokens of a frame 0 that is not among these frames, for a window of a longer clip. The window's first
    frame then looks at it alone, each later one at it and at the frame before.
    """
    query = rearrange(project(attn.to_q, tokens), "(b f) n c -> b f n c", f=frames)
    clip = rearrange(tokens, "(b f) n c -> b f n c", f=frames)
    if first_BNC is None:
        # frames 0 and 1 have no other frame to look at than 0
        sources, alone = clip[:, : max(frames - 1, 1)], 2
    else:
        sources, alone = torch.cat([first_BNC[:, None], clip[:, :-1]], dim=1), 1
    key, value = project(attn.to_k, sources), project(attn.to_v, sources)
    n = tokens.shape[1]
    at_first = rearrange(query[:, :alone], "b f n c -> b (f n) c")
    seen = rearrange(attend(at_first, key[:, 0], value[:, 0], attn.heads), "b (f n) c -> b f n c", n=n)
    if frames > alone:
        later = rearrange(query[:, alone:], "b f n c -> (b f) n c")
        out = attend(later, first_and_previous(key), first_and_previous(value), attn.heads)
        seen = torch.cat([seen, rearrange(out, "(b f) n c -> b f n c", f=frames - alone)], dim=1)
    return output_projection(attn, rearrange(seen, "b f n c -> (b f) n c"))


def first_and_previous(x_BFNC: Tensor) -> Tensor:
    """Of these frames, the tokens of the first with those of each later one behind them: (B F-1) (2N) C."""
    previous = x_BFNC[:, 1:]
    both = torch.cat([x_BFNC[:, :1].expand_as(previous), previous], dim=2)
    return rearrange(both, "b f n c -> (b f) n c")


def text_attention(attn: Attention, tokens: Tensor, text: Tensor, frames: int) -> Tensor:
    """Every frame looks at the text: (BF)NC -> (BF)NC. `text` is BLD, one caption a clip, or (BF)LD, one a frame.

    One caption a clip is projected once and all frames of the clip ask it in one call; repeating it for each frame, as
    the released code does, gives the same numbers.
    """
    query = project(attn.to_q, tokens)
    text = text.to(tokens.dtype)
    key, value = project(attn.to_k, text), project(attn.to_v, text)
    if text.shape[0] == tokens.shape[0]:
        return output_projection(attn, attend(query, key, value, attn.heads))
    n = tokens.shape[1]
    clip_query = rearrange(query, "(b f) n c -> b (f n) c", f=frames)
    seen = attend(clip_query, key, value, attn.heads)
    return output_projection(attn, rearrange(seen, "b (f n) c -> (b f) n c", n=n))


def temporal_attention(attn: Attention, tokens: Tensor, frames: int) -> Tensor:
    """Every position looks at itself in all frames, no mask, no positional code: (BF)NC -> (BF)NC."""
    n = tokens.shape[1]
    tracks = rearrange(tokens, "(b f) n c -> (b n) f c", f=frames)
    query, key, value = (project(layer, tracks) for layer in (attn.to_q, attn.to_k, attn.to_v))
    seen = output_projection(attn, attend(query, key, value, attn.heads))
    return rearrange(seen, "(b n) f c -> (b f) n c", n=n)
