"""Which of many are shown."""

from __future__ import annotations


def spread(total: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers 0 .. total - 1, evenly spread: the same choice for the same dataset."""
    wanted = min(total, wanted)
    return [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]
