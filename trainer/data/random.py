"""All randomness of one draw of one sample, from (seed, dataset, shard, row, visit) alone.

Each use has a stream of its own, so an option that is switched on or off changes no other draw. Everything is drawn
on the CPU and moved, so it is the same on every device, world size and worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from trainer.data.order import SampleRef

Use = Literal["crop", "flip", "clip_start", "caption", "timestep", "noise", "offset_noise", "latent"]
_NUMBERS = {use: number for number, use in enumerate(get_args(Use))}


@dataclass(frozen=True, slots=True)
class SampleRandom:
    """The random streams of one draw."""

    seed: int
    ref: SampleRef

    def stream(self, use: Use) -> np.random.Generator:
        """A generator at the start of the stream of `use`: asking twice gives the same numbers."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *self.ref, _NUMBERS[use]])))
