"""Contract of the shard index: for every sample, each member's bytes lie where the index says, also in a tar whose
samples have different members, and in one without samples."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lposekit.errors import LposekitError
from lposekit.shards.index import ShardIndex, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter

SAMPLES = {
    "000000000": {"jpg": b"image", "txt": b"a"},
    "000000001": {"txt": b"bc"},
    "000000003": {"jpg": b"img", "pose.json": b"{}", "txt": b""},
}


def written(root: Path, samples: dict[str, dict[str, bytes]]) -> ShardIndex:
    layout = DatasetLayout(root)
    writer = ShardWriter(layout, 0, "test")
    for key, members in samples.items():
        writer.add(key, members)
    writer.commit(pa.table({"key": list(samples)}), ShardStats(count=len(samples), outcomes={}))
    return read_shard_index(layout, 0)


def test_each_member_of_each_sample_lies_where_the_index_says(tmp_path: Path) -> None:
    # Mutation tried: members taken by name in the order of the rows of other names -> wrong offsets.
    index = written(tmp_path, SAMPLES)
    tar = index.tar_path.read_bytes()
    assert index.keys.tolist() == list(SAMPLES)
    for row, members in enumerate(SAMPLES.values()):
        found = {name: tar[offset : offset + size] for name, (offset, size) in index.members(row).items()}
        assert list(found.items()) == sorted(members.items()), "in tar order"
    assert index.places["pose.json"][:2].tolist() == [[-1, -1], [-1, -1]]
    assert len(tar) == index.tar_bytes


def test_a_key_is_found_by_name(tmp_path: Path) -> None:
    index = written(tmp_path, SAMPLES)
    assert [index.row_of(key) for key in SAMPLES] == [0, 1, 2]
    assert index.row_of("000000002") is None


def test_a_shard_without_samples_has_an_empty_index(tmp_path: Path) -> None:
    index = written(tmp_path, {})
    assert (len(index), index.places, index.name, index.tar_name) == (0, {}, "00000", "00000.tar")


@pytest.mark.parametrize("name", ["_dataset/index/00000.parquet", "00000_stats.json"])
def test_a_damaged_index_or_marker_is_named_with_its_shard(tmp_path: Path, name: str) -> None:
    written(tmp_path, SAMPLES)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(LposekitError, match=r"shard 00000 of .*index or commit marker cannot be read.*lposekit verify"):
        read_shard_index(DatasetLayout(tmp_path), 0)
