"""What a training step costs: arithmetic and memory, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class StepCost:
    """Of one forward and backward pass of one micro-batch. FLOPs count a multiply-add as 2.

    activation_bytes: what is kept for the backward pass.
    """

    tflop: float
    activation_bytes: int


def count_pass(module: nn.Module, inputs: tuple[Tensor | None, ...]) -> StepCost:
    """The cost of `module(*inputs).mean()` and its backward pass, on tensors without contents."""
    state = {name: _meta(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    meta_inputs = tuple(None if value is None else _meta(value) for value in inputs)
    kept: dict[int, Tensor] = {}
    weights = {id(tensor) for tensor in state.values()}

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in weights:
            kept[id(base)] = base
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = torch.func.functional_call(module, state, meta_inputs).mean()
        activation_bytes = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
        if loss.requires_grad:
            loss.backward()
    return StepCost(counter.get_total_flops() / 1e12, activation_bytes)


def count_forward(function: Callable[..., Tensor], module: nn.Module, inputs: Tensor) -> float:
    """TFLOP of `function(module, inputs)` without gradients."""
    state = {f"module.{name}": _meta(x) for name, x in [*module.named_parameters(), *module.named_buffers()]}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(_Calling(module, function), state, (_meta(inputs),))
    return counter.get_total_flops() / 1e12


class _Calling(nn.Module):
    """A function of a module, as a module."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.module, inputs)


def weight_bytes(*modules: nn.Module) -> int:
    """Memory of all weights as they are now."""
    return sum(
        tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in [*module.parameters(), *module.buffers()]
    )


def _meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return empty.requires_grad_(tensor.requires_grad)
