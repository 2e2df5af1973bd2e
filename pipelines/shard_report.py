"""What building one shard amounts to: small values that travel to the driver, and the accounting law."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lposekit.errors import Outcome

FETCH_OUTCOMES = frozenset(
    {
        Outcome.METADATA_FILTER,
        Outcome.BLOCKED,
        Outcome.DUPLICATE,
        Outcome.BAD_URL,
        Outcome.PRIVATE_ADDRESS,
        Outcome.DNS,
        Outcome.CONNECT,
        Outcome.TLS,
        Outcome.TIMEOUT,
        Outcome.REDIRECT,
        Outcome.HTTP_4XX,
        Outcome.HTTP_5XX,
        Outcome.SHORT_READ,
        Outcome.ROBOTS,
        Outcome.OPT_OUT,
        Outcome.TOO_BIG,
        Outcome.BAD_ENCODING,
        Outcome.HASH_MISMATCH,
    }
)


def img2dataset_status(outcome: Outcome, stored: bool) -> str:
    """img2dataset's status of a row: ``success`` exactly for rows that have a sample in the tar."""
    if stored:
        return "success"
    return "failed_to_download" if outcome in FETCH_OUTCOMES else "failed_to_resize"


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The account of one shard.

    ``timings_s`` are seconds by stage. ``committed`` is false when the network was down and nothing was written.
    """

    shard: int
    num_rows: int
    num_samples: int
    outcomes: dict[str, int]
    timings_s: dict[str, float] = field(default_factory=dict)
    committed: bool = True
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The conservation law: every row in ends in exactly one outcome.
        assert sum(self.outcomes.values()) == self.num_rows, (self.outcomes, self.num_rows)
