"""What every meter can do, and how means over clips are stated.

FHWC: frames of RGB uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt

from lposekit.json_values import JsonObject
from trainer.evaluate.protocol import Pair

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A clip to judge. real_FHWC: what the poses were estimated on, of the same size; None where it is not known."""

    pair: Pair
    drawn_FHWC: Frames
    real_FHWC: Frames | None


class Meter(Interface):
    """Judges clips one by one. Everything it finds goes through JSON, so that a resumed evaluation sums up the same
    numbers as one that was never stopped."""

    name: str

    def identity(self) -> JsonObject:
        """What decides its figures beside the clips: weights by id and digest, definitions, thresholds."""
        ...

    def measure(self, clip: Judged) -> JsonObject:
        """What it finds in a clip."""
        ...

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        """Figures over all clips."""
        ...


def mean_of(found: Sequence[JsonObject], *names: str) -> JsonObject | None:
    """Mean over the clips of a number, and its standard error; None if no clip has it.

    Args:
        names: where it lies: `real`, `text` for `found["real"]["text"]`.
    """
    values = [value for each in found if (value := number_at(each, *names)) is not None]
    if not values:
        return None
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error, "clips": len(values)}


def number_at(value: object, *names: str) -> float | None:
    """The number at a place in nested objects; None if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
