"""Contract: our folders are what other tools expect. The tars read in plain webdataset, in Ray Data and in Hugging Face
`datasets`, with the keys jpg, txt, json and pose.json; img2dataset in its incremental mode takes the folder for its own
and skips its shards.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lposekit.records import ImageRow, sample_key
from lposekit.shards.dataset import open_dataset
from pipelines.image.rows import posed_row
from tests.support.dataset_folder import RULES, make_dataset, person, solid_image
from tests.support.datasets import make_dataset_of


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


def test_every_sample_of_a_kind_has_the_same_members_so_that_loaders_that_infer_types_take_them(tmp_path: Path) -> None:
    # Mutation tried: no `txt` for an empty caption in `posed_row` -> red.
    extra: dict[str, object] = {"licence": None}
    captions = ["a", "", "b", ""]
    images = [_row(i, caption, extra) for i, caption in enumerate(captions)]
    rows = [posed_row(row, solid_image(i), "0" * 64, [person(12)], RULES) for i, row in enumerate(images)]
    layout = make_dataset_of(tmp_path / "d", [rows])
    assert {tuple(sample.members) for sample in open_dataset(layout.root)} == {("jpg", "json", "pose.json", "txt")}


def _row(number: int, caption: str, extra: dict[str, object]) -> ImageRow:
    return ImageRow(sample_key(0, number), f"http://a.example/{number}", caption, extra)


def test_hugging_face_datasets_loads_the_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: without `features`, a column that is empty in the first samples stops the load.
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets", reason="of the pinned set: `make setup`")
    rows = []
    for i in range(8):
        poses = person(12 + i % 2)
        poses.keypoints_K3[3] = np.nan if i > 5 else 1.0
        row = _row(i, f"caption {i}", {"licence": None if i < 6 else "cc0", "score": 0.5})
        rows.append(posed_row(row, solid_image(i), f"{i:064x}", [poses] * (1 + i % 2), RULES))
    layout = make_dataset_of(tmp_path / "d", [rows[:4], rows[4:]])
    tars = [str(layout.tar(shard)) for shard in layout.committed_shards()]
    how = {"data_files": tars, "split": "train", "cache_dir": str(tmp_path / "cache")}
    streamed = list(datasets.load_dataset("webdataset", streaming=True, **how))
    features = open_dataset(layout.root).hf_features()
    loaded = datasets.load_dataset("webdataset", features=features, **how)
    for found in (streamed, loaded):
        assert [row["__key__"] for row in found] == [f"00000000{i}" for i in range(8)]
        assert found[7]["txt"] == "caption 7"
        assert found[7]["json"]["licence"] == "cc0"
        assert found[7]["jpg"].size == (200, 200)
        assert len(found[7]["pose.json"]["persons"]) == 2
        assert found[7]["pose.json"]["persons"][0]["keypoints"][9] is None


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
