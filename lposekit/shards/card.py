"""The dataset card: what a folder holds, how it was made, and whether a run may continue it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.files import write_json
from lposekit.shards.layout import SCHEMA_VERSION, DatasetLayout, sum_counts


def read_card(layout: DatasetLayout) -> dict[str, Any]:
    """The card of a dataset folder.

    Raises:
        LposekitError: there is none, it is damaged, or it is of a newer schema.
    """
    try:
        card = json.loads(layout.card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LposekitError(f"{layout.root}: no dataset card at {layout.card}. Is this a dataset folder?") from None
    except ValueError as error:
        raise LposekitError(f"{layout.card}: not readable as JSON ({error}). Restore it from a copy.") from error
    if card.get("schema", 0) > SCHEMA_VERSION:
        raise LposekitError(
            f"{layout.card}: schema {card['schema']} is newer than this lposekit knows ({SCHEMA_VERSION}). Upgrade it."
        )
    return card


def differing_fields(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Where two nested settings differ, as lines ``name: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [line for name in names for line in differing_fields(old.get(name), new.get(name), f"{prefix}{name}.")]
    return [] if old == new else [f"{prefix.rstrip('.')}: {old!r} -> {new!r}"]


def claim_folder(layout: DatasetLayout, card: dict[str, Any]) -> None:
    """Write the card of a run that starts, or make sure that it continues what the folder holds.

    ``card["fixed"]`` are the settings, models and versions that decide the bytes; they must be those of the folder.

    Raises:
        UsageError: the folder belongs to other settings or versions, or holds files of something else.
    """
    if layout.card.exists():
        old = read_card(layout)
        _add_versions(old, card)
        # Through JSON, so that a tuple equals the list that it is stored as.
        differing = differing_fields(old.get("fixed"), json.loads(json.dumps(card["fixed"])))
        if differing:
            raise UsageError(
                f"{layout.root} was built with other settings or versions:\n  " + "\n  ".join(differing) + "\n"
                "Name another --output, or go back to the old ones to resume."
            )
        return
    _refuse_foreign_files(layout.root)
    write_json(layout.card, {"schema": SCHEMA_VERSION, **card})


def _add_versions(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Versions that a folder of lposekit 0.1 was built with, which it recorded without binding itself to them."""
    fixed, recorded = old.get("fixed"), old.get("versions", {})
    if isinstance(fixed, dict) and "versions" not in fixed and "versions" in new["fixed"]:
        fixed["versions"] = {name: recorded.get(name) for name in new["fixed"]["versions"]}


def bind_models(layout: DatasetLayout, models: dict[str, Any]) -> None:
    """Write what was loaded into the card; a folder goes on with the very weights that it was begun with.

    Raises:
        UsageError: it was begun with others.
    """
    before = read_card(layout).get("models")
    if before and before != models and layout.committed_shards():
        names = sorted(name for name in before.keys() | models.keys() if before.get(name) != models.get(name))
        raise UsageError(
            f"{layout.root} was built with other models ({', '.join(names)} differ). Name another --output, or put the "
            "same weights and package versions back."
        )
    update_card(layout, models=models)


def _refuse_foreign_files(root: Path) -> None:
    foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith((".", "_dataset")))
    if foreign:
        names = ", ".join(foreign[:3]) + (", ..." if foreign[3:] else "")
        raise UsageError(
            f"{root} holds {len(foreign)} files of something else ({names}). Name an empty folder with --output."
        )


def update_card(layout: DatasetLayout, **fields: Any) -> dict[str, Any]:
    """Replace fields of the card; the totals are counted afresh from the commit markers. Returns the card."""
    shards = layout.committed_shards()
    stats = [layout.read_stats(shard) for shard in shards]
    totals: dict[str, Any] = {
        "shards": len(shards),
        "rows": sum(stat["count"] for stat in stats),
        "samples": sum(stat["num_samples"] for stat in stats),
        "outcomes": sum_counts(stat["outcomes"] for stat in stats),
    }
    if any("windows" in stat for stat in stats):
        totals["windows"] = sum(stat.get("windows", 0) for stat in stats)
        totals["dropped_windows"] = sum_counts(stat.get("dropped", {}) for stat in stats)
    card = {**read_card(layout), **fields, "totals": totals, "shards": [layout.tar(shard).stem for shard in shards]}
    write_json(layout.card, card)
    return card
