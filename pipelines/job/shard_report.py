"""What building one shard amounts to: small values that travel to the driver, and the accounting law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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


def commit_marker(rows: Sequence[Mapping[str, Any]], start: float, end: float) -> dict[str, Any]:
    """The account of a shard's parquet rows: the fields of img2dataset's stats, and the outcomes.

    Args:
        rows: with ``status`` and ``outcome``.
        start, end: Unix times.
    """
    statuses = Counter(row["status"] for row in rows)
    outcomes = dict(sorted(Counter(row["outcome"] for row in rows).items()))
    return {
        "count": len(rows),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": statuses["failed_to_resize"],
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": {"success" if name == "kept" else name: number for name, number in outcomes.items()},
        "outcomes": outcomes,
    }


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
