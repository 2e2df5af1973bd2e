"""diffusers' resnet and transformer blocks, given frames.

Each class here is a diffusers class with another `forward`: names, shapes and construction of the weights stay as
they are, and the number of frames is an argument rather than hidden state. Frames lie folded in the batch, clip by
clip: (BF)CHW for images, (BF)NC for tokens. All reshapes are views for channels-last tensors.
"""

from __future__ import annotations

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from trainer.model.attention import sparse_causal_attention, temporal_attention, text_attention
from trainer.model.first_frame import FirstFrame
from trainer.model.linear import project
from trainer.model.switches import ModelSwitches

CONV_TEMPORAL_RANK = 160
"""Bottleneck of the temporal convolution where the block is at least this wide (at all SD widths)."""


def joint_group_norm(norm: nn.GroupNorm, x: Tensor, frames: int, joint: bool = True) -> Tensor:
    """GroupNorm of (BF)CHW with one statistic for all frames of a clip (`joint`) or one for each frame."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    if frames == 1 or not joint:
        return functional.group_norm(x, norm.num_groups, weight, bias, norm.eps)
    height = x.shape[2]
    clip = rearrange(x, "(b f) c h w -> b c (f h) w", f=frames)
    normed = functional.group_norm(clip, norm.num_groups, weight, bias, norm.eps)
    return rearrange(normed, "b c (f h) w -> (b f) c h w", h=height)


class ConvTemporal(nn.Module):
    """The low-rank temporal convolution: x + up(down(x)), two bias-free convolutions over 3 frames. Starts as identity.

    `down.weight` is (rank, width, 3), `up.weight` is (width, rank, 3).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        rank = CONV_TEMPORAL_RANK if width >= CONV_TEMPORAL_RANK else width // 2
        self.down = nn.Conv1d(width, rank, 3, padding=1, bias=False)
        self.up = nn.Conv1d(rank, width, 3, padding=1, bias=False)

    def initialize(self) -> None:
        """The start of the released code: `down` normal with standard deviation 1 / rank, `up` zero."""
        nn.init.normal_(self.down.weight, std=1 / self.down.out_channels)
        nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """(BF)NC -> (BF)NC. Tokens are a channels-last image of size frames x tokens, so nothing is moved."""
        x = rearrange(tokens, "(b f) n c -> b c f n", f=frames)
        x = functional.conv2d(x, self.down.weight.to(x.dtype).unsqueeze(-1), padding=(1, 0))
        x = functional.conv2d(x, self.up.weight.to(x.dtype).unsqueeze(-1), padding=(1, 0))
        return tokens + rearrange(x, "b c f n -> (b f) n c")


class VideoResnetBlock(ResnetBlock2D):
    """A resnet block whose two norms look at all frames of a clip together."""

    joint_group_norm: bool

    def forward(self, x: Tensor, time_embedding_BT: Tensor, frames: int = 1) -> Tensor:
        """(BF)CHW and one time embedding a clip -> (BF)CHW."""
        assert self.time_emb_proj is not None
        hidden = self.nonlinearity(joint_group_norm(self.norm1, x, frames, self.joint_group_norm))
        hidden = self.conv1(hidden)
        shift_BC = self.time_emb_proj(self.nonlinearity(time_embedding_BT))
        hidden = hidden + repeat(shift_BC, "b c -> (b f) c 1 1", f=frames)
        hidden = self.nonlinearity(joint_group_norm(self.norm2, hidden, frames, self.joint_group_norm))
        hidden = self.conv2(hidden)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return (shortcut + hidden) / self.output_scale_factor


