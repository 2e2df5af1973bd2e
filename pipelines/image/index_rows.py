"""An index: the rows of an image dataset with URLs, sha256 and poses, and without pixels. Read here, shard by shard.

`lposekit push` writes one (`pipelines.publish`), `lposekit materialize` fetches its images again. It
comes from strangers: what it says is checked before it is believed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import LposekitError, Outcome, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS, KeypointFormat
from lposekit.records import Columns, shard_name
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.tables import shard_table
from lposekit.store_reads import kind_of
from pipelines.fetch.removals import DETAIL, Removals, read_removals, traits
from pipelines.image.plan import ShardPlan
from pipelines.image.plan_rows import PlannedRow
from pipelines.image.rows import unposed_row
from pipelines.image.shard import EarlierRows, KnownPose
from pipelines.image.stored import RetryPlan, input_row, load_retry, persons_of

INDEX_KIND = "image-index"
_TABLE = re.compile(r"(\d{5,18})\.parquet", re.ASCII)
_KEY = re.compile(r"\d{9,22}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_ROWS = 10_000
_ROW_DIGITS = 4


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """One shard of an index to be fetched.

    root: of the index. keypoint_format: of its poses, by name. outcomes: of a shard that is there already, the rows to
    fetch again; None: all of a new one. has_table: whether the index still has rows of the shard.
    """

    root: Path
    shard: int
    keypoint_format: str
    outcomes: frozenset[Outcome] | None = None
    has_table: bool = True


def read_index_card(layout: DatasetLayout) -> DatasetCard:
    """The card of an index.

    Raises:
        UsageError: there is none, or it is a dataset's. LposekitError: it is damaged.
    """
    card = read_card(layout)
    if card.kind.endswith("-index") and card.kind != INDEX_KIND:
        raise UsageError(
            f"{layout.root}: an index of clips or poses ({card.kind}), and materialize fetches images alone. Build the "
            "clips again: `lposekit build-video-shards` with a list of the videos and the settings of its card."
        )
    if card.kind != INDEX_KIND:
        raise UsageError(
            f"{layout.root} is of kind {card.kind!r}, not an index of images. `lposekit push {layout.root} --to DIR` "
            "makes one of a dataset of images."
        )
    return card


def index_shards(layout: DatasetLayout) -> list[int]:
    """Numbers of the shards, ascending.

    Raises:
        LposekitError: a table that the card names is missing, or has another name: its rows would count as removed.
    """
    found = {name: _TABLE.fullmatch(name) for name, kind in layout.store.list().items() if kind == "file"}
    numbers = sorted(int(match[1]) for match in found.values() if match)
    if wrong := [name for name, match in found.items() if match and name != f"{shard_name(int(match[1]))}.parquet"]:
        raise LposekitError(f"{layout.root}: {wrong[0]} is no name of a shard. Get the index again.")
    if missing := sorted(set(read_card(layout).shards or ()) - set(map(shard_name, numbers))):
        raise LposekitError(f"{layout.root}: {missing[0]}.parquet is missing. Get the index again.")
    return numbers


def load_index_shard(plan: IndexPlan, target: DatasetLayout) -> tuple[ShardPlan, EarlierRows]:
    """The rows to fetch and their poses; of a shard that is there, also what of it stays: no row that the index lacks.

    Raises:
        LposekitError: the table, or a row of it, is damaged.
    """
    layout = DatasetLayout(plan.root)
    rows = _checked_rows(layout, plan.shard) if plan.has_table else []
    known = _known_poses(rows, KEYPOINT_FORMATS[plan.keypoint_format], layout.parquet(plan.shard))
    planned = {columns["key"]: PlannedRow(input_row(columns)) for columns in rows}
    if plan.outcomes is None:
        return ShardPlan(plan.shard, tuple(planned.values())), EarlierRows({}, known)
    shard_plan, earlier = load_retry(target, RetryPlan(plan.shard, plan.outcomes))
    planned |= {row.row.key: row for row in shard_plan.rows}
    gone = _gone(target, plan.shard, known, read_removals(target))
    removed = {key: unposed_row(planned[key].row, Outcome.REMOVED, DETAIL) for key in gone}
    carried = {**earlier.carried, **removed}
    in_order = tuple(planned[key] for key in sorted(planned))
    wanted = {key: pose for key, pose in known.items() if key not in carried}
    return ShardPlan(plan.shard, in_order), EarlierRows(carried, wanted)


def out_of_step(index: DatasetLayout, target: DatasetLayout, shard: int, removals: Removals) -> tuple[int, int]:
    """Rows that a committed shard has otherwise than the index: those that it has not yet, and those that were taken
    out of the index.

    removals: what the folder must heed.
    """
    known = set[str]()
    if kind_of(index.store, index.relative(index.parquet(shard))) is not None:
        known = set(shard_table(index, index.parquet(shard), columns=["key"])["key"].to_pylist())
    there = shard_table(target, target.parquet(shard), columns=["key"])["key"].to_pylist()
    return len(known.difference(there)), len(_gone(target, shard, known, removals))


def _gone(target: DatasetLayout, shard: int, known: Collection[str], removals: Removals) -> list[str]:
    """Keys of a shard's rows that are not among the `known` ones of the index, or were removed, and are still told."""
    rows = shard_table(target, target.parquet(shard), columns=["key", "url", "sha256", "outcome"]).to_pylist()
    return [
        row["key"]
        for row in rows
        if row["outcome"] != Outcome.REMOVED
        and (row["key"] not in known or removals.name(traits(row["url"], [row["sha256"]], [row["key"]])))
    ]


def _checked_rows(layout: DatasetLayout, shard: int) -> list[Columns]:
    path = layout.parquet(shard)
    table = shard_table(layout, path)
    if missing := sorted({"key", "url", "caption", "sha256", "persons"} - set(table.column_names)):
        raise LposekitError(f"{path}: has no column {', '.join(missing)}. Get the index again.")
    if table.num_rows > _MAX_ROWS:
        raise LposekitError(f"{path}: has {table.num_rows} rows; a shard has at most {_MAX_ROWS}. Get the index again.")
    try:
        rows = table.to_pylist()
    except (ValueError, OverflowError) as error:  # a text that is no UTF-8, a year beyond Python's
        raise LposekitError(f"{path}: has a value that cannot be read ({error}). Get the index again.") from error
    before = ""
    for columns in rows:
        if problem := _problem_of(columns, shard, before):
            raise LposekitError(f"{path}: {problem}. Get the index again.")
        before = columns["key"]
    return rows


def _problem_of(columns: Columns, shard: int, before: str) -> str | None:
    """What is wrong with a row whose key becomes a name in a tar; None if nothing is."""
    key = columns["key"]
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key[:-_ROW_DIGITS] != shard_name(shard):
        return f"row {key!r:.60} has no key of shard {shard_name(shard)}"
    if key <= before:
        return f"row {key} does not come after {before}"
    if not isinstance(columns["sha256"], str) or not _SHA256.fullmatch(columns["sha256"]):
        return f"row {key} has no sha256"
    if wrong := [name for name in ("url", "caption") if not isinstance(columns[name], str | None)]:
        return f"row {key} has a {wrong[0]} that is no text"
    return None


def _known_poses(rows: list[Columns], keypoint_format: KeypointFormat, path: Path) -> dict[str, KnownPose]:
    known = {}
    for columns in rows:
        persons = persons_of(columns, keypoint_format, str(path))
        if persons is None:
            raise LposekitError(f"{path}: row {columns['key']} has no poses. Get the index again.")
        known[columns["key"]] = KnownPose(columns["sha256"], persons)
    return known
