"""Make a built model faster on the spot, with the same numbers to rounding.

`fuse_conv_norm` folds BatchNorm into the convolution before it. `keep_channels_last` stops MMPose's channel shuffle
from undoing the `channels_last` memory layout, which cost half of LiteHRNet's time on a CPU.
"""

from __future__ import annotations

import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights


class _Watch:
    """Notes, during one forward pass, which convolution's output each BatchNorm takes."""

    def __init__(self) -> None:
        self.producer: dict[int, nn.Conv2d] = {}  # id of an output -> the convolution
        self.kept: list[Tensor] = []  # outputs stay alive, so that ids stay unique
        self.conv_calls: dict[nn.Conv2d, int] = {}
        self.sources: dict[_BatchNorm, list[nn.Conv2d | None]] = {}

    def after_conv(self, conv: nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        self.conv_calls[conv] = self.conv_calls.get(conv, 0) + 1
        self.producer[id(output)] = conv
        self.kept.append(output)

    def before_norm(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        self.sources.setdefault(norm, []).append(self.producer.get(id(inputs[0])))


@torch.no_grad()
def fuse_conv_norm(module: nn.Module, example: Tensor) -> int:
    """Fold, in place, every BatchNorm of `module` (in eval mode) that takes all outputs of one convolution.

    Who follows whom is read off a forward pass over `example` and not guessed from the order of definition: heads
    that share a convolution among levels but keep a norm for each are left as they are.

    Returns:
        How many norms were folded.
    """
    watch = _Watch()
    hooks = []
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            hooks.append(child.register_forward_hook(watch.after_conv))
        elif isinstance(child, _BatchNorm):
            hooks.append(child.register_forward_pre_hook(watch.before_norm))
    module(example)
    for hook in hooks:
        hook.remove()
    folded: set[_BatchNorm] = set()
    for norm, sources in watch.sources.items():
        conv = sources[0]
        if conv is None or set(sources) != {conv} or watch.conv_calls[conv] != len(sources):
            continue
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        folded.add(norm)
    _replace(module, folded)
    return len(folded)


def _replace(module: nn.Module, norms: set[_BatchNorm]) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in norms:
                setattr(parent, name, nn.Identity())


def keep_channels_last(module: nn.Module) -> int:
    """Let the blocks of this one model shuffle channels with torch's operator, which keeps the memory layout.

    MMPose's own function makes an NCHW copy, after which every convolution converts back. The blocks look it up among
    the globals of their `forward`; each gets a `forward` with the same code and another look-up. MMPose itself, and
    other models in this process, stay as they are.

    Returns:
        How many blocks were changed.
    """
    changed = 0
    for child in module.modules():
        changed += shuffle_with(child, torch.nn.functional.channel_shuffle)
    return changed


def shuffle_with(block: nn.Module, shuffle: Callable[[Tensor, int], Tensor]) -> bool:
    """Let the `forward` of this one module call `shuffle` (tensor, groups) in place of MMPose's, if it shuffles."""
    forward = type(block).forward
    if not isinstance(forward, types.FunctionType) or "channel_shuffle" not in forward.__globals__:
        return False
    look_up = {**forward.__globals__, "channel_shuffle": shuffle}
    same_code = types.FunctionType(
        forward.__code__, look_up, forward.__name__, forward.__defaults__, forward.__closure__
    )
    block.forward = types.MethodType(same_code, block)
    return True
