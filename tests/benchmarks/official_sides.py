"""The sides of `official_step`: ours, the official code and diffusers, each built in a process of its own.

Models are imported where they are built: each side has its own diffusers.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.fixtures import fixtures_root
from trainer.model.switches import TRAINABLE_MODULES

OFFICIAL_PACKAGES = Path(sys.prefix) / "bench-official"
"""Where the official code's own diffusers is installed."""
LEARNING_RATE = 3e-5
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SMALLEST_POSE = 64
"""Height and width of the smallest image that the official pose encoder halves often enough."""


@dataclass(frozen=True)
class Case:
    """One comparison of ours with a peer. side: of the latents. code: the official checkout."""

    stage: int
    peer: str
    frames: int
    side: int
    threads: int
    code: Path

    @property
    def name(self) -> str:
        return f"stage{self.stage}_{self.peer}"

    def inputs(self) -> dict[str, Tensor]:
        """The same in every process."""
        random = torch.Generator().manual_seed(0)
        shape = (1, 4, self.frames, self.side, self.side)
        return {
            "latents": torch.randn(shape, generator=random),
            "noise": torch.randn(shape, generator=random),
            "timesteps": torch.tensor([500]),
            "text": torch.randn(1, 77, 768, generator=random),
            "pose": torch.rand(1, self.frames, 3, 8 * self.side, 8 * self.side, generator=random),
        }


@dataclass
class Side:
    """A model that can do a step. forms: ways to compute the loss, the one to compare first."""

    modules: list[nn.Module]
    trained: list[nn.Parameter]
    forms: dict[str, Callable[[], Tensor]]
    optimizer: torch.optim.Optimizer = field(init=False)

    def lay_out(self, layout: str) -> None:
        """Puts the weights into a memory layout, and starts the optimiser."""
        for module in self.modules:
            module.to(memory_format=LAYOUTS[layout])  # pyright: ignore
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0, fused=True)
        # an update by nothing: its moments are there from the first step on, so that this has the peak of all
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.optimizer.param_groups[0]["lr"] = LEARNING_RATE

    def step(self, form: str) -> float:
        loss = self.forms[form]()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def our_side(case: Case) -> Side:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from trainer.model.base import read_scheduler
    from trainer.model.switches import OFFICIAL
    from trainer.model.winograd import use_winograd, winograd_convolutions
    from trainer.stages import build_stage

    with unset_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(sd14_folder() / "unet"))
        stage = build_stage(case.stage, unet, read_scheduler(sd14_folder() / "scheduler"), OFFICIAL)  # pyright: ignore
    set_weights(stage.named_official())
    given = case.inputs()
    if case.stage == 2:
        del given["pose"]
    use_winograd(stage.unet)  # as a run on a CPU does
    for convolution in winograd_convolutions(stage):
        convolution.transform()  # so that the first step has the peak of all
    trained = list(stage.trainable().values())
    return Side([stage], trained, {"ours": lambda: stage(*given.values()).mean()})


def official_side(case: Case) -> Side:
    sys.path[:0] = [str(OFFICIAL_PACKAGES), str(case.code)]
    # diffusers 0.11.1 would import from it what today's transformers lacks, for pipelines that nobody needs here
    sys.modules["transformers"] = None  # pyright: ignore
    from diffusers import DDPMScheduler
    from followyourpose.models.unet import Adapter, UNet3DConditionModel  # pyright: ignore

    config = json.loads((sd14_folder() / "unet/config.json").read_text())
    config["mid_block_type"] = "UNetMidBlock3DCrossAttn"
    for blocks in ("down_block_types", "up_block_types"):
        config[blocks] = [name.replace("2D", "3D") for name in config[blocks]]
    with unset_weights(), official_pose_file(Adapter):
        unet = UNet3DConditionModel.from_config(config)
    # at one frame ours has no temporal layers: here they do nothing, but are computed
    idle = (
        ("attn_temp.to_out.0.weight", "attn_temp.to_out.0.bias", "conv_temporal.up.weight") if case.stage == 1 else ()
    )
    set_weights(unet.named_parameters(), zero=idle)
    trained = freeze_official(unet, case)
    scheduler = DDPMScheduler.from_config(json.loads((sd14_folder() / "scheduler/scheduler_config.json").read_text()))
    given = case.inputs()
    pose = given["pose"] if case.stage == 1 else torch.full((1, case.frames, 3, SMALLEST_POSE, SMALLEST_POSE), -1.0)

    def loss() -> Tensor:
        noisy = scheduler.add_noise(given["latents"], given["noise"], given["timesteps"])
        use = "sample" if case.stage == 1 else "train"  # how their UNet is told to add the pose, or not
        predicted = unet(noisy, given["timesteps"], given["text"], skeleton=pose, train_or_sample=use).sample
        return nn.functional.mse_loss(predicted, given["noise"])

    unet.train()
    if case.stage == 2:
        return Side([unet], trained, {"official": loss})
    swap = TemporalSwap(unet)
    forms = {
        "official, temporal layers taken out": lambda: swap.without(loss),
        "official as released (weak)": lambda: swap.within(loss),
    }
    return Side([unet], trained, forms)


