"""Contract: our folders are what other tools expect. The tars read in plain webdataset and in Ray Data, with the keys
jpg, txt, json and pose.json; img2dataset in its incremental mode takes the folder for its own and skips its shards.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.dataset_folder import make_dataset


def test_plain_webdataset_reads_the_tars(tmp_path: Path) -> None:
    import webdataset

    layout = make_dataset(tmp_path / "d")
    tars = [str(layout.tar(shard)) for shard in layout.committed_shards()]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 8
    assert {"jpg", "txt", "json", "pose.json"} <= samples[0].keys()
    assert samples[0]["jpg"].shape == (200, 200, 3)
    assert samples[3]["txt"] == "caption 5"
    assert samples[0]["pose.json"]["persons"][0]["num_detected"] == 12


@pytest.mark.more
@pytest.mark.usefixtures("ray_local")
def test_ray_data_reads_the_folder(tmp_path: Path) -> None:
    import ray

    layout = make_dataset(tmp_path / "d")
    rows = ray.data.read_webdataset(str(layout.root), file_extensions=["tar"]).take_all()
    assert sorted(row["__key__"] for row in rows) == [f"0000{s}000{r}" for s in (0, 1) for r in (0, 1, 4, 5)]
    assert all({"jpg", "txt", "json", "pose.json"} <= row.keys() for row in rows)


@pytest.mark.more  # the test below compares columns and counts
def test_img2dataset_takes_the_folder_for_its_own_and_skips_its_shards(tmp_path: Path) -> None:
    import img2dataset

    layout = make_dataset(tmp_path / "d", num_shards=2, rows_per_shard=8)
    before = {path.name: path.read_bytes() for path in layout.root.iterdir() if path.is_file()}
    urls = tmp_path / "urls.jsonl"
    urls.write_text("".join(json.dumps({"url": f"http://127.0.0.1:9/{i}", "caption": ""}) + "\n" for i in range(24)))
    sigint = signal.getsignal(signal.SIGINT)
    img2dataset.download(
        url_list=str(urls),
        input_format="jsonl",
        url_col="url",
        caption_col="caption",
        output_folder=str(layout.root),
        output_format="webdataset",
        processes_count=1,
        thread_count=2,
        number_sample_per_shard=8,
        timeout=1,
        incremental_mode="incremental",
    )
    signal.signal(signal.SIGINT, sigint)  # it leaves a handler of its own behind
    after = {path.name: path.read_bytes() for path in layout.root.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    assert "00002_stats.json" in after, "img2dataset did the third shard, which was not there"


def test_the_parquet_and_stats_have_img2datasets_columns_with_its_meanings(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    table = pq.read_table(layout.parquet(0))
    assert {
        "url",
        "caption",
        "key",
        "status",
        "error_message",
        "width",
        "height",
        "original_width",
        "original_height",
        "exif",
        "sha256",
    } <= set(table.column_names)
    statuses = table["status"].to_pylist()
    assert statuses == ["success", "success", "failed_to_resize", "failed_to_download"] * 2
    stats = layout.read_stats(0).as_json()
    assert (stats["count"], stats["successes"]) == (8, 4)
    assert stats["failed_to_download"] + stats["failed_to_resize"] == 4
    assert {"duration", "start_time", "end_time", "status_dict"} <= stats.keys()
