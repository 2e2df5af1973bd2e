"""Linear layers of the UNet, computed in the type of their input.

They are torch's own on every device. docs/decisions/2026-11-29-linear-layers.md says why a CPU has no way of its own.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def project(layer: nn.Module | None, x: Tensor) -> Tensor:
    """`layer(x)` for an `nn.Linear`, or a 1x1 `nn.Conv2d` of channels-last `x`, in the type of `x` whatever that of the
    weights."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.weight.to(x.dtype).flatten(1), bias)
