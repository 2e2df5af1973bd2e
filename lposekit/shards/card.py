"""The dataset card: what a folder holds, how it was made, and whether a run may continue it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    JsonFields,
    JsonObject,
    JsonValue,
    known_values,
    list_of,
    object_of,
    read_json_object,
)
from lposekit.shards.files import write_json
from lposekit.shards.layout import SCHEMA_VERSION, DatasetLayout, sum_counts
from lposekit.shards.private import keep_private, published
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of
from lposekit.words import counted

MAX_BYTES = 2**28
"""Of a card: it names every shard."""
CAME_LATER: Mapping[str, JsonValue] = {"image.keep_jpeg": False}
"""Settings that decide bytes and that older cards lack -> what was done then."""
CHECKED_BY = "checked_by"
"""Of a model: `sha256`, `sha256 prefix` where its publisher states no more, or `note` of the user."""
BACKEND = "backend"
"""Of the models: what ran them, with its version. Cards without one are of torch."""
PIXELS = "pixels"
"""Of the backend: what resizes the images; cards without it are of OpenCV, on the host."""
CPUS = "cpus"
"""Of the models: the kinds of CPU that ran them, sorted."""
KEEP_SETTINGS = (
    *("settings.min_detected", "settings.person_rule", "settings.pose.keypoint_score_threshold"),
    *("settings.pose.box_score_threshold", "settings.pose.min_box_area_fraction", "settings.pose.min_box_side_px"),
)
"""Settings that only say which images are kept."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTotals:
    """The sums of all commit markers. `windows` and `dropped_windows`: of videos only."""

    shards: int
    rows: int
    samples: int
    outcomes: Mapping[str, int]
    windows: int | None = None
    dropped_windows: Mapping[str, int] | None = None

    @classmethod
    def from_json(cls, values: JsonObject) -> DatasetTotals:
        """From what the file holds.

        Raises:
            ValueError: names the key that is missing or wrong.
        """
        fields = JsonFields(values, "totals.")
        return cls(
            shards=fields.need("shards", COUNT),
            rows=fields.need("rows", COUNT),
            samples=fields.need("samples", COUNT),
            outcomes=fields.need("outcomes", object_of(COUNT)),
            windows=fields.take("windows", COUNT),
            dropped_windows=fields.take("dropped_windows", object_of(COUNT)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCard:
    """What `_dataset/dataset.json` says. A field that is None is not in the file: not every kind has all of them.

    `fixed`: the settings, models and versions that decide the bytes. `shards`: names of the committed ones.
    """

    schema: int = SCHEMA_VERSION
    kind: str = "image"
    fixed: JsonObject | None = None
    lposekit: str | None = None
    """Version that began the folder."""
    versions: Mapping[str, str] | None = None
    settings: JsonObject | None = None
    settings_digest: str | None = None
    warnings: Sequence[str] | None = None
    sample: bool | None = None
    """Whether the quickstart made it, from its own input."""
    keep_rule: JsonObject | None = None
    """See `lposekit.shards.keep_rule`."""
    keypoint_format: str | None = None
    models: JsonObject | None = None
    totals: DatasetTotals | None = None
    shards: Sequence[str] | None = None
    extra: JsonObject = field(default_factory=dict)
    """What else a kind states, and the keys of newer versions: kept as they are."""

    def __repr__(self) -> str:
        totals = self.totals
        counted = f", {totals.samples} samples of {totals.rows} rows in {totals.shards} shards" if totals else ""
        return f"DatasetCard({self.kind}{counted}, lposekit {self.lposekit or 'unknown'})"

    @classmethod
    def from_json(cls, values: JsonObject) -> DatasetCard:
        """From what the file holds.

        Raises:
            ValueError: names the key that is wrong.
        """
        fields, empty = JsonFields(values), cls()
        totals = fields.take("totals", OBJECT)
        return cls(
            schema=_or(fields.take("schema", COUNT), empty.schema),
            kind=_or(fields.take("kind", TEXT), empty.kind),
            fixed=fields.take("fixed", OBJECT),
            lposekit=fields.take("lposekit", TEXT),
            versions=fields.take("versions", object_of(TEXT)),
            settings=fields.take("settings", OBJECT),
            settings_digest=fields.take("settings_digest", TEXT),
            warnings=fields.take("warnings", list_of(TEXT)),
            sample=fields.take("sample", FLAG),
            keep_rule=fields.take("keep_rule", OBJECT),
            keypoint_format=fields.take("keypoint_format", TEXT),
            models=fields.take("models", OBJECT),
            totals=None if totals is None else DatasetTotals.from_json(totals),
            shards=fields.take("shards", list_of(TEXT)),
            extra=fields.rest,
        )

    def as_json(self) -> dict[str, JsonValue]:
        values = known_values(replace(self, totals=None))
        return values if self.totals is None else {**values, "totals": known_values(self.totals)}


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def read_card(layout: DatasetLayout) -> DatasetCard:
    """The card of a dataset folder.

    Raises:
        UsageError: there is none. LposekitError: it is damaged, or of a newer schema.
    """
    try:
        values = read_json_object(layout.store, layout.relative(layout.card), MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{layout.root}: no dataset card ({layout.relative(layout.card)}). Name the folder that was given as "
            "--output to a build."
        ) from None
    except (OSError, ValueError) as error:
        raise LposekitError(f"{layout.card}: not readable as JSON ({error}). Restore it from a copy.") from error
    schema = values.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:  # before its other keys, which may have changed
        raise LposekitError(
            f"{layout.card}: schema {schema} is newer than this lposekit knows ({SCHEMA_VERSION}). Upgrade it."
        )
    try:
        return DatasetCard.from_json(values)
    except ValueError as error:
        raise LposekitError(f"{layout.card}: {error}. Restore it from a copy.") from error


def write_card(layout: DatasetLayout, card: DatasetCard) -> None:
    """Replace the card.

    Raises:
        LposekitError: the disk is full, or the folder cannot be written.
    """
    write_json(layout.card, card.as_json())


def stated(value: T | None, name: str, layout: DatasetLayout) -> T:
    """A field of a card without which its reader cannot go on.

    Raises:
        LposekitError: the card does not state it.
    """
    if value is None:
        raise LposekitError(f"{layout.card}: {name} is missing. Restore it from a copy.")
    return value


def differing_fields(old: object, new: object, prefix: str = "") -> list[str]:
    """Where two nested settings differ, as lines `name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [line for name in names for line in differing_fields(old.get(name), new.get(name), f"{prefix}{name}.")]
    return [] if old == new else [f"{prefix.rstrip('.')}: {old!r} -> {new!r}"]


def claim_folder(layout: DatasetLayout, card: DatasetCard) -> None:
    """Write the card of a run that starts, or make sure that it continues what the folder holds.

    Raises:
        UsageError: the folder belongs to other settings or versions, or holds files of something else.
    """
    if refuse_other_folder(layout, card):
        return
    keep_private(layout, card)
    write_card(layout, published(card))


def refuse_other_folder(layout: DatasetLayout, card: DatasetCard) -> bool:
    """Whether the folder holds a dataset that this run would continue; False for one to begin. Writes nothing.

    Raises:
        UsageError: as `claim_folder`.
    """
    if kind_of(layout.store, layout.relative(layout.card)) is not None:
        assert card.fixed is not None
        # Through JSON, so that a tuple equals the list that it is stored as.
        fixed = json.loads(json.dumps(card.fixed))
        differing = differing_fields(_completed(read_card(layout), fixed), fixed)
        if differing:
            raise UsageError(
                f"{layout.root} was built with other settings or versions:\n  " + "\n  ".join(differing) + "\n"
                "Name another --output, or go back to the old ones to resume." + _refilter_hint(layout, differing)
            )
        return True
    if layout.root.is_dir():
        _refuse_foreign_files(layout.root)
    return False


def _refilter_hint(layout: DatasetLayout, differing: Sequence[str]) -> str:
    """Where nothing but the keep rule is another one: what applies it to the poses that are stored."""
    names = [line.partition(":")[0] for line in differing]
    if not all(name.startswith("keep_rule.") or name in KEEP_SETTINGS for name in names):
        return ""
    rules = [name.removeprefix("keep_rule.") for name in names if name.startswith("keep_rule.")]
    flags = " ".join(f"--{rule.replace('_', '-')} VALUE" for rule in rules)
    return (
        f" Only the keep rule differs: `lposekit refilter {layout.root} --output NEW {flags}` applies another one to "
        "the poses that are stored, without fetching anything."
    )


def _completed(old: DatasetCard, new_fixed: JsonObject) -> JsonObject | None:
    """What an old card fixes, with what it does not name: settings that came later, and the versions that a folder of
    lposekit 0.1 was built with, which recorded them without binding itself to them."""
    if old.fixed is None:
        return None
    fixed, versions, settings = dict(old.fixed), new_fixed.get("versions"), old.fixed.get("settings")
    if isinstance(settings, Mapping):
        new = new_fixed.get("settings")
        later = {name: value for name, value in CAME_LATER.items() if isinstance(new, Mapping) and name in new}
        fixed["settings"] = {**later, **settings}
    if "versions" not in fixed and isinstance(versions, Mapping):
        recorded = old.versions or {}
        fixed["versions"] = {name: recorded.get(name) for name in versions}
    return fixed


def bind_models(layout: DatasetLayout, models: JsonObject) -> None:
    """Write what was loaded into the card; a folder goes on with the very weights that it was begun with.

    Raises:
        UsageError: it was begun with others.
    """
    before = read_card(layout).models or {}
    old, new = deciding_models(before), deciding_models(models)
    if before and old != new and layout.committed_shards():
        if old[BACKEND] != new[BACKEND]:
            raise UsageError(
                f"{layout.root} was built with the backend {_words(old[BACKEND])}, and this run has "
                f"{_words(new[BACKEND])}. Name another --output, or give --pose.backend and the version (of lposekit "
                "too, for the images) that it was begun with."
            )
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        raise UsageError(
            f"{layout.root} was built with other models ({', '.join(names)} differ). Name another --output, or put the "
            "same weights and package versions back."
        )
    update_card(layout, models=_with_cpus_of(before, models))


def common_models(loaded: Sequence[JsonObject]) -> JsonObject:
    """What all processes of a run have loaded, on whatever kinds of CPU.

    Raises:
        LposekitError: they have not loaded the same.
    """
    models = loaded[0]
    for other in loaded[1:]:
        differing = differing_fields(deciding_models(models), deciding_models(other))
        if differing:
            raise LposekitError(
                "the nodes have not loaded the same models:\n  " + "\n  ".join(differing) + "\nInstall the same "
                "versions (lposekit/pins.txt) and weights on all of them."
            )
        models = _with_cpus_of(models, other)
    return models


def card_backend(models: JsonObject) -> str:
    """The name of what ran the models of a card."""
    backend = models.get(BACKEND)
    return str(backend.get("name")) if isinstance(backend, Mapping) else "torch"


def deciding_models(models: JsonObject) -> dict[str, JsonValue]:
    """What of a card's models decides the bytes: without the kinds of CPU, and without what told that their weights are
    right, which older cards lack. The threads of a backend are those of the settings."""
    plain: dict[str, JsonValue] = {
        name: {key: item for key, item in value.items() if key != CHECKED_BY} if isinstance(value, Mapping) else value
        for name, value in models.items()
        if name != CPUS
    }
    backend, versions = models.get(BACKEND), models.get("versions")
    if isinstance(backend, Mapping):
        named = {key: backend.get(key) for key in ("name", "version")}
    else:
        named = {"name": "torch", "version": versions.get("torch") if isinstance(versions, Mapping) else None}
    pixels = backend.get(PIXELS) if isinstance(backend, Mapping) else None
    plain[BACKEND] = {**named, PIXELS: pixels or "host"}
    return plain


def _words(backend: JsonValue) -> str:
    if not isinstance(backend, Mapping):
        return "torch"
    return f"{backend['name']} {backend['version']} (images resized on the {backend[PIXELS]})"


def _with_cpus_of(before: JsonObject, models: JsonObject) -> JsonObject:
    """The models with the kinds of CPU of earlier runs as well."""
    both = [before.get(CPUS), models.get(CPUS)]
    cpus = {str(kind) for kinds in both if isinstance(kinds, list) for kind in kinds}
    return {**models, CPUS: sorted(cpus)} if cpus else models


def _refuse_foreign_files(root: Path) -> None:
    foreign = [name for name in LocalStore(root).list() if not name.startswith((".", "_dataset"))]
    if foreign:
        names = ", ".join(foreign[:3]) + (", ..." if foreign[3:] else "")
        raise UsageError(
            f"{root} holds {counted(len(foreign), 'file')} of something else ({names}). Name an empty folder with "
            "--output."
        )


def update_card(layout: DatasetLayout, *, models: JsonObject | None = None) -> DatasetTotals:
    """Count the totals afresh from the commit markers, and put `models` into the card; returns the totals."""
    shards = layout.committed_shards()
    totals = _totals(layout, shards)
    card = read_card(layout)
    names = [layout.tar(shard).stem for shard in shards]
    write_card(layout, replace(card, models=_or(models, card.models), totals=totals, shards=names))
    return totals


def _totals(layout: DatasetLayout, shards: Sequence[int]) -> DatasetTotals:
    """One marker in memory at a time: there may be 400,000."""
    rows, samples, windows, of_videos = 0, 0, 0, False
    outcomes: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for shard in shards:
        stats = layout.read_stats(shard)
        rows, samples = rows + stats.count, samples + stats.num_samples
        outcomes = sum_counts([outcomes, stats.outcomes])
        if stats.windows is not None:
            of_videos, windows = True, windows + stats.windows
        dropped = sum_counts([dropped, stats.dropped or {}])
    totals = DatasetTotals(shards=len(shards), rows=rows, samples=samples, outcomes=outcomes)
    return replace(totals, windows=windows, dropped_windows=dropped) if of_videos else totals
