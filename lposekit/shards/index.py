"""Where each sample's members lie, for readers that go straight to the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout

Members = dict[str, tuple[int, int]]
"""Member name (``jpg``, ``pose.json``) -> (absolute offset of its data in the tar, size in bytes)."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of one committed shard, in tar order."""

    shard: int
    tar_path: Path
    tar_bytes: int
    tar_sha256: str
    keys: list[str]
    members: list[Members]

    @property
    def name(self) -> str:
        return self.tar_path.stem


def read_shard_index(layout: DatasetLayout, shard: int) -> ShardIndex:
    """The index of one committed shard.

    Raises:
        LposekitError: the index or the commit marker is missing or damaged.
    """
    tar = layout.tar(shard)
    try:
        described = layout.read_stats(shard)["files"][layout.relative(tar)]
        table = pq.read_table(layout.index(shard))
        members = [{m["name"]: (m["offset"], m["size"]) for m in row} for row in table["members"].to_pylist()]
        keys = table["key"].to_pylist()
    except (OSError, KeyError, ValueError) as error:
        raise LposekitError(
            f"shard {tar.stem} of {layout.root}: its index or commit marker cannot be read ({error}). "
            f"Run `lposekit verify {layout.root}` to see all damage."
        ) from error
    return ShardIndex(shard, tar, described["bytes"], described["sha256"], keys, members)


def read_index(dataset_dir: Path) -> list[ShardIndex]:
    """The index of every committed shard of a dataset folder, in order.

    Raises:
        LposekitError: the folder is no dataset, or a shard's index is missing or damaged.
    """
    layout = DatasetLayout(Path(dataset_dir))
    shards = layout.committed_shards()
    if not shards:
        raise LposekitError(
            f"{dataset_dir}: no committed shard there. Name a folder that `make laion-pose` or "
            "`lposekit build-video-shards` wrote."
        )
    return [read_shard_index(layout, shard) for shard in shards]
