"""Take the channel shuffles out of a Lite-HRNet, with the same numbers to rounding.

A shuffle unit (ShuffleNetV2; MMPose's `ShuffleUnit`) splits its channels into halves, computes the second half anew,
puts both together and shuffles them: three copies of all channels, which on a CPU cost as much as half of its
convolutions. Nothing has to move. A channel keeps its place, the unit overwrites the places of its second half, and a
list says which channel stands where; the convolutions before and after have their weights in that order.

Legend: an order is int [C]; `order[p]` is the channel, as MMPose numbers it, that stands at place p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lposekit.pose.fuse import shuffle_with


def unshuffle(module: nn.Module) -> int:
    """Take them out of every Lite-HRNet of shuffle units in `module`, in place, whose norms were folded before.

    Returns:
        How many shuffles went; 0 the second time.
    """
    return sum(_unshuffle_backbone(child) for child in module.modules() if type(child).__name__ == "LiteHRNet")


class UnitInPlace(nn.Module):
    """One shuffle unit over channels that stand in `order`; they stand in `order_after` when it is done."""

    kept: Tensor

    def __init__(self, unit: Any, order: Tensor) -> None:
        super().__init__()
        first, middle, last = (step.conv for step in unit.branch2)
        half = len(order) // 2
        stays = order < half
        self.first, self.middle, self.last = _wide_in(first, order, half), middle, _wide_out(last, ~stays)
        self.register_buffer("kept", stays.to(first.weight.dtype)[:, None, None])
        self.order_after = torch.empty_like(order)
        self.order_after[stays] = 2 * order[stays]
        self.order_after[~stays] = 2 * torch.arange(half) + 1

    def forward(self, x: Tensor) -> Tensor:
        new = self.last(self.middle(self.first(x).relu())).relu()
        return x * self.kept + new


def _wide_in(conv: nn.Conv2d, order: Tensor, half: int) -> nn.Conv2d:
    """A 1x1 convolution of the second half, over all channels: the first half's weights are 0."""
    wide = nn.Conv2d(len(order), conv.out_channels, 1)
    weight = torch.zeros_like(wide.weight)
    takes = order >= half
    weight[:, takes] = conv.weight[:, order[takes] - half]
    return _with(wide, weight, conv.bias)


def _wide_out(conv: nn.Conv2d, places: Tensor) -> nn.Conv2d:
    """A 1x1 convolution whose outputs go to these places among all channels; the others are 0."""
    wide = nn.Conv2d(conv.in_channels, len(places), 1)
    weight, bias = torch.zeros_like(wide.weight), torch.zeros(len(places))
    weight[places] = conv.weight
    assert conv.bias is not None
    bias[places] = conv.bias
    return _with(wide, weight, bias)


def _with(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return conv


@torch.no_grad()
def _unshuffle_backbone(net: Any) -> int:
    naive = all(name.upper() == "NAIVE" for name in net.stages_spec["module_type"])
    whole = net.with_head and all(net.stages_spec["with_fuse"])
    if not naive or not whole or any(isinstance(child, _BatchNorm | UnitInPlace) for child in net.modules()):
        return 0
    count = 1
    orders = [_unshuffled_stem(net.stem)]
    for i in range(net.num_stages):
        orders = _through_transition(getattr(net, f"transition{i}"), orders)
        for module in getattr(net, f"stage{i}"):
            count += sum(len(branch) for branch in module.layers)
            orders = [_through_branch(branch, order) for branch, order in zip(module.layers, orders, strict=True)]
            _reorder_fusion(module.fuse_layers, orders)
    _reorder_head(net.head_layer.projects, orders)
    return count


def _unshuffled_stem(stem: Any) -> Tensor:
    """The stem without its shuffle, of two halves; the order of what it gives."""
    shuffle_with(stem, lambda x, _groups: x)
    half = stem.out_channels // 2
    return torch.cat([2 * torch.arange(half), 2 * torch.arange(half) + 1])


def _through_branch(branch: nn.Sequential, order: Tensor) -> Tensor:
    for i, unit in enumerate(branch):
        branch[i] = in_place = UnitInPlace(unit, order)
        order = in_place.order_after
    return order


def _through_transition(transition: nn.ModuleList, orders: list[Tensor]) -> list[Tensor]:
    """The orders of the next stage's branches: a branch without convolutions keeps its own, the others begin anew."""
    after = []
    for j, chain in enumerate(transition):
        order = orders[min(j, len(orders) - 1)]
        after.append(order if chain is None else _reorder_chain(chain, order))
    return after


def _reorder_fusion(fuse_layers: Any, orders: list[Tensor]) -> None:
    for i, chains in enumerate(fuse_layers):
        for j, chain in enumerate(chains):
            if chain is not None:
                _reorder_chain(chain, orders[j], orders[i])


def _reorder_head(projects: nn.ModuleList, orders: list[Tensor]) -> None:
    """Each project takes the sum of a branch and of the project before it."""
    last = len(orders) - 1
    for i, project in enumerate(projects):
        _reorder_chain(project, orders[last - i], None if i == last else orders[last - i - 1])


def _reorder_chain(chain: nn.Module, order_in: Tensor, order_out: Tensor | None = None) -> Tensor:
    """Give the convolutions of a chain the order of their input, and of their output; returns the latter."""
    convs = [child for child in chain.modules() if isinstance(child, nn.Conv2d)]
    order = order_in
    for conv in convs:
        if conv.groups == 1:
            conv.weight.copy_(conv.weight[:, order])
            order = torch.arange(conv.out_channels)
        else:  # depthwise: channels keep their places
            _reorder_outputs(conv, order)
    if order_out is not None:
        _reorder_outputs(convs[-1], order_out)
        order = order_out
    return order


def _reorder_outputs(conv: nn.Conv2d, order: Tensor) -> None:
    conv.weight.copy_(conv.weight[order])
    if conv.bias is not None:
        conv.bias.copy_(conv.bias[order])
