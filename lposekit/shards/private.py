"""What a dataset card does not tell the world: where things lie on the machine that builds.

`_dataset/dataset.json` is made to be shown; there, an absolute path is cut to its last name. `_dataset/private.json`
keeps the settings whole, for `retry` on the same machine. It stays behind when a dataset is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lposekit.errors import LposekitError
from lposekit.json_values import OBJECT, JsonFields, JsonObject, JsonValue, read_json_object
from lposekit.shards.files import write_json
from lposekit.shards.layout import DatasetLayout
from lposekit.stored_address import ADDRESS

if TYPE_CHECKING:
    from lposekit.shards.card import DatasetCard

MAX_BYTES = 2**24
_ABSOLUTE = re.compile(r"(?:file:)?(?:~?[/\\]|[A-Za-z]:[/\\])\S", re.IGNORECASE)
_WITHIN = re.compile(r"""[\s"'=:(,\[{](?:file:)?(?:~[\w.-]*/\S|/[\w.@+ -]+/\S|[A-Za-z]:[/\\]\S|\\\\\w)|^~[\w.-]+/\S""")
"""A path behind other words, of two names at least: ` /or` is none."""
_FILE = re.compile(r"\bfile:[/\\]\S", re.IGNORECASE)


def is_place(text: str) -> bool:
    """Whether a text is an absolute path, or holds one outside of its addresses: it tells of the machine on which it
    was written."""
    return bool(_ABSOLUTE.match(text) or _FILE.search(text) or _WITHIN.search(ADDRESS.sub("", text)))


def published(card: DatasetCard) -> DatasetCard:
    """The card as others may see it: without the folders in which things lie."""
    places = [text for text in _texts(card.settings or {}) if is_place(text)]
    warnings = card.warnings
    for place in sorted(places, key=len, reverse=True):  # of two, one may begin with the other
        warnings = warnings and [warning.replace(place, _last_name(place)) for warning in warnings]
    hidden = {name: _without_places(getattr(card, name)) for name in ("settings", "models", "extra")}
    return replace(card, warnings=warnings, **hidden)


def keep_private(layout: DatasetLayout, card: DatasetCard) -> None:
    """Keep the settings of a card whole, beside the published one.

    Raises:
        LposekitError: the disk is full, or the folder cannot be written.
    """
    write_json(layout.private, {"settings": dict(card.settings or {})})


def whole_settings(layout: DatasetLayout, card: DatasetCard) -> JsonObject | None:
    """The settings of a card, with the paths of the machine that built it if they are still there.

    Raises:
        LposekitError: what is kept of them is damaged.
    """
    try:
        values = read_json_object(layout.store, layout.relative(layout.private), MAX_BYTES)
        kept = JsonFields(values).need("settings", OBJECT)
    except FileNotFoundError:
        return card.settings
    except (OSError, ValueError) as error:
        raise LposekitError(f"{layout.private}: cannot be read ({error}). Remove it; only paths are lost.") from error
    stated = card.settings or {}
    # it may add folders to what the card states, and nothing else
    return {name: _whole(kept.get(name), value) for name, value in stated.items()}


def _whole(kept: JsonValue, stated: JsonValue) -> JsonValue:
    return kept if _without_places(kept) == stated else stated


def _texts(value: JsonValue) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for item in items for text in _texts(item)]


def _without_places(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _last_name(value) if is_place(value) else value
    if isinstance(value, Mapping):
        return {name: _without_places(item) for name, item in value.items()}
    return [_without_places(item) for item in value] if isinstance(value, list | tuple) else value


def _last_name(place: str) -> str:
    return re.split(r"[/\\]+", place.rstrip("/\\"))[-1]
