"""LPIPS with VGG-16 (Zhang et al. 2018): distance of deep features, weighted by learned linear layers.

The network is a few lines of torch over the published weights: the `lpips` package needs torchvision. The weights are
in a folder that the user names: torchvision's VGG-16 (`features.N.weight` and `.bias`) and LPIPS's linear layers
(`linN.model.1.weight`), in `.pth` or `.safetensors` files of any names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from trainer.evaluate.meters.digests import weights_digest
from trainer.evaluate.meters.meter import Frames, Judged, mean_of
from trainer.evaluate.protocol import Pair
from trainer.evaluate.settings import Definitions
from trainer.model.official_weights import read_weights

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of RGB in -1..1."""
ENDINGS = (".pth", ".pt", ".safetensors")


class Lpips(nn.Module):
    """Images NCHW in -1..1, two by two, to distances [N]."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, *WIDTHS)
        self.features = nn.ModuleDict()
        number = 0  # as in torchvision's VGG-16: a convolution and a ReLU each, and a pooling after every block
        for block, depth in enumerate(DEPTHS):
            for layer in range(depth):
                from_channels = channels[block] if layer == 0 else channels[block + 1]
                self.features[str(number)] = nn.Conv2d(from_channels, channels[block + 1], 3, padding=1)
                number += 2
            number += 1
        self.lin = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in WIDTHS])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
        pairs = zip(self.maps(a_NCHW), self.maps(b_NCHW), self.lin, strict=True)
        parts = [((_unit(a) - _unit(b)) ** 2 * weight[:, None, None]).sum(1).mean((1, 2)) for a, b, weight in pairs]
        return torch.stack(parts).sum(0)

    def maps(self, images_NCHW: Tensor) -> list[Tensor]:
        """The last map of each of the five blocks."""
        x, found = (images_NCHW - self.shift) / self.scale, []  # pyright: ignore
        convolutions = iter(self.features.values())
        for block, depth in enumerate(DEPTHS):
            x = functional.max_pool2d(x, 2) if block else x
            for _ in range(depth):
                x = functional.relu(next(convolutions)(x))
            found.append(x)
        return found


class LpipsMeter:
    """LPIPS to the real frames, mean over the frames.

    DisCo's script gives the network images in 0..1, which it was not trained for; `disco` does the same.
    """

    name = "lpips"

    def __init__(self, folder: Path, definitions: Definitions, device: torch.device) -> None:
        """Raises UsageError: the folder lacks weights, or has others."""
        self._network = load_lpips(folder).to(device).eval().requires_grad_(False)
        self._definitions: Definitions = definitions
        self._device = device

    def identity(self) -> JsonObject:
        digest = weights_digest(self._network)
        return {"network": "VGG-16", "weights_sha256": digest, "definitions": self._definitions}

    def measure(self, clip: Judged) -> JsonObject:
        if clip.real_FHWC is None:
            return {}
        distances = [self._distance(a, b) for a, b in zip(clip.drawn_FHWC, clip.real_FHWC, strict=True)]
        return {"lpips": sum(distances) / len(distances)}

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        return {"lpips": mean_of(found, "lpips")}

    @torch.inference_mode()
    def _distance(self, drawn_HWC: Frames, real_HWC: Frames) -> float:
        return float(self._network(self._image(drawn_HWC), self._image(real_HWC)))

    def _image(self, rgb_HWC: Frames) -> Tensor:
        image = rearrange(torch.from_numpy(rgb_HWC), "h w c -> 1 c h w").to(self._device, torch.float32) / 255
        return image if self._definitions == "disco" else 2 * image - 1


def load_lpips(folder: Path) -> Lpips:
    """The network with the weights of a folder.

    Raises:
        UsageError: there are none, or they are others.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS) if folder.is_dir() else []
    found = {name: value for file in files for name, value in read_weights(file).items()}
    network = Lpips()
    state = network.state_dict()
    wanted = {name: f"lin{name[4:]}.model.1.weight" if name.startswith("lin.") else name for name in state}
    lacking = [name for ours, name in wanted.items() if name not in found or found[name].numel() != state[ours].numel()]
    if lacking:
        raise UsageError(
            f"--lpips {folder}: lacks {len(lacking)} of {len(wanted)} tensors, {lacking[0]} among them. Put two files "
            "there: torchvision's VGG-16 (vgg16-397923af.pth) and LPIPS's linear layers for it (vgg.pth)."
        )
    network.load_state_dict({ours: found[name].reshape(state[ours].shape) for ours, name in wanted.items()})
    return network


def _unit(map_NCHW: Tensor) -> Tensor:
    return map_NCHW / (map_NCHW.norm(dim=1, keepdim=True) + 1e-10)
