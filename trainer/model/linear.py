"""Linear layers of the UNet, computed in the type of their input.

torch gives float32 matrix products on a CPU to MKL, which on AMD's CPUs reaches half of what oneDNN does (in the same
wheel, used for convolutions); on Intel's the two are alike. torch has an operator for oneDNN's linear layer, without a
gradient, which is given here. Elsewhere this is `functional.linear`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.flop_counter import mm_flop, register_flop_formula

# an operator of torch's own compiler: without it (another build of torch), the ordinary way is taken
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

MIN_PRODUCTS = 2**23
"""Multiplications from which oneDNN's start, 10 microseconds longer, is made good."""


def project(layer: nn.Module | None, x: Tensor) -> Tensor:
    """`layer(x)` for an `nn.Linear`, or a 1x1 `nn.Conv2d` of channels-last `x`, in the type of `x` whatever that of the
    weights."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.to(x.dtype).flatten(1)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    if _gains(x, weight):
        return _OneDnnLinear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def _gains(x: Tensor, weight: Tensor) -> bool:
    if _ONEDNN is None or x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    return x.numel() * weight.shape[0] >= MIN_PRODUCTS


class ProjectedLinear(nn.Linear):
    """An `nn.Linear` that goes through `project`."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore
        return project(self, x)


class _OneDnnLinear(torch.autograd.Function):
    """x [..., K], weight [N, K], bias [N] or None -> [..., N], float32 on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        rows_MN = grad.reshape(-1, grad.shape[-1])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t(), None) if wants_x else None,
            _product(rows_MN.t(), x.reshape(-1, x.shape[-1]).t(), None) if wants_weight else None,
            rows_MN.sum(0) if wants_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _ONEDNN(x.contiguous(), weight, bias, "none", [], "")


if _ONEDNN is not None:

    @register_flop_formula(_ONEDNN)
    def _count(x: list[int], weight: list[int], *_: object, **__: object) -> int:
        """Arithmetic of the operator for torch's counter, which does not know it."""
        return mm_flop([math.prod(x[:-1]), x[-1]], [weight[1], weight[0]])
