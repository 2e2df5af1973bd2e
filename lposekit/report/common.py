"""What the pages of all kinds of datasets have in common: header, outcomes, licences, settings, shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lposekit.errors import OUTCOME_FACTS, LposekitError
from lposekit.records import Columns
from lposekit.report.facts import DatasetFacts
from lposekit.report.page import PUBLIC_NAME, flatten, without_places
from lposekit.shards.card import DatasetCard
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.layout import DatasetLayout

MAX_LICENCES_LISTED = 12
GROUPS = {
    "kept": "Kept",
    "judged": "Seen, and rejected",
    "rule": "Not fetched: a rule",
    "owner": "Not fetched: refused by the owner",
    "network": "Not fetched: the network",
    "bytes": "Fetched, and not usable",
}
"""Headings of the groups of outcomes, in the order of the page."""


@dataclass(frozen=True, slots=True)
class OutcomeLine:
    """One line of the outcome table."""

    name: str
    group: str
    text: str
    count: int
    examples: Sequence[Columns]


def page_path(dataset: PoseDataset, *, public: bool) -> Path:
    """Where a dataset's page goes. The public one has a name of its own: every build writes the private one anew.

    Raises:
        LposekitError: a link leads out of the dataset folder.
    """
    layout = DatasetLayout(dataset.root)
    private = layout.report
    try:
        layout.store.list(layout.relative(private.parent))
    except FileNotFoundError:
        pass  # it is made when the page is written
    except OSError as error:
        raise LposekitError(f"{private.parent}: the report cannot be written there ({error}).") from error
    return private.with_name(PUBLIC_NAME) if public else private


def common_values(dataset: PoseDataset, facts: DatasetFacts, *, public: bool) -> dict[str, Any]:
    """Values of the templates' shared parts."""
    return {
        "name": dataset.root.resolve().name,
        "public": public,
        "facts": facts,
        "card": card_lines(dataset.card, public=public),
        "warnings": [shown_text(text, public) for text in dataset.card.warnings or ()],
        "is_sample": bool(dataset.card.sample),
        "provisional": is_provisional(dataset.card),
        "outcomes": outcome_lines(facts.outcomes, {} if public else facts.examples),
        "groups": GROUPS,
        "licences": [(shown_text(name, public), n) for name, n in facts.licences.most_common(MAX_LICENCES_LISTED)],
        "opt_outs": {name: facts.outcomes[name] for name in ("robots", "opt_out", "blocked", "metadata_filter")},
        "shards": facts.shards,
        "listed": facts.listed,
        "listed_json": Markup(facts.listed.as_json(public=public)),
    }


def shown_text(text: object, public: bool) -> str:
    return without_places(str(text)) if public else str(text)


def is_provisional(card: DatasetCard) -> bool:
    """Whether the card says of a model that its threshold was never calibrated."""
    entries = (card.models or {}).values()
    return any(isinstance(entry, Mapping) and bool(entry.get("provisional")) for entry in entries)


def card_lines(card: DatasetCard, *, public: bool) -> dict[str, list[tuple[str, str]]]:
    """The parts of the dataset card as lines, by heading."""
    headings = {
        "Keep rule": card.keep_rule,
        "Models": card.models,
        "Settings": card.settings,
        "Versions": card.versions,
    }
    return {
        heading: [(name, shown_text(text, public)) for name, text in flatten(values)]
        for heading, values in headings.items()
        if values
    }


def outcome_lines(outcomes: Counter[str], examples: Mapping[str, Sequence[Columns]]) -> list[OutcomeLine]:
    """The outcomes that occurred, by group (see `GROUPS`), the largest first in each."""
    lines = []
    for outcome, known in OUTCOME_FACTS.items():
        if count := outcomes[outcome.value]:
            # what the owner refused, or a rule forbids, is not linked to from here
            may_link = known.group in ("network", "bytes")
            shown = [{**row, "url": row["url"] if may_link else None} for row in examples.get(outcome.value, [])]
            lines.append(OutcomeLine(outcome.value, known.group, known.text, count, shown))
    order = list(GROUPS)
    return sorted(lines, key=lambda line: (order.index(line.group), -line.count))
