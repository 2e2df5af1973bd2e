"""Linear layers: values, gradients and counted arithmetic equal torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import trainer.model.linear
from trainer.model.linear import project


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.model.linear, "MIN_PRODUCTS", 0)


def run(layer: nn.Linear | nn.Conv2d, x: Tensor, plain: bool) -> list[Tensor]:
    """Output and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    bias = layer.bias
    out = functional.linear(x, layer.weight.flatten(1), bias) if plain else project(layer, x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv 1x1"])
def test_values_and_gradients_equal_torchs(kind: str, bias: bool):
    # Mutation tried: the bias's gradient reversed, the input's gradient with the weight reversed: red.
    torch.manual_seed(0)
    layer = nn.Linear(48, 96, bias=bias) if kind == "linear" else nn.Conv2d(48, 96, 1, bias=bias)
    x = torch.randn(3, 48, 20).transpose(1, 2)
    for ours, theirs in zip(run(layer, x, plain=False), run(layer, x, plain=True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_only_the_wanted_gradients_are_made():
    layer = nn.Linear(8, 8).requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    project(layer, x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, 8))


def test_the_counter_sees_its_arithmetic():
    # Mutation tried: without the registered formula the count is 0.
    layer, x = nn.Linear(48, 96), torch.randn(3, 20, 48, requires_grad=True)
    counted = []
    for plain in (False, True):
        with FlopCounterMode(display=False) as counter:
            run(layer, x.detach(), plain)
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_it_computes_in_the_type_of_its_input():
    layer, x = nn.Linear(16, 16), torch.randn(2, 16, dtype=torch.bfloat16)
    assert project(layer, x).dtype == torch.bfloat16
