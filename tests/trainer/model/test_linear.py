"""Contract of the linear layers: those of torch, and 1x1 convolutions of channels-last images, in the type of their
input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.model.linear import project


@pytest.mark.parametrize("bias", [True, False])
def test_a_1x1_convolution_of_channels_last_images_is_a_linear_layer(bias: bool):
    # mutation: the bias left out
    layer = nn.Conv2d(48, 96, 1, bias=bias)
    images = torch.randn(3, 48, 4, 5)
    ours = project(layer, images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, layer(images), rtol=1e-5, atol=1e-5)


def test_it_computes_in_the_type_of_its_input_and_float32_weights_get_float32_gradients():
    # mutation: no cast -> an error
    layer, x = nn.Linear(16, 16), torch.randn(2, 16, dtype=torch.bfloat16)
    out = project(layer, x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
