"""Contract: the pose encoder is diffusers' T2I-Adapter under official names, frame by frame."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from tests.trainer.model.small import WIDTHS, pose_images, small_encoder
from trainer.model.pose_encoder import OFFICIAL_WIDTHS, build_pose_encoder, to_t2i_adapter
from trainer.model.switches import OFFICIAL, PAPER

pytestmark = pytest.mark.timeout(180)


@torch.no_grad()
def test_maps_equal_the_diffusers_adapter_frame_by_frame() -> None:
    encoder, pose = small_encoder(), pose_images(side=12)
    expected = to_t2i_adapter(encoder)(rearrange(pose, "b f c h w -> (b f) c h w"))
    for found, frame_maps in zip(encoder(pose), expected, strict=True):
        assert torch.equal(rearrange(found, "b c f h w -> (b f) c h w"), frame_maps)


def test_official_widths_have_the_38_official_tensors() -> None:
    with torch.device("meta"):
        state = build_pose_encoder(OFFICIAL_WIDTHS, OFFICIAL).state_dict()
    assert len(state) == 38
    assert sum(value.numel() for value in state.values()) == 77_369_280
    assert [name for name in state if "in_conv" in name] == [
        f"body.{i}.in_conv.{kind}" for i in (2, 4) for kind in ("weight", "bias")
    ]


def test_zero_initialised_encoder_learns_in_all_levels_within_three_steps() -> None:
    encoder = build_pose_encoder(WIDTHS, PAPER)
    pose, before = pose_images(), {name: p.detach().clone() for name, p in encoder.named_parameters()}
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        sum((feature - 1).square().mean() for feature in encoder(pose)).backward()
        optimizer.step()
    unchanged = [name for name, p in encoder.named_parameters() if torch.equal(p, before[name])]
    assert not unchanged


def test_same_seed_gives_the_same_encoder() -> None:
    first, second = build_pose_encoder(WIDTHS, OFFICIAL, 1), build_pose_encoder(WIDTHS, OFFICIAL, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_images_that_do_not_fill_the_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        small_encoder()(torch.zeros(1, 1, 3, 60, 64))
