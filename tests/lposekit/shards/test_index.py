"""Contract of the shard index: for every sample, each member's bytes lie where the index says, also in a tar whose
samples have different members, and in one without samples."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError
from lposekit.shards.index import ShardIndex, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.tables import read_table
from lposekit.shards.writer import INDEX_SCHEMA, ShardWriter
from lposekit.store import LocalStore

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


# Mutations tried: `_refuse_wild_places` without each of its comparisons -> red.
@pytest.mark.case(75)
@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 2**40), (2**40, 1), (2**63 - 1, 2**63 - 1), (-5, 1), (-1, 1), (0, -1), (512, -(2**40)), (0, 10**9)],
)
def test_a_member_outside_its_tar_is_refused_with_sample_and_member(tmp_path: Path, offset: int, size: int) -> None:
    written(tmp_path, SAMPLES)
    path = DatasetLayout(tmp_path).index(0)
    rows = pq.read_table(path).to_pylist()
    rows[1]["members"][0] |= {"offset": offset, "size": size}
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), path)
    name, key = rows[1]["members"][0]["name"], rows[1]["key"]
    with pytest.raises(LposekitError, match=rf"sample {key}: member '{name}' is said to have {size} bytes"):
        read_shard_index(DatasetLayout(tmp_path), 0)


@pytest.mark.case(75)
def test_a_member_longer_than_one_read_is_refused(tmp_path: Path) -> None:
    # Mutation tried: without the cap -> red.
    index = written(tmp_path, SAMPLES)
    layout = DatasetLayout(tmp_path)
    rows = pq.read_table(layout.index(0)).to_pylist()
    rows[0]["members"][0]["size"] = 2**31
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), layout.index(0))
    marker = layout.stats(0).read_text().replace(f'"bytes": {index.tar_bytes}', f'"bytes": {2**33}')
    layout.stats(0).write_text(marker)
    with pytest.raises(LposekitError, match=f"{2**31} bytes"):
        read_shard_index(layout, 0)


@pytest.mark.case(75)
def test_a_small_file_that_unfolds_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: without the sum -> red. The cap is lowered, so that the test needs no gigabytes.
    monkeypatch.setattr("lposekit.shards.tables.MAX_TABLE_BYTES", 2**22)
    for rows, fits in ((3, True), (5_000, False)):
        pq.write_table(pa.table({"caption": ["x" * 2**10] * rows}), tmp_path / "a.parquet", compression="zstd")
        assert (tmp_path / "a.parquet").stat().st_size < 20_000
        if fits:
            assert len(read_table(LocalStore(tmp_path), "a.parquet")) == rows
        else:
            with pytest.raises(ValueError, match="unfolds to more than 4194304 bytes"):
                read_table(LocalStore(tmp_path), "a.parquet")
