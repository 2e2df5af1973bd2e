"""Which of torch's attention kernels runs, for each width of a head.

torch takes the first kernel that can, whatever the width; which is the fastest depends on it, and on the GPU. Nothing
is chosen here until `use_kernels` is called: torch then decides as ever. The choice holds for the process, as torch's
own switches do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Kernel = Literal["flash", "cudnn", "efficient", "math"]
"""`flash`, `cudnn`, `efficient`: fused. `math`: the formula as it stands, which keeps all scores."""
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
KERNELS_OF_CPU: tuple[Kernel, ...] = ("flash", "math")
_BACKENDS: Mapping[Kernel, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_orders: Mapping[int, list[SDPBackend]] = MappingProxyType({})


def use_kernels(by_width: Mapping[int, Kernel]) -> None:
    """From now on, heads of these widths attend through these kernels; all others through what torch takes."""
    global _orders
    _orders = MappingProxyType({width: _order(kernel) for width, kernel in by_width.items()})


def _order(kernel: Kernel) -> list[SDPBackend]:
    """The kernel, then those that take its place where it cannot do a shape; the formula can do all."""
    if kernel == "math":
        return [SDPBackend.MATH]
    return [_BACKENDS[kernel], *(backend for name, backend in _BACKENDS.items() if name != kernel)]


def attention(query_BHND: Tensor, key_BHMD: Tensor, value_BHMD: Tensor) -> Tensor:
    """softmax(QK^T / sqrt(D)) V as BHND, through the kernel that is chosen for heads of width D."""
    order = _orders.get(query_BHND.shape[-1])
    if order is None:
        return functional.scaled_dot_product_attention(query_BHND, key_BHMD, value_BHMD)
    with sdpa_kernel(order, set_priority=True):
        return functional.scaled_dot_product_attention(query_BHND, key_BHMD, value_BHMD)


def run_alone(kernel: Kernel, query_BHND: Tensor, key_BHMD: Tensor, value_BHMD: Tensor) -> None:
    """Attention and its gradients through this kernel and no other, to be timed.

    Raises:
        RuntimeError: it cannot do this shape here.
    """
    with sdpa_kernel(_BACKENDS[kernel]):
        out = functional.scaled_dot_product_attention(query_BHND, key_BHMD, value_BHMD)
        torch.autograd.grad(out, (query_BHND, key_BHMD, value_BHMD), out.detach())
