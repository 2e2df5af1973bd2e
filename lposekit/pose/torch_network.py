"""A network that torch runs, on a CPU or a GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lposekit.pose.device_pixels import to_host
from lposekit.pose.preprocess import Pixels

_LAUNCHING = threading.Lock()


class TorchNetwork:
    """A module from pixels, which are where it is, to numbers. On a CPU its threads are torch's own, and one caller at
    a time keeps them busy; on a GPU the kernels of one caller are launched while another waits for its numbers."""

    streams = 1
    batch_size = None

    def __init__(self, module: nn.Module, device: str) -> None:
        self.module: Any = module
        self.device = device

    def __call__(self, pixels_BHWC: Pixels) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), _repeatable(self.device):
            numbers = self.module(torch.as_tensor(pixels_BHWC)).float()
        return to_host(numbers)


@contextlib.contextmanager
def _repeatable(device: str) -> Iterator[None]:
    """On a GPU: the same algorithms in every process, and float32 that is float32 (no TF32).

    These are settings of the process, put back at the end: one thread at a time, or another would run without them.
    """
    if device == "cpu":
        yield
        return
    with _LAUNCHING, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
