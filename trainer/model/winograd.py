"""Frozen 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3), for float32 on a CPU.

A tile of 2x2 outputs takes 16 products of transformed inputs and weights where the direct form takes 36 (Lavin and Gray
2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1). The weights are transformed once, which is why
they must be frozen; the transforms take 16/9 of the weights' memory on top of it. The products are 16 matrix products,
so the gradient with respect to the input is the same function with the matrices transposed.

Shape letters: N images, H and W, I and O channels in and out, K the 16 positions of a transformed kernel.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

MIN_CHANNELS = 320
"""In and out, from which on the matrix products outweigh the passes over memory around them
(docs/decisions/2026-11-29-training-speed.md)."""
MIN_TILES = 8
"""With fewer, reading the transformed weights takes longer than the direct form."""
TILES_AT_ONCE = 512
"""Few enough that their transforms stay in a CPU's caches, enough for matrix products at full speed."""
STRAIGHT, TURNED = (0, 1, 2, 3), (3, 1, 2, 0)
"""Where the four combinations along a side are kept: those of the weights, and of the weights turned by 180 degrees,
which swaps the first with the last and leaves the others."""


class WinogradConv2d(nn.Conv2d):
    """A convolution that `use_winograd` has changed. Parameters and state are those of the convolution.

    The weights are transformed when they are first needed, and must not change after that.
    """

    transformed_KOI: Tensor | None
    """A plain attribute, not a buffer: no part of the state, and not sent to other processes."""
    sizes_KOI: Tensor
    """Without contents, for counting."""
    counted: bool
    """Whether a pass on tensors without contents has used the transforms (see `transformed_bytes`)."""

    def forward(self, x_NIHW: Tensor) -> Tensor:  # pyright: ignore
        """NIHW -> NOHW."""
        images, _, height, width = x_NIHW.shape
        # validation has batches of its own: what is counted does not depend on the number of images
        few = images * height * width < 4 * MIN_TILES and not x_NIHW.is_meta
        if height % 2 or width % 2 or few:
            return super().forward(x_NIHW)
        if x_NIHW.is_meta:
            self.counted = True
        transformed_KOI = self.sizes_KOI if x_NIHW.is_meta else self.transform()
        out = _Convolution.apply(x_NIHW, transformed_KOI, self.bias)
        assert isinstance(out, Tensor)
        return out

    def transform(self) -> Tensor:
        """The transformed weights, made by the first call."""
        if self.transformed_KOI is None:
            # what inference mode makes could not be used in a step
            with torch.inference_mode(False), torch.no_grad():
                self.transformed_KOI = transform_weights(self.weight)
        return self.transformed_KOI


def use_winograd(module: nn.Module) -> None:
    """Changes the convolutions of a module that gain by it, in place: frozen, float32, 3x3, wide."""
    for part in module.modules():
        if type(part) is nn.Conv2d and _gains(part):
            part.__class__ = WinogradConv2d
            assert isinstance(part, WinogradConv2d)
            part.transformed_KOI, part.counted = None, False
            part.sizes_KOI = torch.empty(16, part.out_channels, part.in_channels, device="meta")


def use_direct(module: nn.Module) -> None:
    """Undoes `use_winograd`, and frees the transforms."""
    for part in winograd_convolutions(module):
        del part.transformed_KOI, part.sizes_KOI, part.counted
        part.__class__ = nn.Conv2d  # pyright: ignore


@contextlib.contextmanager
def direct_form(module: nn.Module) -> Iterator[None]:
    """Inside, the module's convolutions are the direct ones; the transforms are kept for later."""
    changed = winograd_convolutions(module)
    for part in changed:
        part.__class__ = nn.Conv2d  # pyright: ignore
    try:
        yield
    finally:
        for part in changed:
            part.__class__ = WinogradConv2d


def winograd_convolutions(module: nn.Module) -> list[WinogradConv2d]:
    """Those that `use_winograd` has changed, unless they are direct at the moment."""
    return [part for part in module.modules() if isinstance(part, WinogradConv2d)]


def transformed_bytes(module: nn.Module) -> int:
    """Memory of the transforms that passes on tensors without contents have used, whether they are made already or
    not: a convolution of images with odd sides needs none."""
    return sum(part.sizes_KOI.nbytes for part in winograd_convolutions(module) if part.counted)


