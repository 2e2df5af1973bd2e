"""Contract: a shard is visible whole or not at all, the same samples give the same bytes, and a replacement that is
killed half-way is completed by the next run without a lost row, on the file level.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

import lposekit
from lposekit.errors import LposekitError, UsageError
from lposekit.shards.card import DatasetCard, claim_folder
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.verify import verify_dataset
from lposekit.shards.writer import finish_replacements, remove_partials
from tests.support.children import children
from tests.support.dataset_folder import make_dataset, make_results, write_shard

FILES = ("00000.tar", "00000.parquet", "_dataset/index/00000.parquet", "_dataset/thumbnails/00000.parquet")


def test_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    # Mutation tried: mtime=None in ShardWriter._open -> tars differ.
    first, second = make_dataset(tmp_path / "a", 1), make_dataset(tmp_path / "b c'd", 1)
    assert [sha256_file(first.root / name) for name in FILES] == [sha256_file(second.root / name) for name in FILES]


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    dataset = lposekit.open_dataset(make_dataset(tmp_path / "d").root)
    assert [sample.key for sample in dataset] == [f"0000{s}000{r}" for s in (0, 1) for r in (0, 1, 4, 5)]
    sample = dataset[5]
    assert sample.caption == "caption 1"
    assert sample.rgb_HWC.shape == (200, 200, 3)
    assert abs(int(sample.rgb_HWC[100, 100, 1]) - 31) <= 2
    assert sample.persons[0].keypoints_K3.shape == (17, 3)
    assert sample.metadata["licence"] == "cc0"
    assert sample.skeleton().shape == (200, 200, 3)
    assert sample.skeleton().any()
    assert sample.skeleton(size=(64, 96)).shape == (64, 96, 3)
    assert len(dataset.rows()) == 16
    assert len(dataset.thumbnails()) == 4


def _write(root: Path, fault: str, rows: int) -> None:
    os.environ["LPOSEKIT_FAULT"] = fault
    write_shard(DatasetLayout(root), 0, make_results(0, 8)[:rows], run_id="second")


def _killed_write(root: Path, point: str, rows: int = 8) -> int | None:
    """Write shard 0 in a process of its own, which is killed at the point; how it ended."""
    process = children().Process(target=_write, args=(root, f"{point}@{root.parent / 'marker'}", rows))
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("point", ["shard:before_fsync", "shard:between_tar_and_parquet", "shard:before_stats"])
def test_a_write_killed_anywhere_leaves_no_visible_shard(tmp_path: Path, point: str) -> None:
    # Mutation tried: renaming the marker first in _rename_all -> the shard is visible after the kill.
    layout = make_dataset(tmp_path / "d", 0)
    assert _killed_write(layout.root, point) == -9
    assert layout.committed_shards() == []
    with pytest.raises(LposekitError, match="no committed shard"):
        lposekit.open_dataset(layout.root)
    assert verify_dataset(layout.root), "what the kill left is named"
    assert remove_partials(layout) > 0
    write_shard(layout, 0, make_results(0, 8))
    assert verify_dataset(layout.root) == []


@pytest.mark.parametrize(
    "point", ["shard:before_fsync", "shard:marker_set_aside", "shard:between_tar_and_parquet", "shard:before_stats"]
)
def test_a_replacement_killed_anywhere_ends_as_the_old_or_the_new_shard(tmp_path: Path, point: str) -> None:
    # Mutation tried: finish_replacements that only restores the old marker -> verify finds other bytes.
    layout = make_dataset(tmp_path / "d", 1)
    assert _killed_write(layout.root, point, rows=7) == -9
    finish_replacements(layout)
    remove_partials(layout)
    assert verify_dataset(layout.root) == []
    expected = 8 if point == "shard:before_fsync" else 7
    assert layout.read_stats(0).count == expected


@pytest.mark.case(29)
def test_full_disk_is_a_clear_error_and_leaves_no_final_name(tmp_path: Path) -> None:
    # A limit on the size of files makes the kernel refuse the write, as a full disk does (root ignores quotas).
    layout = make_dataset(tmp_path / "d", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(LposekitError, match=r"00000\.tar: the disk is full"):
            write_shard(layout, 0, make_results(0, 8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert layout.committed_shards() == []
    assert not layout.tar(0).exists()
    remove_partials(layout)  # as the next run does
    write_shard(layout, 0, make_results(0, 8))
    assert verify_dataset(layout.root) == []


def test_a_folder_of_other_settings_is_refused_with_the_differing_fields(tmp_path: Path) -> None:
    # Mutation tried: claim_folder that returns at once when there is a card -> no error.
    root = tmp_path / "d"
    root.mkdir()
    claim_folder(DatasetLayout(root), DatasetCard(fixed={"settings": {"image.size": 512, "sizes": (1, 2)}}))
    claim_folder(DatasetLayout(root), DatasetCard(fixed={"settings": {"image.size": 512, "sizes": (1, 2)}}))
    with pytest.raises(UsageError, match=r"settings\.image\.size: 512 -> 256"):
        claim_folder(DatasetLayout(root), DatasetCard(fixed={"settings": {"image.size": 256, "sizes": (1, 2)}}))


@pytest.mark.case(30)
def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"thesis\.docx"):
        claim_folder(DatasetLayout(tmp_path), DatasetCard(fixed={}))
