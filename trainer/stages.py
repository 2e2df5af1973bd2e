"""The two stages of Follow-Your-Pose: what each trains, and the loss of a batch.

Stage 1: UNet frozen, the pose encoder learns, on single images with skeletons. Stage 2: pose encoder frozen and not
computed, the temporal parts and query projections of the UNet learn, on clips without pose. Nothing here draws a random
number: noise, timesteps and offsets come in with the batch, so the caller can make them a pure function of the sample.

Shape letters: B samples, C latent channels, F frames (1 in stage 1), H and W of the latents, L text tokens, D text
width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr
from einops import reduce
from torch import Tensor, nn

from trainer.model.pose_encoder import BLOCKS_PER_LEVEL, POSE_PREFIX, PoseEncoder, build_pose_encoder
from trainer.model.switches import ModelSwitches, trains_in_stage2, used_maps
from trainer.model.unet import VideoUNet, inflate

StageNumber = Literal[1, 2]


class StageModel(nn.Module):
    """UNet and pose encoder of one stage; calling it gives the weighted loss of each sample.

    number: the stage. pose_encoder: trained in stage 1; in stage 2 kept for sampling only, and may be None.
    scheduler: betas and prediction type (`epsilon` or `v_prediction`). min_snr_gamma: weight the losses by
    min(SNR, gamma) / SNR (Hang et al. 2023; 5 is usual); None: all weights 1.
    """

    def __init__(
        self,
        number: StageNumber,
        unet: VideoUNet,
        pose_encoder: PoseEncoder | None,
        scheduler: DDPMScheduler,
        min_snr_gamma: float | None = None,
    ) -> None:
        super().__init__()
        self.number: StageNumber = number
        self.unet = unet
        self.pose_encoder = pose_encoder
        self.scheduler = scheduler
        self.min_snr_gamma = min_snr_gamma

    def forward(
        self,
        latents_BCFHW: Tensor,
        noise_BCFHW: Tensor,
        timesteps_B: Tensor,
        text_BLD: Tensor,
        pose_BF3HW: Tensor | None = None,
    ) -> Tensor:
        """Losses of the samples, shape (B,), float32, min-SNR weights applied; `.mean()` is the loss to minimise.

        latents_BCFHW: scaled latents of the clean images. noise_BCFHW: standard normal (plus offset noise).
        timesteps_B: int64, 0..999. pose_BF3HW: skeleton images in [0, 1] of 8 times the latents' size; stage 1 may
        leave it out (loss without pose), stage 2 takes none.
        """
        losses_B = self.losses(latents_BCFHW, noise_BCFHW, timesteps_B, text_BLD, pose_BF3HW)
        if self.min_snr_gamma is None:
            return losses_B
        return losses_B * min_snr_weights(self.scheduler, timesteps_B, self.min_snr_gamma)

    def losses(
        self,
        latents_BCFHW: Tensor,
        noise_BCFHW: Tensor,
        timesteps_B: Tensor,
        text_BLD: Tensor,
        pose_BF3HW: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, all weights 1: the mean squared error of each sample."""
        noisy_BCFHW = self.noisy_latents(latents_BCFHW, noise_BCFHW, timesteps_B)
        prediction = self.unet(noisy_BCFHW, timesteps_B, text_BLD, self.pose_features(pose_BF3HW))
        target = self.target(latents_BCFHW, noise_BCFHW, timesteps_B)
        return reduce((prediction.float() - target.float()) ** 2, "b c f h w -> b", "mean")

    def pose_features(self, pose_BF3HW: Tensor | None) -> list[Tensor] | None:
        """Feature maps of the skeleton images in the UNet's type, or None without images."""
        if pose_BF3HW is None:
            return None
        if self.number == 2:
            raise ValueError("stage 2 trains without pose: the pose encoder is frozen and must not be computed")
        assert self.pose_encoder is not None
        return run_pose_encoder(self.pose_encoder, pose_BF3HW, self.unet.conv_in.weight.dtype)

    def noisy_latents(self, latents_BCFHW: Tensor, noise_BCFHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Forward diffusion in float32: sqrt(a_t) latents + sqrt(1 - a_t) noise."""
        clean, noise = latents_BCFHW.float(), noise_BCFHW.float()
        return self.scheduler.add_noise(clean, noise, timesteps_B)  # pyright: ignore

    def target(self, latents_BCFHW: Tensor, noise_BCFHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """What the UNet is to predict: the noise, or the velocity for a base of that kind."""
        if self.scheduler.config["prediction_type"] == "v_prediction":
            return self.scheduler.get_velocity(latents_BCFHW, noise_BCFHW, timesteps_B)  # pyright: ignore
        return noise_BCFHW

    def named_official(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters under their names in the official UNet state dict (pose encoder: `skeleton_adapter.*`)."""
        yield from self.unet.named_parameters()
        if self.pose_encoder is not None:
            for name, parameter in self.pose_encoder.named_parameters():
                yield POSE_PREFIX + name, parameter

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that this stage trains, by official name, in a fixed order: what optimiser, EMA and
        checkpoints hold."""
        return {name: parameter for name, parameter in self.named_official() if parameter.requires_grad}


def build_stage(
    number: StageNumber,
    unet2d: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    switches: ModelSwitches,
    pose_encoder: PoseEncoder | None = None,
    min_snr_gamma: float | None = None,
    seed: int = 0,
) -> StageModel:
    """The model of a stage over a base UNet (changed in place), with exactly its trainable parameters unfrozen.

    Stage 1 leaves the temporal layers out, and starts a new pose encoder from `seed` unless one is given (a warm
    start). Stage 2 takes the pose encoder of stage 1, or None.
    """
    if number == 1:
        unet = inflate(unet2d, dataclasses.replace(switches, temporal_layers=False), seed)
        pose_encoder = pose_encoder or build_pose_encoder(unet.config["block_out_channels"], switches, seed)
    else:
        unet = inflate(unet2d, switches, seed)
    stage = StageModel(number, unet, pose_encoder, scheduler, min_snr_gamma)
    freeze_all_but_trained(stage)
    return stage


def freeze_all_but_trained(stage: StageModel) -> None:
    """Sets `requires_grad` on every parameter: True exactly for what the stage trains."""
    for name, parameter in stage.named_official():
        parameter.requires_grad_(is_trained(name, stage.number, stage.unet.switches))
    if stage.pose_encoder is not None:
        # what computes maps that are added nowhere has no gradient
        used = used_maps(stage.unet.switches, len(stage.pose_encoder.widths))
        stage.pose_encoder.body[BLOCKS_PER_LEVEL * used :].requires_grad_(False)


def is_trained(official_name: str, number: StageNumber, switches: ModelSwitches) -> bool:
    """Whether a stage trains the parameter of this official name."""
    if official_name.startswith(POSE_PREFIX):
        return number == 1
    return number == 2 and trains_in_stage2(official_name, switches)


def lower_frozen_precision(stage: StageModel, dtype: torch.dtype) -> None:
    """Casts the frozen weights to `dtype` in place; trained weights stay float32 and are cast where they are used.

    The forward pass then runs in `dtype`; no autocast is needed around it.
    """
    for parameter in stage.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def run_pose_encoder(encoder: PoseEncoder, pose_BF3HW: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The encoder's feature maps, computed in `dtype` whatever the type of its weights."""
    # casts that autograd sees: gradients reach the weights in their own type. Autocast does the same but on a device
    # that it knows, which the device without contents, where a step is counted, is not
    weights = {name: weight.to(dtype) for name, weight in encoder.named_parameters()}
    return torch.func.functional_call(encoder, weights, (pose_BF3HW.to(dtype),))


def min_snr_weights(scheduler: DDPMScheduler, timesteps_B: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR for noise prediction, min(SNR, gamma) / (SNR + 1) for velocity; shape (B,), float32."""
    snr_B = compute_snr(scheduler, timesteps_B).float()
    divisor_B = snr_B + 1 if scheduler.config["prediction_type"] == "v_prediction" else snr_B
    return snr_B.clamp(max=gamma) / divisor_B


def offset_noise(noise_BCFHW: Tensor, offsets_BC: Tensor, strength: float) -> Tensor:
    """Noise plus `strength` times one standard normal number for each sample and channel, the same in all frames."""
    return noise_BCFHW + strength * offsets_BC[:, :, None, None, None]