class VideoTransformerBlock(BasicTransformerBlock):
    """In this order: sparse-causal attention, text attention, feed-forward, temporal attention, temporal
    convolution."""

    attn_temp: Attention | None
    norm_temp: nn.LayerNorm | None
    conv_temporal: ConvTemporal | None
    cross_frame: bool
    first_frame: FirstFrame | None = None
    """Set while a long clip is sampled in windows that all look at the clip's first frame."""

    def forward(self, tokens: Tensor, text: Tensor, frames: int = 1) -> Tensor:  # pyright: ignore
        """(BF)NC with text BLD (or (BF)LD) -> (BF)NC."""
        assert self.attn2 is not None
        normed = layer_norm(self.norm1, tokens)
        if self.cross_frame:
            first = None if self.first_frame is None else self.first_frame.meet(normed, frames)
            tokens = tokens + sparse_causal_attention(self.attn1, normed, frames, first)
        else:
            # with one frame it is ordinary self-attention
            tokens = tokens + sparse_causal_attention(self.attn1, normed, 1)
        tokens = tokens + text_attention(self.attn2, layer_norm(self.norm2, tokens), text, frames)
        tokens = tokens + self.ff(layer_norm(self.norm3, tokens))
        if self.attn_temp is None:
            return tokens
        assert self.conv_temporal is not None
        tokens = tokens + temporal_attention(self.attn_temp, layer_norm(self.norm_temp, tokens), frames)
        return self.conv_temporal(tokens, frames)


class VideoTransformer(Transformer2DModel):
    """Norm (for each frame by itself, epsilon 1e-6), 1x1 in, the blocks, 1x1 out, residual."""

    def forward(self, x: Tensor, text: Tensor, frames: int = 1) -> Tensor:  # pyright: ignore
        """(BF)CHW with text BLD (or (BF)LD) -> (BF)CHW."""
        height = x.shape[2]
        hidden = joint_group_norm(self.norm, x, frames, joint=False)
        tokens = project(self.proj_in, rearrange(hidden, "bf c h w -> bf (h w) c"))
        for block in self.transformer_blocks:
            tokens = block(tokens, text, frames)
        return x + rearrange(project(self.proj_out, tokens), "bf (h w) c -> bf c h w", h=height)


def layer_norm(norm: nn.Module | None, x: Tensor) -> Tensor:
    """`norm(x)` for an `nn.LayerNorm`, computed in the type of `x`."""
    assert isinstance(norm, nn.LayerNorm)
    return functional.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def inflate_resnet(resnet: ResnetBlock2D, switches: ModelSwitches) -> VideoResnetBlock:
    """The same resnet block, in place, with the video forward."""
    resnet.__class__ = VideoResnetBlock
    assert isinstance(resnet, VideoResnetBlock)
    resnet.joint_group_norm = switches.joint_group_norm
    return resnet


def inflate_transformer_block(block: BasicTransformerBlock, switches: ModelSwitches) -> VideoTransformerBlock:
    """The same transformer block, in place, with the video forward and (by switch) new temporal layers.

    The temporal layers draw their first values from torch's global generator.
    """
    block.__class__ = VideoTransformerBlock
    assert isinstance(block, VideoTransformerBlock)
    block.attn_temp, block.norm_temp, block.conv_temporal = None, None, None
    block.cross_frame = switches.cross_frame
    if switches.temporal_layers:
        heads, width = block.attn1.heads, block.attn1.query_dim
        block.attn_temp = Attention(query_dim=width, heads=heads, dim_head=block.attn1.inner_dim // heads, bias=False)
        block.norm_temp = nn.LayerNorm(width)
        block.conv_temporal = ConvTemporal(width)
        block.conv_temporal.initialize()
        if switches.attn_temp_init == "zero":
            zero_layer(block.attn_temp.to_out[0])  # pyright: ignore
        for layer in (block.attn_temp, block.norm_temp, block.conv_temporal):
            layer.to(block.attn1.to_q.weight)
    return block


def zero_layer(layer: nn.Module) -> None:
    """Sets weight and bias of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def inflate_transformer(transformer: Transformer2DModel, switches: ModelSwitches) -> VideoTransformer:
    """The same spatial transformer, in place, with the video forward; its blocks too."""
    transformer.__class__ = VideoTransformer
    assert isinstance(transformer, VideoTransformer)
    for block in transformer.transformer_blocks:
        assert isinstance(block, BasicTransformerBlock)
        inflate_transformer_block(block, switches)
    return transformer
