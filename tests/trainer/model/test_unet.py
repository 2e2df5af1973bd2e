"""Contract: the video UNet is the Stable Diffusion UNet where it should be, and never loses the pose.

One frame without temporal layers equals the plain UNet; zero pose equals no pose; zero-initialised temporal layers
leave the base as it was; gradient checkpointing changes no gradient; the arithmetic does not depend on memory layout,
compiled blocks or how clips are batched. That it equals the released code is the business of tests/golden.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from einops import rearrange, repeat

from lposekit.errors import UsageError
from tests.trainer.model.small import (
    WIDTHS,
    inputs,
    pose_images,
    shaken,
    shallow_unet2d,
    small_encoder,
    small_unet2d,
    small_video_unet,
)
from trainer.model.pose_encoder import build_pose_encoder
from trainer.model.switches import OFFICIAL, PAPER
from trainer.model.unet import compile_blocks, inflate

pytestmark = pytest.mark.timeout(240)
IMAGES_ONLY = dataclasses.replace(OFFICIAL, temporal_layers=False)


@torch.no_grad()
def test_one_frame_without_temporal_layers_is_the_plain_unet() -> None:
    # mutation: average pose or frame 0 twice would still pass; a changed order of norm and residual turns it red
    latents, timesteps, text = inputs(frames=1, side=16)
    plain = small_unet2d()(latents[:, :, 0], timesteps, text).sample
    video = inflate(small_unet2d(), IMAGES_ONLY)(latents, timesteps, text)
    torch.testing.assert_close(video[:, :, 0], plain, atol=2e-5, rtol=0)


@torch.no_grad()
def test_one_frame_with_pose_is_the_plain_unet_with_a_t2i_adapter() -> None:
    latents, timesteps, text = inputs(frames=1, side=16)
    features = small_encoder()(pose_images(frames=1, side=16))
    residuals = [feature[:, :, 0] for feature in features]
    plain = small_unet2d()(latents[:, :, 0], timesteps, text, down_intrablock_additional_residuals=residuals).sample
    video = inflate(small_unet2d(), IMAGES_ONLY)(latents, timesteps, text, features)
    torch.testing.assert_close(video[:, :, 0], plain, atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("side", [12, 15])
def test_sizes_that_are_no_multiple_of_eight_come_out_as_the_plain_unet_gives_them(side: int) -> None:
    latents, timesteps, text = inputs(frames=1, side=side)
    plain = small_unet2d()(latents[:, :, 0], timesteps, text).sample
    video = inflate(small_unet2d(), IMAGES_ONLY)(latents, timesteps, text)
    torch.testing.assert_close(video[:, :, 0], plain, atol=2e-5, rtol=0)
    if side % 8 == 4:
        with_pose = inflate(small_unet2d(), OFFICIAL)(
            latents, timesteps, text, small_encoder()(pose_images(2, 1, side))
        )
        assert with_pose.shape == latents.shape


@torch.no_grad()
def test_zero_pose_features_equal_no_pose() -> None:
    unet, (latents, timesteps, text) = small_video_unet(), inputs()
    features = [torch.zeros_like(feature) for feature in small_encoder()(pose_images())]
    assert torch.equal(unet(latents, timesteps, text, features), unet(latents, timesteps, text))


@torch.no_grad()
def test_pose_features_are_left_as_they_were() -> None:
    # diffusers' own UNet pops the list that it is given and adds in place
    unet, features = small_video_unet(), small_encoder()(pose_images())
    before = [feature.clone() for feature in features]
    first, second = (unet(*inputs(), features) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, features, strict=True))


@torch.no_grad()
def test_zero_initialised_model_reproduces_the_base_at_step_0() -> None:
    # mutation: zero only the weight of attn_temp.to_out, or only the encoder's last 1x1, and this is red
    latents, timesteps, text = inputs()
    base = inflate(small_unet2d(), IMAGES_ONLY)
    paper = inflate(small_unet2d(), PAPER)
    features = build_pose_encoder(WIDTHS, PAPER)(pose_images())
    assert all(not feature.any() for feature in features)
    assert torch.equal(paper(latents, timesteps, text, features), base(latents, timesteps, text))


@torch.no_grad()
def test_a_still_clip_comes_out_of_the_zero_initialised_model_as_its_image_from_the_plain_unet() -> None:
    latents, timesteps, text = inputs(frames=1)
    still = repeat(latents, "b c 1 h w -> b c f h w", f=4)
    plain = small_unet2d()(latents[:, :, 0], timesteps, text).sample
    video = inflate(small_unet2d(), PAPER)(still, timesteps, text)
    torch.testing.assert_close(video, repeat(plain, "b c h w -> b c f h w", f=4), atol=5e-5, rtol=0)


@torch.no_grad()
def test_official_temporal_attention_is_random_at_step_0_and_its_convolution_identity() -> None:
    latents, timesteps, text = inputs()
    official = inflate(small_unet2d(), OFFICIAL)
    base = inflate(small_unet2d(), IMAGES_ONLY)
    assert (official(latents, timesteps, text) - base(latents, timesteps, text)).abs().max() > 1e-3
    convolutions = {name: p for name, p in official.named_parameters() if ".conv_temporal." in name}
    assert all(not p.any() for name, p in convolutions.items() if ".up." in name)
    downs = [p for name, p in convolutions.items() if ".down." in name]
    assert all(abs(p.std().item() * p.shape[0] - 1) < 0.2 for p in downs)


def test_same_seed_gives_the_same_temporal_layers_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    unet2d = small_unet2d()
    state = torch.get_rng_state()
    first = inflate(unet2d, OFFICIAL, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    second, other = inflate(small_unet2d(), OFFICIAL, seed=4), inflate(small_unet2d(), OFFICIAL, seed=5)
    name = "mid_block.attentions.0.transformer_blocks.0.attn_temp.to_q.weight"
    assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


@pytest.mark.parametrize("frames", [1, 3])
def test_gradient_checkpointing_changes_no_gradient_and_keeps_the_pose(frames: int) -> None:
    # mutation: add the pose only `if not self.checkpointed` (the released code's fault) and this is red
    results = []
    for checkpointed in (False, True):
        unet, encoder = small_video_unet(), small_encoder()
        unet.checkpointed = checkpointed
        unet(*inputs(frames=frames), encoder(pose_images(frames=frames))).square().mean().backward()
        named = [*unet.named_parameters(), *encoder.named_parameters()]
        results.append({name: parameter.grad for name, parameter in named})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(results[1][name], gradient, atol=0, rtol=0, msg=name)
    assert results[1]["conv_in.weight"].abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_channels_last_gives_the_same_numbers(frames: int) -> None:
    unet, encoder = small_video_unet(), small_encoder()
    features = encoder(pose_images(frames=frames))
    expected = unet(*inputs(frames=frames), features)
    unet.to(memory_format=torch.channels_last)
    torch.testing.assert_close(unet(*inputs(frames=frames), features), expected, atol=5e-5, rtol=0)


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other() -> None:
    # mutation: fold frames frame-major in one place and this is red
    unet, (latents, timesteps, text) = small_video_unet(), inputs()
    features = small_encoder()(pose_images())
    together = unet(latents, timesteps, text, features)
    for i in range(2):
        alone = unet(latents[i : i + 1], timesteps[i : i + 1], text[i : i + 1], [x[i : i + 1] for x in features])
        torch.testing.assert_close(together[i : i + 1], alone, atol=5e-5, rtol=0)


@torch.no_grad()
def test_group_norm_is_joint_only_by_switch() -> None:
    latents, timesteps, text = inputs()
    per_frame = dataclasses.replace(IMAGES_ONLY, joint_group_norm=False)
    joint = inflate(small_unet2d(), IMAGES_ONLY)(latents, timesteps, text)
    apart = inflate(small_unet2d(), per_frame)(latents, timesteps, text)
    assert (joint - apart).abs().max() > 1e-2


@pytest.mark.more
def test_blocks_trace_into_one_graph_each_and_all_of_them() -> None:
    # the "eager" backend runs dynamo alone; under fullgraph a graph break is an error, and so is the recompile limit,
    # past which dynamo would leave blocks uncompiled (8 shapes by default; SD 1.4 has 14 of resnets)
    unet = inflate(shallow_unet2d(), OFFICIAL)
    expected = unet(*inputs(batch=1, frames=3))
    torch._dynamo.reset()
    names = list(unet.state_dict())
    compile_blocks(unet, backend="eager", fullgraph=True)
    torch.testing.assert_close(unet(*inputs(batch=1, frames=3)), expected, atol=1e-6, rtol=0)
    assert list(unet.state_dict()) == names
    assert torch._dynamo.config.recompile_limit >= 64


@torch.no_grad()
def test_bfloat16_weights_with_float32_trained_ones_stay_near_float32() -> None:
    unet, encoder = small_video_unet(), small_encoder()
    features = encoder(pose_images())
    expected = unet(*inputs(), features)
    for name, parameter in unet.named_parameters():
        if "attn_temp" not in name and "to_q" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    out = unet(*inputs(), features)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).square().mean() < 0.02 * expected.square().mean()


def test_wrong_pose_sizes_are_refused() -> None:
    unet, features = small_video_unet(), small_encoder()(pose_images(side=16))
    with pytest.raises(ValueError, match="8 times"):
        unet(*inputs(side=8), features)
    with pytest.raises(ValueError, match="4 down levels"):
        unet(*inputs(side=16), features[:3])


def test_a_base_of_another_kind_is_refused() -> None:
    unet2d = small_unet2d()
    unet2d.register_to_config(class_embed_type="timestep")
    with pytest.raises(UsageError, match="class_embed_type"):
        inflate(unet2d, OFFICIAL)


@torch.no_grad()
def test_long_batches_of_tracks_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # 65,535 on CUDA; the pieces must come back in order
    unet = small_video_unet()
    expected = unet(*inputs())
    monkeypatch.setattr("trainer.model.attention.MAX_ATTENTION_BATCH", 5)
    torch.testing.assert_close(unet(*inputs()), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_frames_zero_and_one_get_by_with_half_the_keys_exactly() -> None:
    from diffusers.models.attention_processor import Attention

    from trainer.model.attention import sparse_causal_attention

    torch.manual_seed(0)
    attn = shaken(Attention(query_dim=24, heads=4, dim_head=6, bias=False))
    tokens = torch.randn(2 * 5, 10, 24)
    found = sparse_causal_attention(attn, tokens, frames=5)
    clip = rearrange(tokens, "(b f) n c -> b f n c", f=5)
    previous = clip[:, [0, 0, 1, 2, 3]]
    pairs = rearrange(torch.cat([clip[:, :1].expand_as(previous), previous], dim=2), "b f n c -> (b f) n c")
    torch.testing.assert_close(found, attn(tokens, encoder_hidden_states=pairs), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_pose_at_the_input_is_a_pose_concatenated_to_the_latents() -> None:
    # mutation: add the map after the first level instead -> red
    latents, timesteps, text = inputs(frames=1, side=16)
    features = small_encoder()(pose_images(frames=1, side=16))
    at_input = inflate(small_unet2d(), dataclasses.replace(IMAGES_ONLY, pose_at="input"))
    wider = inflate(small_unet2d(), IMAGES_ONLY)
    first = wider.conv_in
    wider.conv_in = torch.nn.Conv2d(first.in_channels + WIDTHS[0], WIDTHS[0], 3, padding=1)
    taps = torch.zeros(WIDTHS[0], WIDTHS[0], 3, 3)
    taps[:, :, 1, 1] = torch.eye(WIDTHS[0])
    wider.conv_in.weight.copy_(torch.cat([first.weight, taps], dim=1))
    wider.conv_in.bias.copy_(first.bias)  # pyright: ignore
    concatenated = wider(torch.cat([latents, features[0]], dim=1), timesteps, text)
    torch.testing.assert_close(at_input(latents, timesteps, text, features), concatenated, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_pose_at_the_first_level_leaves_the_other_maps_out() -> None:
    # mutation: pass all maps on -> red
    latents, timesteps, text = inputs(frames=1, side=16)
    features = small_encoder()(pose_images(frames=1, side=16))
    first_only = inflate(small_unet2d(), dataclasses.replace(IMAGES_ONLY, pose_at="first_level"))
    zeroed = [features[0], *(torch.zeros_like(feature) for feature in features[1:])]
    expected = inflate(small_unet2d(), IMAGES_ONLY)(latents, timesteps, text, zeroed)
    assert torch.equal(first_only(latents, timesteps, text, features), expected)


@torch.no_grad()
def test_without_cross_frame_attention_norms_and_layers_frames_are_images() -> None:
    # mutation: ignore the switch in the block -> red
    latents, timesteps, text = inputs(frames=3, side=16)
    alone = dataclasses.replace(IMAGES_ONLY, cross_frame=False, joint_group_norm=False)
    unet = inflate(small_unet2d(), alone)
    together = unet(latents, timesteps, text)
    for i in range(3):
        torch.testing.assert_close(
            together[:, :, i : i + 1], unet(latents[:, :, i : i + 1], timesteps, text), atol=2e-5, rtol=0
        )
