"""Videos of a committed shard, read back: what `retry` takes over unchanged."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq

from lposekit.errors import Outcome
from lposekit.shards.dataset import read_members
from lposekit.shards.index import read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.writer import ShardWriter
from pipelines.video.rows import VideoRowResult


class StoredVideos:
    """The videos of one committed shard, in row order."""

    def __init__(self, layout: DatasetLayout, shard: int) -> None:
        self._columns: list[dict[str, Any]] = pq.read_table(layout.parquet(shard)).to_pylist()
        self._index = read_shard_index(layout, shard)
        self._places = {key: place for place, key in enumerate(self._index.keys)}

    def outcome(self, position: int) -> Outcome:
        return Outcome(self._columns[position]["outcome"])

    def carry_over(self, position: int, writer: ShardWriter) -> VideoRowResult:
        """Copy a video's clips into the new shard; returns its row."""
        columns = self._columns[position]
        for key in columns["clip_keys"] or []:
            writer.add(key, read_members(self._index, self._places[key]))
        return VideoRowResult(
            self.outcome(position),
            columns,
            columns["num_clips"],
            columns["num_windows"],
            json.loads(columns["dropped"]),
        )
