"""Contract: a stage changes exactly the weights that it trains, and its loss is a pure function of its inputs.

Stage 1 trains the pose encoder and nothing else; stage 2 trains the parts of the UNet that the switches name, and never
computes the pose encoder. Proven on SHA-256 of every frozen tensor before and after real optimiser steps.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.support.one_thread import one_thread  # noqa: F401
from tests.trainer.model.small import inputs, pose_images, small_encoder, small_scheduler, small_unet2d
from trainer.model.base import weights_digest
from trainer.model.pose_encoder import PoseEncoder
from trainer.model.switches import OFFICIAL, PAPER, ModelSwitches, preset, trains_in_stage2
from trainer.stages import StageModel, StageNumber, build_stage, lower_frozen_precision, offset_noise

pytestmark = pytest.mark.timeout(240)


def small_stage(number: StageNumber, switches: ModelSwitches = OFFICIAL, **options: float) -> StageModel:
    encoder = small_encoder() if number == 2 else None
    return build_stage(number, small_unet2d(), small_scheduler(), switches, encoder, **options)  # type: ignore[arg-type]


def stage_inputs(number: StageNumber) -> tuple[torch.Tensor, ...]:
    frames = 1 if number == 1 else 3
    latents, timesteps, text = inputs(frames=frames)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(23))
    pose = (pose_images(frames=1),) if number == 1 else ()
    return (latents, noise, timesteps, text, *pose)


def steps(stage: StageModel, count: int = 2) -> list[float]:
    """Real training steps on one batch; their losses."""
    optimizer = torch.optim.AdamW(stage.trainable().values(), lr=1e-3)
    losses = []
    for _ in range(count):
        loss = stage(*stage_inputs(stage.number)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def digests(stage: StageModel) -> dict[str, str]:
    return {name: weights_digest(torch.nn.ParameterList([p])) for name, p in stage.named_official()}


@pytest.mark.parametrize("number", [1, 2])
def test_a_step_changes_exactly_the_weights_that_the_stage_trains(number: StageNumber) -> None:
    # mutation: leave one `requires_grad_` out of freeze_all_but_trained, or give the optimiser all parameters: red
    stage = small_stage(number)
    before = digests(stage)
    losses = steps(stage)
    changed = {name for name, digest in digests(stage).items() if digest != before[name]}
    assert changed == set(stage.trainable())
    assert losses[1] < losses[0]
    if number == 1:
        assert len(changed) == 38
        assert all(name.startswith("skeleton_adapter.") for name in changed)
    else:
        assert not any(name.startswith("skeleton_adapter.") for name in changed)


def test_official_stage_2_trains_what_the_released_code_trains() -> None:
    names = list(small_stage(2).trainable())
    assert len(names) == 16 * 9
    endings = {".".join(name.split(".transformer_blocks.0.")[1].split(".")[:2]) for name in names}
    assert endings == {
        "attn1.to_q", "attn2.to_q", "attn_temp.to_q", "attn_temp.to_k", "attn_temp.to_v", "attn_temp.to_out",
        "conv_temporal.down", "conv_temporal.up",
    }  # fmt: skip


def test_paper_stage_2_trains_cross_frame_and_temporal_attention_only() -> None:
    names = list(small_stage(2, PAPER).trainable())
    kinds = {name.split(".transformer_blocks.0.")[1].split(".")[0] for name in names}
    assert kinds == {"attn1", "attn_temp"}


def test_the_norm_before_temporal_attention_trains_by_switch_only() -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.norm_temp.weight"
    assert not trains_in_stage2(name, OFFICIAL)
    assert trains_in_stage2(name, dataclasses.replace(OFFICIAL, train_norm_temp=True))


def test_parts_of_the_pose_encoder_that_reach_nothing_are_not_trained() -> None:
    # mutation: leave the freezing out -> red (under torchrun, parameters without gradient would end the run)
    stage = small_stage(1, dataclasses.replace(OFFICIAL, pose_at="first_level"))
    stage(*stage_inputs(1)).mean().backward()
    trained = stage.trainable()
    assert trained
    assert all(parameter.grad is not None for parameter in trained.values())


def test_stage_2_never_computes_the_pose_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = small_stage(2)

    def refuse(*_: object) -> None:
        raise AssertionError("the pose encoder ran in stage 2")

    monkeypatch.setattr(PoseEncoder, "forward", refuse)
    stage(*stage_inputs(2))
    with pytest.raises(ValueError, match="stage 2"):
        stage(*stage_inputs(2), pose_images())


def test_stage_1_has_no_temporal_layers_and_accepts_a_batch_without_pose() -> None:
    stage = small_stage(1)
    assert not any("temp" in name for name, _ in stage.named_official())
    assert stage(*stage_inputs(1)[:4]).shape == (2,)


@torch.no_grad()
def test_loss_is_the_mean_squared_error_against_the_noise() -> None:
    stage, (latents, noise, timesteps, text, pose) = small_stage(1), stage_inputs(1)
    alphas = stage.scheduler.alphas_cumprod[timesteps][:, None, None, None, None]
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    assert stage.pose_encoder is not None
    prediction = stage.unet(noisy, timesteps, text, stage.pose_encoder(pose))
    expected = (prediction - noise).square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(stage(latents, noise, timesteps, text, pose), expected)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_follow_the_paper(prediction_type: str) -> None:
    stage = small_stage(2, min_snr_gamma=5.0)
    stage.scheduler.register_to_config(prediction_type=prediction_type)
    batch = stage_inputs(2)
    alphas = stage.scheduler.alphas_cumprod[batch[2]]
    snr = alphas / (1 - alphas)
    weights = snr.clamp(max=5) / (snr if prediction_type == "epsilon" else snr + 1)
    torch.testing.assert_close(stage(*batch), stage.losses(*batch) * weights)
    assert snr.max() > 5 > snr.min()


def test_offset_noise_shifts_each_channel_of_all_frames_alike() -> None:
    noise, offsets = torch.zeros(2, 4, 3, 5, 5), torch.arange(8.0).reshape(2, 4)
    shifted = offset_noise(noise, offsets, strength=0.5)
    assert torch.equal(shifted, (0.5 * offsets)[:, :, None, None, None].expand_as(noise))


@torch.no_grad()
def test_nothing_random_happens_inside_a_stage() -> None:
    stage = small_stage(2)
    state = torch.get_rng_state()
    assert torch.equal(stage(*stage_inputs(2)), stage(*stage_inputs(2)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", [1, 2])
def test_low_precision_keeps_trained_weights_in_float32_and_the_loss_near(number: StageNumber) -> None:
    stage = small_stage(number)
    expected = stage(*stage_inputs(number)).mean().item()
    lower_frozen_precision(stage, torch.bfloat16)
    trained = stage.trainable()
    assert all(p.dtype == (torch.float32 if name in trained else torch.bfloat16) for name, p in stage.named_official())
    loss = stage(*stage_inputs(number)).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.02)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.values())


def test_presets_differ_in_the_documented_switches() -> None:
    assert preset("official") == ModelSwitches()
    changed = {f.name for f in dataclasses.fields(PAPER) if getattr(PAPER, f.name) != getattr(OFFICIAL, f.name)}
    assert changed == {"attn_temp_init", "pose_init", "trainable"}
