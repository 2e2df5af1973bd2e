"""Notices that the network, and not the list, is broken.

A run over dead links and a run without a network look alike row by row; img2dataset marks the shards of both as done.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from lposekit.errors import Outcome


@dataclass(slots=True)
class CircuitBreaker:
    """Counts the outcomes of the last `last_rows` rows that were tried. The caller decides what an open one means.

    Open when more than `max_share` (0..1) of them failed by the network. Below `min_rows` it says nothing: three
    dead links are no outage.
    """

    max_share: float
    last_rows: int = 500
    min_rows: int = 50
    _recent: deque[Outcome] = field(default_factory=deque, repr=False)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Note rows as they end. Rows that a rule kept from being fetched do not count."""
        self._recent.extend(outcome for outcome in outcomes if outcome.facts.stage != "plan")
        while len(self._recent) > self.last_rows:
            self._recent.popleft()

    @property
    def is_open(self) -> bool:
        if len(self._recent) < min(self.min_rows, self.last_rows):
            return False
        return self._num_failed() > self.max_share * len(self._recent)

    def describe(self) -> str:
        """One line for the user: `490 of the last 500 rows failed by the network (dns 485, timeout 5)`."""
        counts = Counter(outcome for outcome in self._recent if outcome.facts.network)
        reasons = ", ".join(f"{outcome.value} {count}" for outcome, count in counts.most_common())
        return f"{self._num_failed()} of the last {len(self._recent)} rows failed by the network ({reasons or 'none'})"

    def _num_failed(self) -> int:
        return sum(outcome.facts.network for outcome in self._recent)
