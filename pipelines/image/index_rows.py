"""An index: the rows of an image dataset with URLs, sha256 and poses, and without pixels. Read here, shard by shard.

`lposekit push` writes one (`pipelines.publish`), `lposekit materialize` fetches its images again. It
comes from strangers: what it says is checked before it is believed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import LposekitError, Outcome, UsageError
from lposekit.keypoints import KeypointFormat
from lposekit.records import Columns, shard_name
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.tables import shard_table
from pipelines.image.plan import ShardPlan
from pipelines.image.plan_rows import PlannedRow
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

    root: of the index. outcomes: of a shard that is there already, the rows to fetch again; none: all of a new one.
    """

    root: Path
    shard: int
    outcomes: frozenset[Outcome] = frozenset()


def read_index_card(layout: DatasetLayout) -> DatasetCard:
    """The card of an index.

    Raises:
        UsageError: there is none, or it is a dataset's. LposekitError: it is damaged.
    """
    card = read_card(layout)
    if card.kind != INDEX_KIND:
        raise UsageError(
            f"{layout.root} is of kind {card.kind!r}, not an index of images. `lposekit push {layout.root} --to DIR` "
            "makes one of a dataset of images."
        )
    return card


def index_shards(layout: DatasetLayout) -> list[int]:
    """Numbers of the shards, ascending."""
    found = {name: _TABLE.fullmatch(name) for name, kind in layout.store.list().items() if kind == "file"}
    numbers = sorted(int(match[1]) for match in found.values() if match)
    if wrong := [name for name, match in found.items() if match and name != f"{shard_name(int(match[1]))}.parquet"]:
        raise LposekitError(f"{layout.root}: {wrong[0]} is no name of a shard. Get the index again.")
    return numbers


def load_index_shard(plan: IndexPlan, target: DatasetLayout) -> tuple[ShardPlan, EarlierRows]:
    """The rows to fetch and their poses; of a shard to be completed, also what of it stays.

    Raises:
        LposekitError: the table, or a row of it, is damaged.
    """
    layout = DatasetLayout(plan.root)
    rows = _checked_rows(layout, plan.shard)
    known = _known_poses(rows, keep_rule_of(read_card(layout))[1], layout.parquet(plan.shard))
    if plan.outcomes:
        shard_plan, earlier = load_retry(target, RetryPlan(plan.shard, plan.outcomes))
        wanted = {key: pose for key, pose in known.items() if key not in earlier.carried}
        return shard_plan, EarlierRows(earlier.carried, wanted)
    return ShardPlan(plan.shard, tuple(PlannedRow(input_row(columns)) for columns in rows)), EarlierRows({}, known)


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
