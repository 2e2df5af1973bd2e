"""Contract of Winograd's convolutions: the numbers and gradients of the direct form, within float32's rounding; only
where they gain; nothing kept of the input, nothing added to the state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.model import winograd
from trainer.model.winograd import WinogradConv2d, direct_form, transformed_bytes, use_direct, use_winograd

WIDE = winograd.MIN_CHANNELS


def frozen(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options}).requires_grad_(False)


def changed(conv: nn.Conv2d) -> bool:
    use_winograd(conv)
    return isinstance(conv, WinogradConv2d)


def output_and_gradient(conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    out = conv(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (gradient,) = torch.autograd.grad(out, x, weights)
    return out.detach(), gradient


def same_to_float32(conv: nn.Conv2d, x: Tensor) -> None:
    """Winograd's algorithm is used, and is no further from float64 than 2e-6 of the largest value."""
    direct = conv(x)
    assert changed(conv)
    assert not torch.equal(conv(x), direct)
    exact = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None).double()
    exact.load_state_dict({name: tensor.double() for name, tensor in conv.state_dict().items()})
    expected = output_and_gradient(exact, x.double())
    for found, right in zip(output_and_gradient(conv, x), expected, strict=True):
        assert found.is_contiguous()
        assert (found - right).abs().max() < 2e-6 * right.abs().max()


@pytest.mark.parametrize(
    ("images", "height", "width"),
    [(2, 4, 4), (8, 2, 2), (3, 2, 12), (2, 64, 4), (2, 66, 70), (9, 16, 16), (600, 2, 2), (1, 2, 1200)],
)
def test_numbers_and_gradients_are_those_of_the_direct_form(images: int, height: int, width: int):
    # mutations: gradients in STRAIGHT order; rows and columns exchanged; a piece's last row of inputs left out
    torch.manual_seed(1)
    same_to_float32(frozen(WIDE, WIDE + 8), torch.randn(images, WIDE, height, width))


@pytest.mark.parametrize("bias", [True, False])
def test_inputs_of_any_layout_and_convolutions_without_bias_do(bias: bool):
    # mutation: the bias added to another position -> red
    for x in (
        torch.randn(2, WIDE, 6, 10).to(memory_format=torch.channels_last),
        torch.randn(2, 6, WIDE, 10).transpose(1, 2),
    ):
        same_to_float32(frozen(WIDE, WIDE, bias=bias), x)


@pytest.mark.parametrize(
    ("images", "height", "width"), [(1, 7, 8), (1, 8, 7), (1, 4, 4), (7, 2, 2)], ids=["odd", "odd", "few", "few"]
)
def test_odd_sides_and_few_tiles_are_computed_directly(images: int, height: int, width: int):
    # mutations: the height alone looked at; tiles not counted
    conv, x = frozen(WIDE, WIDE), torch.randn(images, WIDE, height, width)
    direct = output_and_gradient(conv, x)
    assert changed(conv)
    assert all(map(torch.equal, output_and_gradient(conv, x), direct))


def test_only_frozen_wide_3x3_convolutions_in_float32_are_changed():
    # mutation: any one condition left out
    kept = [
        frozen(WIDE, WIDE).requires_grad_(True),
        frozen(WIDE - 1, WIDE),
        frozen(WIDE, WIDE - 1),
        frozen(WIDE, WIDE, 1),
        frozen(WIDE, WIDE, 5),
        frozen(WIDE, WIDE, stride=2),
        frozen(WIDE, WIDE, padding=0),
        frozen(WIDE, WIDE, dilation=2),
        frozen(WIDE, WIDE, groups=2),
        frozen(WIDE, WIDE, padding_mode="circular"),
        frozen(WIDE, WIDE).bfloat16(),
        frozen(WIDE, WIDE).double(),
    ]
    learns_its_bias = frozen(WIDE, WIDE)
    assert learns_its_bias.bias is not None
    learns_its_bias.bias.requires_grad_(True)
    assert not any(map(changed, [*kept, learns_its_bias]))
    assert changed(frozen(WIDE, WIDE))


def test_the_state_is_that_of_the_convolution_and_the_direct_form_can_be_had_back():
    # mutations: the transforms a buffer; the direct form kept; the transforms of another convolution given back
    model = nn.Sequential(frozen(WIDE, WIDE), nn.ReLU(), frozen(WIDE, WIDE + 8))
    x, names = torch.randn(2, WIDE, 8, 8), list(model.state_dict())
    direct = output_and_gradient(model, x)
    use_winograd(model)
    quick = output_and_gradient(model, x)
    assert not torch.equal(quick[0], direct[0])
    assert (list(model.state_dict()), list(model.buffers())) == (names, [])
    with direct_form(model):
        assert all(map(torch.equal, output_and_gradient(model, x), direct))
    assert all(map(torch.equal, output_and_gradient(model, x), quick))
    use_winograd(model)
    assert all(map(torch.equal, output_and_gradient(model, x), quick))
    use_direct(model)
    assert [vars(part).keys() for part in model] == [
        vars(part).keys() for part in (nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1))
    ]
    assert all(map(torch.equal, output_and_gradient(model, x), direct))


def test_weights_are_transformed_once_and_only_where_images_need_it():
    # mutations: made by use_winograd; made anew with each call; made in inference mode (an error in training)
    conv = frozen(WIDE, WIDE)
    use_winograd(conv)
    assert isinstance(conv, WinogradConv2d)
    conv(torch.randn(1, WIDE, 7, 8))
    assert conv.transformed_KOI is None
    x = torch.randn(1, WIDE, 8, 8)
    with torch.inference_mode():
        of_validation = conv(x)
    made = conv.transformed_KOI
    assert made is not None
    assert torch.equal(output_and_gradient(conv, x)[0], of_validation)
    assert conv.transformed_KOI is made


def test_a_pass_without_contents_tells_whose_transforms_it_needs():
    # mutations: all counted; none counted; contents made
    model = nn.Sequential(frozen(WIDE, WIDE), nn.AvgPool2d(2), frozen(WIDE, WIDE + 8))
    use_winograd(model)
    assert transformed_bytes(model) == 0
    weights = {name: weight.to("meta") for name, weight in model.named_parameters()}
    for side, counted in ((14, 1), (16, 2)):
        torch.func.functional_call(model, weights, torch.empty(1, WIDE, side, side, device="meta"))
        expected = [16 * 4 * WIDE * WIDE, 16 * 4 * WIDE * (WIDE + 8)]
        assert transformed_bytes(model) == sum(expected[:counted])
    assert [vars(part)["transformed_KOI"] for part in (model[0], model[2])] == [None, None]


def test_nothing_of_the_input_is_kept_for_the_backward_pass():
    # mutation: the input saved
    conv, kept = frozen(WIDE, WIDE), []
    use_winograd(conv)
    assert isinstance(conv, WinogradConv2d)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):
        conv(torch.randn(2, WIDE, 8, 8).requires_grad_())
    assert conv.transformed_KOI is not None
    assert [tensor.data_ptr() for tensor in kept] == [conv.transformed_KOI.data_ptr()]
