"""Contract: a report of a table that a stranger wrote shows what there is, or names shard, sample and field."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError
from lposekit.report.clip_strips import ClipFacts
from lposekit.report.html import write_report
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.stats import FileFacts, write_stats
from lposekit.shards.verify import verify_dataset
from tests.lposekit.report.test_images import Page
from tests.support.dataset_folder import make_dataset
from tests.support.train_data import write_dataset


def _rewrite(layout: DatasetLayout, table: pa.Table) -> None:
    """Another table for shard 0, with a marker that vouches for it."""
    path, stats = layout.parquet(0), layout.read_stats(0)
    pq.write_table(table, path)
    files = {**stats.files, path.name: FileFacts(path.stat().st_size, sha256_file(path))}
    write_stats(layout.stats(0), stats.with_facts({"files": {name: asdict(facts) for name, facts in files.items()}}))


@pytest.fixture
def clips(videos: DatasetLayout, tmp_path: Path) -> DatasetLayout:
    shutil.copytree(videos.root, tmp_path / "clips")
    return DatasetLayout(tmp_path / "clips")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return make_dataset(tmp_path_factory.mktemp("images") / "d", 1)


def test_clips_without_durations_and_cuts_are_shown_as_verify_passes_them(clips: DatasetLayout) -> None:
    # Mutation tried: columns that are missing not filled in -> red (KeyError: 'duration_s').
    table = pq.read_table(clips.parquet(0))
    names = {"duration_s", "cuts_s", "clip_duration_s", "clip_motion", "caption", "url", "error_message"}
    _rewrite(clips, table.drop_columns([*names & set(table.column_names)]))
    assert verify_dataset(clips.root) == []
    words = Page(write_report(clips.root)).words()
    assert "The totals do not add up" not in words


def test_a_dataset_of_clips_with_the_least_columns_is_shown(tmp_path: Path) -> None:
    assert write_report(write_dataset(tmp_path / "d", [2], "video")).is_file()


# Mutations tried: without the cast, without the check for two of a name, without the `except` of either -> red.
@pytest.mark.case(75)
@pytest.mark.parametrize("name", ["cuts_s", "duration_s", "num_clips", "clip_keys", "key", "caption"])
@pytest.mark.parametrize("how", ["another type", "twice"])
def test_a_column_of_another_type_is_named(clips: DatasetLayout, name: str, how: str) -> None:
    table = pq.read_table(clips.parquet(0))
    strange = pa.array([[{"a": 1}]] * len(table))
    position = table.column_names.index(name)
    table = table.set_column(position, name, strange) if how == "another type" else table.append_column(name, strange)
    _rewrite(clips, table)
    with pytest.raises(LposekitError, match=rf"00000\.parquet: .*(the column {name} cannot be read|not unique|name)"):
        write_report(clips.root)


@pytest.mark.case(75)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_durations_that_cannot_be_are_left_out(clips: DatasetLayout, value: float) -> None:
    # Mutation tried: without `_sane`, without `_seconds` -> red.
    table = pq.read_table(clips.parquet(0))
    for name in ("duration_s", "cuts_s", "clip_duration_s", "clip_motion"):
        field = table.schema.field(name)
        cells = [value if field.type == pa.float64() else [value, 1.0]] * len(table)
        table = table.set_column(table.column_names.index(name), field, pa.array(cells, field.type))
    _rewrite(clips, table)
    text = re.sub(r'"data:[^"]*"', "", write_report(clips.root).read_text())
    assert not re.search(r"\b(nan|inf)\b|e\+\d|-1\.0 s|1e300", text, re.IGNORECASE)


@pytest.mark.case(75)
@pytest.mark.parametrize(("name", "count"), [("keypoints", 48), ("bbox", 3)])
def test_persons_with_another_number_of_keypoints_are_named(images: DatasetLayout, name: str, count: int) -> None:
    # Mutation tried: without the count -> red (a reshape that fails, or, worse, fits).
    table = pq.read_table(images.parquet(0))
    rows = [[{**each, name: each[name][:count]} for each in cell or []] for cell in table["persons"].to_pylist()]
    field = table.schema.field("persons")
    changed = table.set_column(table.column_names.index("persons"), field, pa.array(rows, field.type))
    before = images.parquet(0).read_bytes()
    _rewrite(images, changed)
    try:
        with pytest.raises(LposekitError, match=rf"00000\.parquet: persons: {name} has {count} values"):
            write_report(images.root)
    finally:
        images.parquet(0).write_bytes(before)


@pytest.mark.case(75)
def test_a_shard_that_became_a_link_is_named_by_the_report(images: DatasetLayout, tmp_path: Path) -> None:
    shutil.copytree(images.root, tmp_path / "d")
    layout = DatasetLayout(tmp_path / "d")
    layout.thumbnails(0).rename(tmp_path / "aside")
    layout.thumbnails(0).symlink_to(tmp_path / "aside")
    with pytest.raises(LposekitError, match=r"thumbnails/00000\.parquet: cannot be read .*a link"):
        write_report(layout.root)


@pytest.mark.case(75)
@pytest.mark.parametrize("data", [b'{"start_s": "0"}', b'{"end_s": NaN}', b'{"num_frames": -1}', b"[]", b'{"fps": []}'])
def test_a_clip_whose_json_is_damaged_is_named(videos: DatasetLayout, data: bytes) -> None:
    # Mutation tried: without the `except` of `ClipFacts` -> red.
    (shard, *_) = open_dataset(videos.root).shards
    with pytest.raises(LposekitError, match=r"shard .*00000\.tar: sample 0000000000000: json: "):
        ClipFacts.of(shard, "0000000000000", {"json": data})
