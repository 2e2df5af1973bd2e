"""What a training step costs: arithmetic and memory, counted without computing anything.

Attention counts as the fused kernels do it, whatever kernel runs: two products forward and four backward, and of its
insides only the row sums are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Shape = Sequence[int]
Inputs = tuple[Tensor | None, ...]

_aten = torch.ops.aten
FUSED_ATTENTION = _aten._scaled_dot_product_flash_attention_for_cpu
"""The fused kernel whose gradient torch knows on tensors without contents, and without a mask's or a device's help."""
FUSED_ATTENTION_BACKWARD = (
    _aten._scaled_dot_product_flash_attention_for_cpu_backward,
    _aten._scaled_dot_product_flash_attention_backward,
    _aten._scaled_dot_product_efficient_attention_backward,
    _aten._scaled_dot_product_cudnn_attention_backward,
)


def pass_tflop(module: nn.Module, inputs: Inputs) -> float:
    """TFLOP of `module(*inputs).mean()` and its backward pass; a multiply-add counts as 2."""
    mean = _without_contents(module, inputs)
    with flop_counter() as counter:
        loss = mean()
        if loss.requires_grad:
            loss.backward()
    return counter.get_total_flops() / 1e12


def forward_tflop(function: Callable[..., Tensor], module: nn.Module, inputs: Tensor) -> float:
    """TFLOP of `function(module, inputs)` without gradients."""
    mean = _without_contents(_Calling(module, function), (inputs,))
    with flop_counter() as counter, torch.no_grad():
        mean()
    return counter.get_total_flops() / 1e12


def kept_bytes(module: nn.Module, inputs: Inputs) -> int:
    """What the forward pass of `module(*inputs)` keeps for its backward pass, gradient checkpoints included."""
    mean = _without_contents(module, inputs)
    with _Allocations() as allocations:
        # its graph holds all that is kept
        loss = mean()
        kept = allocations.alive()
    del loss
    return kept


def weight_bytes(*modules: nn.Module) -> int:
    """Memory of all weights as they are now."""
    return sum(
        tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in [*module.parameters(), *module.buffers()]
    )


def flop_counter() -> FlopCounterMode:
    """torch's counter, with what it lacks: the CPU's fused attention; and without the scores that the backward kernels
    compute again, for doing a thing twice is no progress."""

    def forward(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
        return 2 * sdpa_flop_count(query, key, value)

    return FlopCounterMode(
        display=False, custom_mapping={FUSED_ATTENTION: forward, **dict.fromkeys(FUSED_ATTENTION_BACKWARD, backward)}
    )


def _without_contents(module: nn.Module, inputs: Inputs) -> Callable[[], Tensor]:
    """`module(*inputs).mean()`, to be called, on tensors that have sizes and no contents."""
    state = {name: _meta(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    empty = tuple(None if value is None else _meta(value) for value in inputs)

    def mean() -> Tensor:
        with _FusedAttention():
            return torch.func.functional_call(module, state, empty).mean()

    return mean


def _meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return empty.requires_grad_(tensor.requires_grad)


class _FusedAttention(TorchFunctionMode):
    """Attention by the fused kernel. Without contents torch takes the one that keeps all scores: gigabytes at 64 x 64
    that no device would hold."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    return FUSED_ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


class _Allocations(TorchDispatchMode):
    """Watches the memory that operations take."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # what an operation is given and no operation made is a weight or an input
        self._note((args, kwargs), outside=True)
        out = func(*args, **(kwargs or {}))
        self._note(out, outside=False)
        return out

    def _note(self, tree: object, *, outside: bool) -> None:
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._sizes.setdefault(StorageWeakRef(storage), 0 if outside else storage.nbytes())

    def alive(self) -> int:
        """Bytes that have not been given back."""
        return sum(size for storage, size in self._sizes.items() if not storage.expired())


class _Calling(nn.Module):
    """A function of a module, as a module."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.module, inputs)