def diffusers_side(case: Case) -> Side:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from trainer.model.base import read_scheduler
    from trainer.model.pose_encoder import POSE_PREFIX, build_pose_encoder, to_t2i_adapter
    from trainer.model.switches import OFFICIAL

    with unset_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(sd14_folder() / "unet"))
        encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL)
    set_weights(unet.named_parameters())
    set_weights((POSE_PREFIX + name, parameter) for name, parameter in encoder.named_parameters())
    adapter = to_t2i_adapter(encoder)
    unet.requires_grad_(False)
    scheduler = read_scheduler(sd14_folder() / "scheduler")
    given = {name: value.squeeze(2) if value.dim() == 5 else value for name, value in case.inputs().items()}
    pose_B3HW = case.inputs()["pose"][:, 0]

    def loss() -> Tensor:
        noisy = scheduler.add_noise(given["latents"], given["noise"], given["timesteps"])  # pyright: ignore
        maps = list(adapter(pose_B3HW))
        predicted = unet(noisy, given["timesteps"], given["text"], down_intrablock_additional_residuals=maps).sample
        return nn.functional.mse_loss(predicted, given["noise"])

    return Side([unet, adapter], list(adapter.parameters()), {"diffusers' T2I-Adapter": loss})


PEERS = {"official": official_side, "diffusers": diffusers_side}


class TemporalSwap:
    """Takes the temporal layers out of the official UNet's blocks and puts them back."""

    def __init__(self, unet: nn.Module) -> None:
        empty = {"norm_temp": nn.Identity(), "attn_temp": _Nothing(), "conv_temporal": nn.Identity()}
        self.places = [
            (block, name, getattr(block, name), none)
            for block in unet.modules()
            if hasattr(block, "attn_temp")
            for name, none in empty.items()
        ]

    def without(self, loss: Callable[[], Tensor]) -> Tensor:
        for block, name, _, none in self.places:
            setattr(block, name, none)
        return loss()

    def within(self, loss: Callable[[], Tensor]) -> Tensor:
        for block, name, layer, _ in self.places:
            setattr(block, name, layer)
        return loss()


class _Nothing(nn.Module):
    """In place of a residual branch."""

    def forward(self, x: Tensor) -> float:
        return 0.0


def freeze_official(unet: Any, case: Case) -> list[nn.Parameter]:
    """As the official script does it in stage 2; in stage 1 all but the pose encoder."""
    endings = ("skeleton_adapter",) if case.stage == 1 else TRAINABLE_MODULES["official"]
    unet.requires_grad_(False)
    for name, module in unet.named_modules():
        if name.endswith(endings):
            module.requires_grad_(True)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def sd14_folder() -> Path:
    return fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights"


@contextlib.contextmanager
def unset_weights() -> Iterator[None]:
    """Inside, modules leave their weights as the memory is: drawing them takes longer than all else."""
    names = ("kaiming_uniform_", "normal_", "uniform_", "zeros_")
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


def set_weights(named: Iterable[tuple[str, nn.Parameter]], zero: tuple[str, ...] = ()) -> None:
    """Random weights that depend on their official names alone. zero: endings of the names of those that are 0."""
    for name, parameter in named:
        random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            if name.endswith(zero):
                parameter.zero_()
            elif parameter.dim() > 1:
                bound = math.sqrt(3 / parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=random)
            else:
                middle = 1.0 if name.endswith(".weight") else 0.0
                parameter.uniform_(middle - 0.1, middle + 0.1, generator=random)


@contextlib.contextmanager
def official_pose_file(adapter_class: Any) -> Iterator[None]:
    """Inside, the file that the official UNet loads when it is built lies where it looks for it; of no meaning here."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "checkpoints").mkdir()
        adapter = adapter_class(cin=192, channels=[320, 640, 1280, 1280], nums_rb=2, ksize=1, sk=True, use_conv=False)
        torch.save(adapter.state_dict(), Path(work) / "checkpoints/pose_encoder.pth")
        os.chdir(work)
        try:
            yield
        finally:
            os.chdir(before)
