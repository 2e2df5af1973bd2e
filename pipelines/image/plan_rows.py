"""One row of a list: its caption made storable, and the metadata filters, before anything is fetched."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lposekit.errors import Outcome, UsageError
from lposekit.records import ImageRow, StoredQuery
from pipelines.image.settings import FilterSettings
from pipelines.lists.columns import METADATA_ALIASES, find_column
from pipelines.lists.text import number_or_none, text_or_none


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One input row. `outcome` is set where the plan already decided it (`metadata_filter`), `detail` says why."""

    row: ImageRow
    outcome: Outcome | None = None
    detail: str = ""
    caption_trimmed: bool = False


@dataclass(frozen=True, slots=True)
class MetadataLimit:
    """One limit on a metadata column, `max_punsafe` 0.5 say."""

    setting: str
    limit: float

    @property
    def metadata(self) -> str:
        return self.setting.partition("_")[2]

    @property
    def sign(self) -> str:
        return ">" if self.setting.startswith("max_") else "<"

    def rejects(self, value: float) -> bool:
        # NaN, a missing value, is neither above nor below: it passes.
        return value > self.limit if self.sign == ">" else value < self.limit


def metadata_limits(settings: FilterSettings) -> list[MetadataLimit]:
    """The limits that are set."""
    names = [f"{bound}_{metadata}" for metadata in METADATA_ALIASES for bound in ("min", "max")]
    values = {name: getattr(settings, name, None) for name in names}
    return [MetadataLimit(name, value) for name, value in values.items() if value is not None]


BoundLimit = tuple[MetadataLimit, str]
"""A limit and the column of the list at hand that it applies to."""


def bind_limits(limits: Sequence[MetadataLimit], columns: Collection[str]) -> list[BoundLimit]:
    """The limits that these columns can be held against; the others turn nothing down."""
    bound = [(limit, find_column(columns, METADATA_ALIASES[limit.metadata])) for limit in limits]
    return [(limit, column) for limit, column in bound if column is not None]


def metadata_verdict(extra: Mapping[str, object], limits: Sequence[BoundLimit]) -> str | None:
    """Why the row is turned down, with the column and its value; None if it passes. A missing value passes."""
    for limit, column in limits:
        value = number_or_none(extra[column])
        if value is not None and limit.rejects(value):
            return f"{column} {value:g} {limit.sign} {limit.limit:g}"
    return None


def compile_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Raises `UsageError` if it is no regular expression."""
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise UsageError(f"--filter.caption-pattern {pattern!r} is not a regular expression: {error}.") from error


def clean_caption(value: object, max_chars: int) -> tuple[str, bool]:
    """A caption that UTF-8 can hold, and whether it was cut to `max_chars` characters.

    NUL (which ends a text in many a reader) and lone surrogates become U+FFFD; line breaks, right-to-left marks and all
    else stay as they are. No value is an empty caption.
    """
    text = (text_or_none(value) or "").replace("\0", "\ufffd")
    return text[:max_chars], len(text) > max_chars


@dataclass(frozen=True, slots=True)
class RowRules:
    """What the plan holds against each row."""

    limits: list[MetadataLimit]
    pattern: re.Pattern[str] | None
    max_caption_chars: int
    query: StoredQuery = "all"


def row_rules(settings: FilterSettings, query: StoredQuery = "all") -> RowRules:
    """Raises `UsageError` for a pattern that is no regular expression."""
    return RowRules(
        metadata_limits(settings), compile_pattern(settings.caption_pattern), settings.max_caption_chars, query
    )


def plan_row(
    key: str, url: object, caption: object, extra: Mapping[str, object], rules: RowRules, limits: Sequence[BoundLimit]
) -> PlannedRow:
    """The row with its caption cleaned, and turned down where a filter says so. Its URL is judged by the fetch."""
    text, trimmed = clean_caption(caption, rules.max_caption_chars)
    row = ImageRow(key=key, url=text_or_none(url), caption=text, extra=extra, query=rules.query)
    why = metadata_verdict(extra, limits)
    if why is None and rules.pattern is not None and not rules.pattern.search(text):
        why = f"caption does not contain {rules.pattern.pattern!r}"
    if why is None:
        return PlannedRow(row, caption_trimmed=trimmed)
    return PlannedRow(row, Outcome.METADATA_FILTER, why, trimmed)
