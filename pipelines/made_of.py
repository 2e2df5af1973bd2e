"""What was made of a dataset's samples and holds a part of each: caches of latents, and the poses of clips.

After samples were removed, these are brought into step: a sample that the dataset has no more goes, and what is left
counts as made of the tar as it is now. A shard that was not made of this tar, or of one that it was before a removal,
keeps saying so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from lposekit.errors import LposekitError, UsageError
from lposekit.recipe import Claim
from lposekit.shards.card import DatasetCard, read_card, update_card
from lposekit.shards.dataset import read_members
from lposekit.shards.files import refuse_links
from lposekit.shards.index import read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.private import whole_settings
from lposekit.shards.stats import ShardStats
from lposekit.shards.tables import shard_table
from lposekit.shards.writer import ShardWriter
from lposekit.stage_times import StageTimes
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of
from pipelines.job.lock import owned_folder
from pipelines.job.report_page import write_report
from pipelines.job.shard import write_shard
from pipelines.job.stored import read_stored_shard
from pipelines.video.poses.clip_shard import POSE_SHARDS

FORMER_TARS = "former_tars"
"""In a commit marker: sha256 of the tars that this one was, before samples were removed from it."""


@dataclass(frozen=True, slots=True)
class MadeOf:
    """A folder that was made of a dataset. `kind`: `latents` or `poses`; `samples`: how many of its samples go."""

    root: Path
    kind: str
    samples: int = 0

    @property
    def what(self) -> str:
        return f"{'latents in' if self.kind == 'latents' else 'poses in'} {self.root}"

    @property
    def layout(self) -> DatasetLayout:
        return DatasetLayout(self.root)

    def without(self, keys: Collection[str]) -> MadeOf:
        """What `bring_into_step` would do once samples of these keys were gone."""
        shards = self.layout.committed_shards()
        indexes = (read_shard_index(self.layout, shard).keys.tolist() for shard in shards)
        return replace(self, samples=sum(key in keys for index in indexes for key in index))

    def bring_into_step(self, source: DatasetLayout) -> MadeOf:
        """Take out what the source has no more; returns how many samples that were.

        Raises:
            UsageError: another command is at work on the folder. LposekitError: it is damaged, or the disk is full.
        """
        samples = 0
        with owned_folder(self.layout) as run_id:
            committed = set(source.committed_shards())
            for shard in self.layout.committed_shards():
                if shard in committed:
                    samples += self._shard(source, shard, run_id)
            update_card(self.layout)
            if self.kind == "poses":
                write_report(self.layout)
        return replace(self, samples=samples)

    def _shard(self, source: DatasetLayout, shard: int, run_id: str) -> int:
        now = read_shard_index(source, shard)
        keys, own = set(now.keys.tolist()), read_shard_index(self.layout, shard)
        old, former = self.layout.read_stats(shard), source.read_stats(shard).extra.get(FORMER_TARS)
        in_step = isinstance(former, list) and old.source_sha256 in former
        stale = {key for key in _row_keys(self.layout, shard) if key not in keys}
        if not stale and not in_step:
            return 0
        made_of = now.tar_sha256 if in_step else old.source_sha256
        write = _write_latents if self.kind == "latents" else _write_poses
        write(self.layout, shard, run_id, keys, replace(old, source_sha256=made_of))
        return sum(key not in keys for key in own.keys.tolist())


def made_of(layout: DatasetLayout, card: DatasetCard, poses: Sequence[Path]) -> list[MadeOf]:
    """The caches of a dataset, and the folders of poses of its clips: those named, and those next to it.

    Raises:
        UsageError: a folder that is named holds no poses of this dataset.
    """
    try:
        names = [name for name, kind in layout.store.list(layout.relative(layout.latents)).items() if kind == "folder"]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    caches = [layout.latents / name for name in names]
    found = [MadeOf(root, "latents") for root in caches if _kind(root) == "latents"]
    for root in poses:
        if _kind(root) != "poses":
            raise UsageError(f"--poses {root}: no dataset of poses. Name a folder that `lposekit pose` wrote.")
        if not _reads(root, layout):
            raise UsageError(f"--poses {root}: holds the poses of other clips than those of {layout.root}.")
    if card.kind == "video":
        known = {root.resolve() for root in poses}
        more = [path for path in _beside(layout) if path not in known]
        found += [MadeOf(root, "poses") for root in (*poses, *more)]
    return found


def _beside(layout: DatasetLayout) -> list[Path]:
    """The folders of poses of these clips that lie next to them."""
    parent = layout.root.resolve().parent
    try:
        folders = [parent / name for name, kind in LocalStore(parent).list().items() if kind == "folder"]
    except OSError:
        return []
    return [path for path in folders if _kind(path) == "poses" and _reads(path, layout)]


def refuse_strange(folders: Sequence[MadeOf]) -> None:
    """Raises UsageError: one of the folders holds links, and nothing is written through them."""
    for each in folders:
        refuse_links(each.root)


def _kind(root: Path) -> str | None:
    layout = DatasetLayout(root)
    try:
        if kind_of(layout.store, layout.relative(layout.card)) is None:
            return None
        return read_card(layout).kind
    except (OSError, LposekitError):
        return None


def _reads(poses: Path, clips: DatasetLayout) -> bool:
    """Whether these are poses of these clips, by the settings that they were made with: the card names no folders, but
    what is kept beside it does."""
    layout = DatasetLayout(poses)
    try:
        named = (whole_settings(layout, read_card(layout)) or {}).get("input")
    except LposekitError:
        return False
    names = named if isinstance(named, list | tuple) else [named]
    return any(isinstance(name, str) and Path(name).resolve() == clips.root.resolve() for name in names)


def _row_keys(layout: DatasetLayout, shard: int) -> list[str]:
    return shard_table(layout, layout.parquet(shard), columns=["key"])["key"].to_pylist()


def _write_latents(cache: DatasetLayout, shard: int, run_id: str, keys: set[str], stats: ShardStats) -> None:
    table, index = shard_table(cache, cache.parquet(shard)), read_shard_index(cache, shard)
    writer = ShardWriter(cache, shard, run_id)
    try:
        for place, key in enumerate(index.keys.tolist()):
            if key in keys:
                writer.add(key, read_members(index, place))
        left = table.filter(pa.array([key in keys for key in table["key"].to_pylist()], pa.bool_()))
        writer.commit(left, replace(stats, count=len(left), outcomes={"kept": len(left)}))
    except BaseException:
        writer.discard()
        raise


def _write_poses(poses: DatasetLayout, shard: int, run_id: str, keys: set[str], stats: ShardStats) -> None:
    """A row stands for a clip of the source, at its place: without the clip there is none."""
    stored = read_stored_shard(poses, shard)
    rows = (stored.result(place) for place, row in enumerate(stored.columns) if row["key"] in keys)
    times = StageTimes()
    times.add_all({name: seconds for name, seconds in (stats.timings_s or {}).items() if name != "commit"})
    kept = {name: getattr(stats, name) for name in ("duration", "start_time", "end_time", "source_sha256")}
    facts = {**stats.extra, **{name: value for name, value in kept.items() if value is not None}}
    write_shard(Claim(poses.root, run_id), shard, rows, POSE_SHARDS, times, stats=facts)
