"""The parquet columns of a row; the same for every kind of dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lposekit.errors import Outcome
from lposekit.records import StoredQuery
from lposekit.shards.rows import LIST_COLUMNS
from lposekit.stored_address import stored_address

MAX_ERROR_CHARS = 500


def img2dataset_status(outcome: Outcome, stored: bool) -> str:
    """img2dataset's status of a row: `success` exactly for rows that have a sample in the tar."""
    if stored:
        return "success"
    return "failed_to_download" if outcome.facts.before_decode else "failed_to_resize"


def row_columns(
    own: Iterable[str],
    *,
    key: str,
    url: str | None,
    caption: str,
    extra: Mapping[str, object],
    outcome: Outcome,
    detail: str,
    stored: bool,
    query: StoredQuery = "all",
) -> dict[str, object]:
    """The list's columns as they came, then ours (`own`): empty, but for key, status, outcome and message.

    Of addresses, user names, passwords and what `query` says are left out (see `stored_address`). Of a removed row
    nothing stays of what the list said.
    """
    own = tuple(own)
    if outcome is Outcome.REMOVED:
        return removed_columns((*LIST_COLUMNS, *extra, *own), key, detail)
    message = None if outcome is Outcome.KEPT else f"{outcome.value}: {detail}"[:MAX_ERROR_CHARS]
    return {
        "url": _shown(url, query),
        "caption": caption,
        **{name: _shown(value, query) for name, value in extra.items() if name not in own},
        **dict.fromkeys(own),
        "key": key,
        "status": img2dataset_status(outcome, stored),
        "error_message": message,
        "outcome": outcome.value,
    }


def removed_columns(names: Iterable[str], key: object, detail: str) -> dict[str, object]:
    """What stays of a row that was removed: that there was one, and its key."""
    status = img2dataset_status(Outcome.REMOVED, stored=False)
    message = f"{Outcome.REMOVED.value}: {detail}"
    return {
        **dict.fromkeys(names),
        "key": key,
        "status": status,
        "error_message": message,
        "outcome": Outcome.REMOVED.value,
    }


def _shown(value: object, query: StoredQuery) -> object:
    return stored_address(value, query) if isinstance(value, str) else value
