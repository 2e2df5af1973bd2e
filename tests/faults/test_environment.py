"""Contract: a build works with the C locale, a strict umask, another time zone, and a folder whose name
has spaces and quotes, to the same bytes; captions of every kind survive it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import lposekit
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.recipes import build_images as run
from tests.support.build_process import Build, content_digest
from tests.support.execute_here import execute_here
from tests.support.stub_build import served, stub_pages, stub_settings, write_rows


@pytest.mark.more
@pytest.mark.timeout(200)
@pytest.mark.case(54)
def test_locale_umask_and_odd_paths_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a b'c\"d \u00e4"
    folder.mkdir()
    old = os.umask(0o077)
    try:
        with served(stub_pages(8), tmp_path) as (_, path):
            run(stub_settings(path, tmp_path / "plain"), execute=execute_here)
            listed = write_rows(folder / "the list.jsonl", [])
            listed.write_bytes(path.read_bytes())
            build = Build(
                listed,
                folder / "out put",
                rows_per_shard=4,
                extra=("--pose.batch-size", "4"),
                environment={"LANG": "C", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"},
            )
            assert build.finish() == 0, build.log_path.read_text()
    finally:
        os.umask(old)
    assert verify_dataset(build.output) == []
    assert len(lposekit.open_dataset(build.output)) == 8
    assert content_digest(build.layout) == content_digest(DatasetLayout(tmp_path / "plain"))


@pytest.mark.case(20)
def test_captions_of_every_kind_come_back_as_they_are(tmp_path: Path) -> None:
    captions = [
        "",
        "line\nbreak",
        "\u05e9\u05dc\u05d5\u05dd \u202e rtl",
        "\U0001f3c3 runs",
        "nul\x00here",
        "x" * 200_000,
    ]
    with served(stub_pages(len(captions)), tmp_path, caption=captions) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    dataset = lposekit.open_dataset(tmp_path / "d")
    stored = [sample.caption for sample in dataset]
    assert stored[:4] == captions[:4]
    assert "\x00" not in stored[4]
    assert len(stored[5]) == 10_000
    assert [sample.metadata["caption"] for sample in dataset] == stored == dataset.rows()["caption"].to_pylist()
