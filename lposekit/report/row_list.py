"""The rows that a page can search: few facts of each, as data of the page's own script.

At most `MAX_ROWS` rows, spread evenly over the dataset. No address is among them, and no caption of a row that an owner
or a rule refused.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from lposekit.errors import OUTCOME_FACTS, Outcome
from lposekit.report.spread import spread

MAX_ROWS = 10_000
CAPTION_CHARS = 160
Number = int | float | None

_TOLD = Outcome.KEPT.value
_COLUMNS = ("key", "outcome", "caption")
_NO_CAPTION = {outcome.value for outcome, facts in OUTCOME_FACTS.items() if facts.group in ("owner", "rule")}


@dataclass(slots=True)
class RowList:
    """Columns of the rows listed. `names`: of the numbers, as a page shows them; `total`: rows of the dataset."""

    total: int = 0
    names: tuple[str, ...] = ()
    keys: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    numbers: list[list[Number]] = field(default_factory=list)
    _seen: int = 0
    _wanted: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, total: int, names: Sequence[str]) -> RowList:
        """An empty list for a dataset with `total` rows."""
        return cls(total=total, names=tuple(names), numbers=[[] for _ in names], _wanted=spread(total, MAX_ROWS))

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, rows: pa.Table, numbers_of: Callable[[pa.Table], Sequence[Sequence[Number]]]) -> None:
        """Take those rows of the next shard that are to be listed; `numbers_of` gives their columns of `names`."""
        first, self._seen = self._seen, self._seen + len(rows)
        here = self._wanted[bisect_left(self._wanted, first) : bisect_left(self._wanted, self._seen)]
        if not here:
            return
        taken = rows.take(pa.array([ordinal - first for ordinal in here], pa.int64()))
        for key, outcome, caption in zip(*(taken[name].to_pylist() for name in _COLUMNS), strict=True):
            self.keys.append(key or "")
            self.outcomes.append(outcome or "")
            self.captions.append("" if outcome in _NO_CAPTION else _short(caption or ""))
        for column, numbers in zip(self.numbers, numbers_of(taken), strict=True):
            column.extend(numbers)

    def as_json(self, *, public: bool) -> str:
        """The columns as JSON that may stand inside of a page: no character of it can end the element around it.

        public: without captions, and of kept rows only: a row of a public list is known by its key, and nobody is to
            read here who opted out.
        """
        taken = [i for i, name in enumerate(self.outcomes) if not public or name == _TOLD]
        names = sorted({self.outcomes[i] for i in taken})
        place = {name: i for i, name in enumerate(names)}
        values = {
            "total": self.total,
            "outcomes": names,
            "names": self.names,
            "keys": [self.keys[i] for i in taken],
            "outcome": [place[self.outcomes[i]] for i in taken],
            "numbers": [[column[i] for i in taken] for column in self.numbers],
            "captions": [] if public else self.captions,
        }
        text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _short(text: str) -> str:
    return text if len(text) <= CAPTION_CHARS else text[: CAPTION_CHARS - 3] + "..."
