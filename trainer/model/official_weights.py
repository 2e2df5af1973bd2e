"""Reads and writes weight files with the names of the official release.

Three kinds: `pose_encoder.pth` (38 tensors; T2I-Adapter's keypose file has the same names and shapes, so it is a warm
start), the UNet state dict of the release (868 tensors, the pose encoder's under `skeleton_adapter.`), and either as
safetensors. Files are read without running code from them: safetensors, or torch's restricted unpickler.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lposekit.errors import UsageError
from trainer.model.pose_encoder import BLOCKS_PER_LEVEL, POSE_PREFIX, PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL

if TYPE_CHECKING:
    from trainer.model.unet import VideoUNet

logger = logging.getLogger(__name__)

FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "pytorch_model.bin",
    "pose_encoder.safetensors",
    "pose_encoder.pth",
)
"""Where the weights lie in a folder; accelerate's checkpoint folders (`followyourpose_checkpoint-1000`) have
`pytorch_model.bin`."""

LISTED_DIFFERENCES = 5


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch file, or of the first known file in a folder, on the CPU.

    Raises UsageError for a file that is missing, damaged, holds anything but tensors, or needs code to be run.
    """
    file = weights_file(path)
    weights: dict[str, Any] = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    if set(weights) == {"state_dict"}:
        weights = weights["state_dict"]
    foreign = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if foreign or not weights:
        raise UsageError(f"{file} is not a flat state dict of tensors (first other entry: {foreign[:1]}).")
    if all(name.startswith("module.") for name in weights):
        # a checkpoint that accelerate wrote from several processes keeps DDP's prefix
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def weights_file(path: Path) -> Path:
    """The file itself, or the first known weights file in a folder."""
    if path.is_file():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise UsageError(f"no weights at {path}: expected a .pth, .bin or .safetensors file, or a folder with one of them.")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file} is not a valid safetensors file ({error}). Fetch it again.") from error


def read_torch(file: Path) -> dict:
    """A torch file through the restricted unpickler, which builds tensors and plain containers only."""
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{file} is refused: it is damaged, or it would run code while loading ({first_line(error)}). "
            "Take the file from its publisher again, or a .safetensors version of it."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{file} is not a readable torch file ({first_line(error)}). Fetch it again.") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{file} holds a {type(loaded).__name__}, not a state dict.")
    return loaded


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes float32 CPU tensors as safetensors or, for any other suffix, as a torch file of a flat dict."""
    flat = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        save_file(flat, path)
    else:
        torch.save(flat, path)


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copies weights into a module; raises UsageError with the first differing tensors unless names and shapes are
    exactly the module's. `what` opens the message: the file and what it should fit."""
    found = differences(module.state_dict(), weights)
    if found:
        listed = "; ".join(found[:LISTED_DIFFERENCES])
        raise UsageError(
            f"{what}: {len(found)} of {len(module.state_dict())} tensors differ, first: {listed}. "
            "Take weights that were trained on a base of this size, or the base that these weights belong to."
        )
    module.load_state_dict(dict(weights))


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps `found` from loading as `expected`, one phrase a tensor, in the order of `expected`."""
    phrases = []
    for name, value in expected.items():
        if name not in found:
            phrases.append(f"{name} is missing")
        elif found[name].shape != value.shape:
            phrases.append(f"{name} is {tuple(found[name].shape)} instead of {tuple(value.shape)}")
    return phrases + [f"{name} is not known" for name in found if name not in expected]


def load_pose_encoder(path: Path, widths: Sequence[int]) -> PoseEncoder:
    """The pose encoder of a file, strictly, for a UNet of these level widths (`unet.config.block_out_channels`).

    Takes `pose_encoder.pth`, T2I-Adapter's keypose file, a diffusers `T2IAdapter`, and a whole official UNet state
    dict, of which it reads `skeleton_adapter.*`. Raises UsageError with the first differing tensors (also for an
    encoder of another model size).
    """
    encoder = build_pose_encoder(widths, OFFICIAL)
    load_strictly(
        encoder, pose_encoder_part(read_weights(path)), f"pose encoder {path} for UNet widths {tuple(widths)}"
    )
    return encoder


def pose_encoder_part(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The pose encoder's tensors under the names of `pose_encoder.pth`, from any of the forms they come in."""
    if any(name.startswith(POSE_PREFIX) for name in weights):
        return {name.removeprefix(POSE_PREFIX): x for name, x in weights.items() if name.startswith(POSE_PREFIX)}
    return {official_pose_name(name): value for name, value in weights.items()}


def official_pose_name(name: str) -> str:
    """`adapter.body.2.resnets.1.block1.weight` (diffusers) -> `body.5.block1.weight`; names of other forms stay."""
    if not name.startswith("adapter."):
        return name
    name = name.removeprefix("adapter.")
    parts = re.fullmatch(r"body\.(\d+)\.(?:resnets\.(\d+)\.)?(.+)", name)
    if parts is None:
        return name
    # the width-changing 1x1 belongs to the level in diffusers, to the level's first block in the release
    return f"body.{int(parts[1]) * BLOCKS_PER_LEVEL + int(parts[2] or 0)}.{parts[3]}"


def write_pose_encoder(encoder: PoseEncoder, path: Path) -> None:
    """Writes the encoder as the release does (`.pth`), or as safetensors with the same names."""
    write_weights(encoder.state_dict(), path)


def load_official_unet(path: Path, unet: VideoUNet, pose_encoder: PoseEncoder | None) -> None:
    """Loads an official UNet state dict (file, or accelerate's folder) into both, strictly.

    Without a pose encoder to fill, the file's `skeleton_adapter.*` is left aside. Raises UsageError with the first
    differing tensors; then neither has been changed by a part of the file that does not fit it.
    """
    weights = read_weights(path)
    unet_weights = {name: value for name, value in weights.items() if not name.startswith(POSE_PREFIX)}
    if pose_encoder is not None:
        load_strictly(pose_encoder, pose_encoder_part(weights), f"pose encoder of {path}")
    load_strictly(unet, unet_weights, f"UNet of {path}")


def official_state_dict(unet: VideoUNet, pose_encoder: PoseEncoder | None) -> dict[str, Tensor]:
    """Both state dicts under official names: 868 tensors at the SD 1.4 configuration."""
    pose = {} if pose_encoder is None else pose_encoder.state_dict()
    return {**unet.state_dict(), **{POSE_PREFIX + name: value for name, value in pose.items()}}


def write_official_unet(unet: VideoUNet, pose_encoder: PoseEncoder | None, path: Path) -> None:
    """Writes an official UNet state dict; the release's own loader and `load_official_unet` read it."""
    write_weights(official_state_dict(unet, pose_encoder), path)