def transform_weights(weight_OI33: Tensor) -> Tensor:
    """G w G^T of each kernel w, as one matrix for each of the 16 positions: KOI."""
    outputs, inputs = weight_OI33.shape[:2]
    along_a_side = weight_OI33.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return (torch.kron(along_a_side, along_a_side) @ weight_OI33.reshape(-1, 9).T).view(16, outputs, inputs)


def _gains(conv: nn.Conv2d) -> bool:
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return (
        shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        and conv.weight.dtype == torch.float32
        and not any(parameter.requires_grad for parameter in conv.parameters())
    )


class _Convolution(torch.autograd.Function):
    """Unlike the direct form, it keeps nothing of its input for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_NIHW: Tensor, transformed_KOI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(transformed_KOI)
        return _convolve(x_NIHW, transformed_KOI, bias_O, STRAIGHT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NOHW: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (transformed_KOI,) = ctx.saved_tensors
        return _convolve(gradient_NOHW, transformed_KOI.transpose(1, 2), None, TURNED), None, None


def _convolve(x_NIHW: Tensor, transformed_KOI: Tensor, bias_O: Tensor | None, order: Sequence[int]) -> Tensor:
    """Works on a piece of the tiles at a time, in buffers that all pieces share."""
    images, inputs, height, width = x_NIHW.shape
    outputs, rows, columns = transformed_KOI.shape[1], height // 2, width // 2
    padded_INHW = functional.pad(x_NIHW, (1, 1, 1, 1)).transpose(0, 1)
    out = x_NIHW.new_empty(images, outputs, rows, 2, columns, 2)
    pieces = _pieces(images, rows, columns)
    most = max(len(which) * len(tall) for which, tall in pieces)
    halfway, mixed, products = (
        x_NIHW.new_empty(size * most)
        for size in (4 * inputs * (width + 2), 16 * inputs * columns, 16 * outputs * columns)
    )
    # without contents, one piece tells the memory of all
    for which, tall in pieces[:1] if x_NIHW.is_meta else pieces:
        grid = len(which), len(tall)
        windows = padded_INHW[:, which.start : which.stop, 2 * tall.start : 2 * tall.stop + 2].unfold(2, 4, 2)
        rows_mixed = _start_of(halfway, 4, inputs, *grid, width + 2)
        _mix_inputs(windows.unbind(-1), [rows_mixed[i] for i in order])
        tiles = _start_of(mixed, 4, 4, inputs, *grid, columns)
        _mix_inputs(rows_mixed.unfold(-1, 4, 2).unbind(-1), [tiles[:, i] for i in order])
        product = _start_of(products, 4, 4, outputs, *grid, columns)
        torch.bmm(transformed_KOI, tiles.view(16, inputs, -1), out=product.view(16, outputs, -1))
        if bias_O is not None:
            # this one enters all four outputs once
            product[order[1], order[1]] += bias_O.view(-1, 1, 1, 1)
        by_column = [product[:, i] for i in order]
        _mix_outputs(by_column, by_column[:2])
        target = out[which.start : which.stop, :, tall.start : tall.stop].permute(5, 3, 1, 0, 2, 4)
        for column, by_row in zip(target, by_column[:2], strict=True):
            _mix_outputs([by_row[i] for i in order], column.unbind(0))
    return out.view(images, outputs, height, width)


def _pieces(images: int, rows: int, columns: int) -> list[tuple[range, range]]:
    """Images and rows of tiles of each piece: whole images, or some rows of one."""
    together = max(1, TILES_AT_ONCE // (rows * columns))
    tall = min(rows, max(1, TILES_AT_ONCE // columns))
    return [
        (range(image, min(image + together, images)), range(row, min(row + tall, rows)))
        for image in range(0, images, together)
        for row in range(0, rows, tall)
    ]


def _start_of(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


def _mix_inputs(window: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """B^T along a side: of 4 neighbouring inputs, 4."""
    torch.sub(window[0], window[2], out=out[0])
    torch.add(window[1], window[2], out=out[1])
    torch.sub(window[2], window[1], out=out[2])
    torch.sub(window[1], window[3], out=out[3])


def _mix_outputs(products: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """A^T along a side: of 4 products, 2 outputs. Changes the first two products; `out` may be those."""
    products[0].add_(products[1])
    torch.add(products[0], products[2], out=out[0])
    products[1].sub_(products[2])
    torch.sub(products[1], products[3], out=out[1])
