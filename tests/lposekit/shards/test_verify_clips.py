"""Contract: in a folder of clips `verify_dataset` names every row that contradicts its clips, windows or marker.

Each damage keeps the bytes that its marker vouches for: the marker is written anew, so only the account can tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.verify import verify_dataset
from lposekit.shards.writer import ShardWriter
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import BuildClipsSettings, ClipSettings, EncodeSettings, ShotSettings
from tests.support.datasets import make_video_dataset
from tests.support.videos import moving, plain, write_video

CLIPS = BuildClipsSettings(
    shots=ShotSettings(detector="none"),
    clips=ClipSettings(length_frames=12, min_length_frames=6),
    encode=EncodeSettings(preset="ultrafast"),
)
Row = dict[str, Any]


@pytest.fixture
def clips(tmp_path: Path) -> DatasetLayout:
    """Three videos: two clips and a short rest, one clip, black."""
    size = (64, 64)
    images = ([moving(n, size=size) for n in range(28)], [moving(n, 1, size) for n in range(12)], [plain(0)] * 12)
    paths = [write_video(tmp_path / f"{number}.mp4", each) for number, each in enumerate(images)]
    return make_video_dataset(tmp_path / "d", [VideoRow(path.name, path=str(path)) for path in paths], CLIPS)


def _found(layout: DatasetLayout) -> str:
    return "\n".join(str(finding) for finding in verify_dataset(layout.root))


def _vouch(layout: DatasetLayout, **fields: Any) -> None:
    """Write the marker anew for the files as they are."""
    stats = {**json.loads(layout.stats(0).read_text()), **fields}
    for name in stats["files"]:
        path = layout.root / name
        stats["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    layout.stats(0).write_text(json.dumps(stats))


def _with_rows(layout: DatasetLayout, change: Callable[[list[Row]], object]) -> None:
    table = pq.read_table(layout.parquet(0))
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), layout.parquet(0))
    _vouch(layout)


def test_a_whole_folder_of_clips_has_no_findings(clips: DatasetLayout) -> None:
    assert [row["num_clips"] for row in pq.read_table(clips.parquet(0)).to_pylist()] == [2, 1, 0]
    assert verify_dataset(clips.root) == []


CONTRADICTIONS: dict[str, tuple[Callable[[list[Row]], object], str]] = {
    "a clip that is not there": (
        lambda rows: rows[1].update(clip_keys=["0000000010007"]),
        "rows name clips that are not there: ['0000000010007']",
    ),
    "a clip that no row names": (
        lambda rows: rows[1].update(clip_keys=[], num_clips=0, num_windows=0),
        "clips without a row: ['0000000010000']",
    ),
    "clips of another row": (
        lambda rows: (rows[0].update(clip_keys=rows[1]["clip_keys"] * 2), rows[1].update(clip_keys=[])),
        "row 000000000: 2 clips, but it names 1",
    ),
    "clips exchanged": (
        lambda rows: (
            rows[0].update(clip_keys=["0000000000000", "0000000010000"]),
            rows[1].update(clip_keys=["0000000000001"]),
        ),
        "row 000000000: names clips of another row",
    ),
    "a count of clips": (lambda rows: rows[0].update(num_clips=3), "row 000000000: 3 clips, but it names 2"),
    "a count of windows": (lambda rows: rows[0].update(num_windows=4), "row 000000000: 4 windows, 2 clips + 1 dropped"),
    "drops": (
        lambda rows: rows[2].update(dropped='{"black": 2}'),
        "row 000000002: 1 windows, 0 clips + 2 dropped",
    ),
    "a reason": (lambda rows: rows[2].update(dropped='{"dark": 1}'), "the rows add up to {'windows': 5"),
    "drops that are none": (lambda rows: rows[2].update(dropped="[1]"), "row 000000002: 'list' object"),
    "drops that are no JSON": (lambda rows: rows[2].update(dropped="{"), "row 000000002: Expecting"),
    "an outcome": (lambda rows: rows[2].update(outcome="kept"), "row 000000002: its outcome is kept, with 0 clips"),
    "a kept row turned down": (
        lambda rows: rows[1].update(outcome="no_clip"),
        "row 000000001: its outcome is no_clip, with 1 clips",
    ),
}


# Mutation tried: without `_verify_clips` every case passes unseen; each of its comparisons taken out turns its own red.
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_row_that_contradicts_its_clips_or_windows_is_found(clips: DatasetLayout, case: str) -> None:
    change, finding = CONTRADICTIONS[case]
    _with_rows(clips, change)
    assert finding in _found(clips)


@pytest.mark.parametrize("name", ["windows", "clips", "dropped"])
def test_a_marker_that_does_not_count_its_rows_is_found(clips: DatasetLayout, name: str) -> None:
    wrong = {"black": 1} if name == "dropped" else 9
    _vouch(clips, **{name: wrong})
    assert "the rows add up to {'windows': 5, 'clips': 3" in _found(clips)


def test_a_marker_whose_windows_add_up_though_the_rows_do_not_is_found(clips: DatasetLayout) -> None:
    stats = clips.read_stats(0)
    _vouch(clips, windows=(stats.windows or 0) + 1, dropped={**(stats.dropped or {}), "black": 2})
    assert "its commit says {'windows': 6" in _found(clips)


# Mutation tried: the columns of every kind not looked for -> KeyError.
@pytest.mark.parametrize("names", [["dropped", "clip_keys"], ["outcome"], ["key", "outcome"]])
def test_a_table_without_the_columns_that_are_checked_is_found(clips: DatasetLayout, names: list[str]) -> None:
    table = pq.read_table(clips.parquet(0))
    pq.write_table(table.drop_columns(names), clips.parquet(0))
    _vouch(clips)
    assert f"has no column {', '.join(names)}" in _found(clips)


def test_a_clip_added_with_its_index_and_marker_has_no_row(clips: DatasetLayout) -> None:
    stats, table = clips.read_stats(0), pq.read_table(clips.parquet(0))
    writer = ShardWriter(clips, 0, "forged")
    for key in ("0000000000000", "0000000000001", "0000000010000", "0000000020000"):
        writer.add(key, {"mp4": b"clip", "txt": b"", "json": b"{}"})
    writer.commit(table, stats)
    assert "clips without a row: ['0000000020000']" in _found(clips)
