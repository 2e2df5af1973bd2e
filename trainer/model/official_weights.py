"""Reads and writes weight files with the names of the official release.

Three kinds: `pose_encoder.pth` (38 tensors; T2I-Adapter's keypose file has the same names and shapes, so it is a warm
start), the UNet state dict of the release (868 tensors, the pose encoder's under `skeleton_adapter.`), and either as
safetensors. Files are read without running code from them: safetensors, or torch's restricted unpickler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lposekit.errors import UsageError
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of
from trainer.model.pose_encoder import BLOCKS_PER_LEVEL, POSE_PREFIX, PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.model.tensor_files import load_strictly, read_safetensors, read_torch, write_weights
from trainer.model.unet import VideoUNet

FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "pytorch_model.bin",
    "pose_encoder.safetensors",
    "pose_encoder.pth",
)
"""Where the weights lie in a folder; accelerate's checkpoint folders (`followyourpose_checkpoint-1000`) have
`pytorch_model.bin`."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch file, or of the first known file in a folder, on the CPU.

    Raises:
        UsageError: the file is missing, damaged, holds anything but tensors, or needs code to be run.
    """
    file = weights_file(path)
    found: Mapping[str, object] = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    nested = found.get("state_dict")
    if len(found) == 1 and isinstance(nested, Mapping):
        found = nested
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    foreign = [name for name in found if name not in weights]
    if foreign or not weights:
        raise UsageError(f"{file} is not a flat state dict of tensors (first other entry: {foreign[:1]}).")
    if all(name.startswith("module.") for name in weights):
        # a checkpoint that accelerate wrote from several processes keeps DDP's prefix
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def weights_file(path: Path) -> Path:
    """The file itself, or the first known weights file in a folder."""
    if path.is_file():
        return path.resolve()  # the user's own word, which may be a link
    try:
        for name in FOLDER_FILES if path.is_dir() else ():
            if kind_of(LocalStore(path), name) is not None:
                return path / name
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from error
    raise UsageError(f"no weights at {path}: expected a .pth, .bin or .safetensors file, or a folder with one of them.")


def load_pose_encoder(path: Path, widths: Sequence[int]) -> PoseEncoder:
    """The pose encoder of a file, strictly, for a UNet of these level widths (`unet.config.block_out_channels`).

    Takes `pose_encoder.pth`, T2I-Adapter's keypose file, a diffusers `T2IAdapter`, and a whole official UNet state
    dict, of which it reads `skeleton_adapter.*`.

    Raises:
        UsageError: it does not fit, as an encoder of another model size does not; lists the first differing tensors.
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

    Without a pose encoder to fill, the file's `skeleton_adapter.*` is left aside.

    Raises:
        UsageError: the file does not fit; lists the first differing tensors. A part that does not fit changes nothing.
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
