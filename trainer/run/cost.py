"""What a training step costs: arithmetic and memory, counted without computing anything.

Attention counts as the fused kernels do it, whatever kernel runs: two products forward and four backward, and of its
insides only the row sums are kept.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
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
        kept = allocations.alive
    del loss
    return kept


@dataclass(frozen=True, slots=True)
class PassBytes:
    """Memory of a forward and backward pass, inputs and weights aside. kept: by the forward pass for the backward
    pass. peak: the most at any moment, gradients included; gradients: what is left at the end."""

    kept: int
    peak: int
    gradients: int


def pass_bytes(
    module: nn.Module, inputs: Inputs, *, frozen: torch.dtype | None = None, adds_up: bool = False
) -> PassBytes:
    """Memory of `module(*inputs).mean()` and its backward pass. `frozen`: type of the weights that are not trained;
    None: the one they have. `adds_up`: there are gradients of an earlier pass, to which those of this one are added."""
    kept = there = 0
    allocations = _Allocations()

    def note() -> None:
        nonlocal kept
        kept = allocations.alive

    once = _without_contents(_Training(module, note), inputs, frozen, with_gradients=adds_up)
    if adds_up:
        there = sum(weight.numel() * weight.element_size() for weight in module.parameters() if weight.requires_grad)
    with allocations:
        once()
        return PassBytes(kept, allocations.peak + there, allocations.alive + there)


def forward_bytes(
    function: Callable[..., Tensor], module: nn.Module, inputs: Tensor, frozen: torch.dtype | None = None
) -> int:
    """The most memory that `function(module, inputs)` takes at any moment, without gradients."""
    mean = _without_contents(_Calling(module, function), (inputs,), frozen)
    with _Allocations() as allocations, torch.no_grad():
        mean()
    return allocations.peak


def attention_shapes(module: nn.Module, inputs: Inputs) -> Counter[tuple[Shape, Shape]]:
    """How often `module(*inputs)` attends with queries and keys of which shapes, batch x heads x tokens x width."""
    mean = _without_contents(module, inputs)
    with _Attentions() as attentions, torch.no_grad():
        mean()
    return attentions.calls


def weight_bytes(*modules: nn.Module, frozen: torch.dtype | None = None) -> int:
    """Memory of all weights as they are now, or with those that are not trained in another type."""
    return sum(
        tensor.numel() * (_type(tensor, frozen) or tensor.dtype).itemsize
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


def _without_contents(
    module: nn.Module, inputs: Inputs, frozen: torch.dtype | None = None, *, with_gradients: bool = False
) -> Callable[[], Tensor]:
    """`module(*inputs).mean()`, to be called, on tensors that have sizes and no contents."""
    named = [*module.named_parameters(), *module.named_buffers()]
    state = {name: _meta(tensor, _type(tensor, frozen)) for name, tensor in named}
    for weight in state.values() if with_gradients else ():
        weight.grad = torch.empty_like(weight) if weight.requires_grad else None
    empty = tuple(None if value is None else _meta(value) for value in inputs)

    def mean() -> Tensor:
        with _fused_attention():
            return torch.func.functional_call(module, state, empty).mean()

    return mean


def _type(tensor: Tensor, frozen: torch.dtype | None) -> torch.dtype | None:
    """The type of a weight where frozen ones have another than now; None: its own."""
    return frozen if tensor.is_floating_point() and not tensor.requires_grad else None


def _meta(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", dtype=dtype)
    return empty.requires_grad_(tensor.requires_grad)


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention by the fused kernel. Without contents torch takes the one that keeps all scores: gigabytes at 64 x 64
    that no device would hold. (A mode of torch's would be off in the backward pass, where checkpoints attend again.)"""
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _attend  # pyright: ignore
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


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


class _Attentions(TorchDispatchMode):
    """Counts the calls of the fused kernel by the shapes of queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Shape, Shape]] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is FUSED_ATTENTION.default:
            self.calls[tuple(args[0].shape), tuple(args[1].shape)] += 1
        return func(*args, **(kwargs or {}))


class _Allocations(TorchDispatchMode):
    """Watches the memory that operations take. alive: bytes that have not been given back. peak: the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

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
                if id(storage) not in self._known:
                    self._take(storage, 0 if outside else storage.nbytes())
        self.peak = max(self.peak, self.alive)

    def _take(self, storage: torch.UntypedStorage, size: int) -> None:
        def give_back(_: object, key: int = id(storage)) -> None:
            # torch keeps the Python object of a storage as long as the storage itself
            self.alive -= size
            del self._known[key]

        self.alive += size
        self._known[id(storage)] = weakref.ref(storage, give_back)


class _Training(nn.Module):
    """A module with its backward pass, which has to run while its weights have no contents: gradient checkpoints look
    them up again. `between`: called when the forward pass is done."""

    def __init__(self, module: nn.Module, between: Callable[[], None]) -> None:
        super().__init__()
        self.module = module
        self.between = between

    def forward(self, *inputs: Tensor | None) -> Tensor:
        loss = self.module(*inputs).mean()
        self.between()
        loss.backward()
        return loss.detach()


class _Calling(nn.Module):
    """A function of a module, as a module."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.module, inputs)
