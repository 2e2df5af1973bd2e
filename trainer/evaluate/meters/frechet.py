"""FID and FVD: the Frechet distance of features of all drawn and all real frames, or clips.

The networks are TorchScript files that the user names, in the two forms in which they are usually published: Inception
takes images, uint8 NCHW, I3D takes clips, float NCTHW in -1..1 at 224 pixels; both give features with
`return_features=True`. A TorchScript file is a program: name only files that you trust.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from PIL import Image

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import JsonObject
from lposekit.scores.disco import FRAMES_OF_A_CLIP, runs_of_frames
from lposekit.scores.frechet import Gaussian, frechet_distance
from trainer.evaluate.meters.digests import file_digest
from trainer.evaluate.meters.meter import Frames, Judged
from trainer.evaluate.protocol import Pair
from trainer.evaluate.settings import Definitions
from trainer.model.tensor_files import first_line

Features = npt.NDArray[np.float32]
Network = Callable[..., torch.Tensor]
I3D_SIDE_PX = 224
LEAST_FRAMES = 10
"""Of a clip that I3D takes."""
IMAGES_AT_ONCE = 16


class FrechetMeter:
    """Of either kind: `features` gives the features [N, D] of a clip's frames FHWC."""

    def __init__(self, name: str, identity: JsonObject, features: Callable[[Frames], Features]) -> None:
        self.name = name
        self._identity = identity
        self._features = features

    def identity(self) -> JsonObject:
        return self._identity

    def measure(self, clip: Judged) -> JsonObject:
        if clip.real_FHWC is None:
            return {}
        both = {"drawn": clip.drawn_FHWC, "real": clip.real_FHWC}
        return {name: pack(self._features(frames_FHWC)) for name, frames_FHWC in both.items()}

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        drawn_ND, real_ND = (np.concatenate([unpack(each[name]) for each in found]) for name in ("drawn", "real"))
        if len(drawn_ND) < 2:
            return {"distance": None, "samples": len(drawn_ND)}
        return {
            "distance": frechet_distance(Gaussian.of(drawn_ND), Gaussian.of(real_ND)),
            "samples": len(drawn_ND),
            "features": drawn_ND.shape[1],
        }


def fid_meter(file: Path, device: torch.device) -> FrechetMeter:
    """FID over all frames, pooled. Raises UsageError: no such network there."""
    network = load_network(file, "--fid", device)

    def features(frames_FHWC: Frames) -> Features:
        images = rearrange(torch.from_numpy(frames_FHWC), "f h w c -> f c h w")
        parts = [run_network(network, part.to(device), file) for part in images.split(IMAGES_AT_ONCE)]
        return np.concatenate(parts)

    return FrechetMeter("fid", {"network": file.name, "sha256": file_digest(file)}, features)


def fvd_meter(file: Path, definitions: Definitions, num_frames: int, device: torch.device) -> FrechetMeter:
    """FVD: each clip whole; or, with `disco`, every run of 16 frames of it.

    Raises:
        UsageError: no such network there, or the clips are too short for it.
    """
    least = FRAMES_OF_A_CLIP if definitions == "disco" else LEAST_FRAMES
    if num_frames < least:
        raise UsageError(f"--fvd: clips of {num_frames} frames; it takes {least} at least. Leave it out.")
    network = load_network(file, "--fvd", device)

    def features(frames_FHWC: Frames) -> Features:
        runs = runs_of_frames(num_frames) if definitions == "disco" else [range(num_frames)]
        clip_CFHW = i3d_input(frames_FHWC, definitions)
        options = {"rescale": False, "resize": False}
        return np.concatenate(
            [run_network(network, clip_CFHW[None, :, list(run)].to(device), file, **options) for run in runs]
        )

    identity = {"network": file.name, "sha256": file_digest(file), "definitions": definitions}
    return FrechetMeter("fvd", identity, features)


def i3d_input(frames_FHWC: Frames, definitions: Definitions) -> torch.Tensor:
    """Frames as I3D takes them, float CFHW in -1..1, 224 pixels: the shorter side resized and the middle cut out; or,
    with `disco`, resized to a square by Pillow's bicubic filter."""
    if definitions == "disco":
        size = I3D_SIDE_PX, I3D_SIDE_PX
        images = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames_FHWC]
        squares_FHWC = np.stack([np.asarray(image, np.uint8) for image in images])
    else:
        squares_FHWC = np.stack([_middle_square(frame) for frame in frames_FHWC])
    return rearrange(torch.from_numpy(squares_FHWC), "f h w c -> c f h w").float() / 127.5 - 1


def _middle_square(rgb_HWC: Frames) -> Frames:
    height, width = rgb_HWC.shape[:2]
    scale = I3D_SIDE_PX / min(height, width)
    size = max(I3D_SIDE_PX, round(width * scale)), max(I3D_SIDE_PX, round(height * scale))
    resized = np.asarray(cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    left, top = (size[0] - I3D_SIDE_PX) // 2, (size[1] - I3D_SIDE_PX) // 2
    return resized[top : top + I3D_SIDE_PX, left : left + I3D_SIDE_PX]


def load_network(file: Path, flag: str, device: torch.device) -> Any:
    """A TorchScript file. Raises UsageError: there is none."""
    try:
        return torch.jit.load(file, map_location=device).eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{flag} {file}: no TorchScript file that can be loaded ({first_line(error)}). Name that of "
            "inception-2015-12-05.pt (FID) or i3d_torchscript.pt (FVD), from their publishers."
        ) from error


@torch.inference_mode()
def run_network(network: Network, batch: torch.Tensor, file: Path, **options: bool) -> Features:
    """The features [N, D] of a batch. Raises LposekitError: the network takes something else."""
    try:
        found = network(batch, **options, return_features=True)
    except (RuntimeError, TypeError) as error:
        raise LposekitError(f"{file}: does not take what its kind takes ({first_line(error)}).") from error
    return found.reshape(len(batch), -1).float().cpu().numpy()


def pack(features_ND: Features) -> JsonObject:
    """Features as JSON: exact, and a third of the size that numbers would take."""
    data = base64.b64encode(np.ascontiguousarray(features_ND, "<f4").tobytes()).decode("ascii")
    return {"shape": list(features_ND.shape), "float32": data}


def unpack(packed: Any) -> Features:
    return np.frombuffer(base64.b64decode(packed["float32"]), "<f4").reshape(packed["shape"])
