"""A network that torch runs, on a CPU or a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lposekit.pose.device_pixels import to_host
from lposekit.pose.preprocess import Pixels


class TorchNetwork:
    """A module from pixels, which are where it is, to numbers. Its threads are torch's own: one caller at a time keeps
    them busy."""

    streams = 1
    batch_size = None

    def __init__(self, module: nn.Module, device: str) -> None:
        self.module: Any = module
        self.device = device

    def __call__(self, pixels_BHWC: Pixels) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), _repeatable(self.device):
            return to_host(self.module(torch.as_tensor(pixels_BHWC)).float())


def _repeatable(device: str) -> AbstractContextManager[None]:
    """On a GPU: the same algorithms in every process, and float32 that is float32 (no TF32)."""
    if device == "cpu":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
