"""What a detector or a pose model needs of the thing that runs its network. Free of torch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lposekit.pose.preprocess import Pixels


class Network(Protocol):
    """A network with its normalisation: from pixels, which it may want on a device, to numbers on the host."""

    @property
    def device(self) -> str:
        """Where it wants its pixels: `cpu`, or a device of torch."""
        ...

    @property
    def streams(self) -> int:
        """Threads that one batch is shared out among."""
        ...

    @property
    def batch_size(self) -> int | None:
        """Items of a call that suit it; None: as the settings say."""
        ...

    def __call__(self, pixels_BHWC: Pixels) -> npt.NDArray[np.float32]:
        """Of a detector: [B, A, 5], for each place that may hold a box left, top, right, bottom in pixels, and the
        score. Of a pose model: [B, K, 3], x, y in pixels, and the raw score."""
        ...
