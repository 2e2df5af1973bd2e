"""Contract: the DDIM loop guides as the released sampler does. (Its numbers are compared in tests/golden.)"""

from __future__ import annotations

import pytest
import torch

from tests.trainer.model.small import inputs, pose_images, small_encoder, small_scheduler, small_video_unet
from trainer.inference.sample import ddim_sample, ddim_scheduler, ddim_steps

pytestmark = pytest.mark.timeout(180)


def test_timesteps_are_those_of_the_release() -> None:
    assert ddim_scheduler(small_scheduler(), 5).timesteps.tolist() == [801, 601, 401, 201, 1]


@torch.no_grad()
def test_equal_prompts_make_guidance_vanish() -> None:
    unet, ddim = small_video_unet(), ddim_scheduler(small_scheduler(), 2)
    latents, _, text = inputs(batch=1)
    guided = ddim_sample(unet, ddim, latents, text, text, guidance=12.5)
    alone = ddim_sample(unet, ddim, latents, text, text, guidance=1.0)
    torch.testing.assert_close(guided, alone, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_several_clips_and_both_halves_get_their_own_pose() -> None:
    unet, ddim = small_video_unet(), ddim_scheduler(small_scheduler(), 1)
    (latents, _, text), features = inputs(batch=2), small_encoder()(pose_images(batch=2))
    together = ddim_sample(unet, ddim, latents, text, text.flip(0), features)
    for i in range(2):
        one = slice(i, i + 1)
        alone = ddim_sample(unet, ddim, latents[one], text[one], text.flip(0)[one], [x[one] for x in features])
        torch.testing.assert_close(together[one], alone, atol=1e-3, rtol=1e-3)


def test_sampling_keeps_no_graph() -> None:
    unet, ddim = small_video_unet(), ddim_scheduler(small_scheduler(), 2)
    latents, _, text = inputs(batch=1)
    assert not any(step.latents_BCFHW.requires_grad for step in ddim_steps(unet, ddim, latents, text, text))
