"""The first frame of a long clip, remembered for the windows that do not hold it.

Sparse-causal attention lets every frame look at frame 0. A long clip is sampled in windows, and the frame 0 of a window
is its own first frame. To have all windows look at the clip's first frame, each transformer block keeps that frame's
tokens from the window that holds it, and hands them to the others. One `FirstFrame` a block; used by
`trainer.inference.denoise`.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor


@dataclass(slots=True)
class FirstFrame:
    """Tokens BNC of the clip's first frame in one block, at one step.

    held: whether the window that runs now holds the clip's first frame; it must run before the others.
    """

    held: bool = True
    tokens_BNC: Tensor | None = None

    def meet(self, tokens: Tensor, frames: int) -> Tensor | None:
        """For a window's tokens (BF)NC: the first frame's BNC to look at, or None if the window holds it itself."""
        if self.held:
            self.tokens_BNC = rearrange(tokens, "(b f) n c -> b f n c", f=frames)[:, 0].clone()
            return None
        assert self.tokens_BNC is not None
        return self.tokens_BNC
