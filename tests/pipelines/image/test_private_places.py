"""Contract: a dataset card says nothing of the folders of the machine that built it; what `retry` needs of them is kept
beside it, can add nothing else, and is not needed elsewhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lposekit.errors import LposekitError
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.private import published, whole_settings
from lposekit.shards.verify import verify_dataset
from pipelines.image.refilter import run as refilter
from pipelines.image.settings import BuildImagesSettings
from pipelines.recipes import build_images, retry
from tests.support.execute_here import execute_here
from tests.support.stub_build import served, stub_pages, stub_settings


def _settings(path: Path, output: Path) -> BuildImagesSettings:
    settings = stub_settings(path, output)
    blocklist = path.with_name("blocked.txt")
    blocklist.write_text("http://blocked.example/\n")
    return replace(settings, fetch=replace(settings.fetch, blocklist=(blocklist,)))


# Mutations tried: `claim_folder` that writes the card as it is; without its private copy (retry finds no blocklist);
# refilter with the card's own settings (the same, in the new folder); `retry` that needs the private copy -> red each.
@pytest.mark.case(78)
def test_the_card_names_no_folder_and_retry_still_finds_its_files(tmp_path: Path) -> None:
    with served(stub_pages(4, num_detected={2: 5}), tmp_path) as (_, path):
        assert build_images(_settings(path, tmp_path / "d"), execute=execute_here).exit_code == 0
        layout, new = DatasetLayout(tmp_path / "d"), DatasetLayout(tmp_path / "new")
        refilter(layout.root, new.root, {"min_detected": 0.25})
        for each in (layout, new):
            assert str(tmp_path) not in each.card.read_text()
            assert str(path) in each.private.read_text()
            assert verify_dataset(each.root) == []
            assert (
                retry(each.root, ["few_keypoints"], allow_private_addresses=True, execute=execute_here).exit_code == 0
            )
            assert str(tmp_path) not in each.card.read_text()
    settings = read_card(layout).settings or {}
    assert (settings["input"], settings["output"]) == (["list.jsonl"], "d")
    assert settings["fetch.blocklist"] == ["blocked.txt"]


@pytest.mark.case(78)
def test_a_folder_without_its_private_copy_can_be_retried(tmp_path: Path) -> None:
    with served(stub_pages(4, num_detected={2: 5}), tmp_path) as (_, path):
        build_images(stub_settings(path, tmp_path / "d"), execute=execute_here)
        shutil.move(tmp_path / "d", tmp_path / "published")
        path.unlink()
        (tmp_path / "published" / "_dataset" / "private.json").unlink()
        report = retry(tmp_path / "published", ["http_4xx"], allow_private_addresses=True, execute=execute_here)
    assert report.exit_code == 0


@pytest.mark.case(78)
def test_the_private_copy_adds_folders_and_nothing_else(tmp_path: Path) -> None:
    # Mutation tried: `_whole` that always takes what is kept -> red.
    layout = DatasetLayout(tmp_path)
    layout.meta.mkdir()
    card = DatasetCard(settings={"input": ["a.jsonl"], "workers": 2, "fetch.robots": True, "output": "d"})
    kept = {"input": ["/data/a.jsonl"], "workers": 200, "fetch.robots": False, "output": "/data/other", "more": 1}
    layout.private.write_text(json.dumps({"settings": kept}))
    assert whole_settings(layout, card) == {
        "input": ["/data/a.jsonl"],
        "workers": 2,
        "fetch.robots": True,
        "output": "d",
    }
    layout.private.write_text("[]")
    with pytest.raises(LposekitError, match=r"private\.json: cannot be read .*Remove it"):
        whole_settings(layout, card)


@pytest.mark.case(78)
def test_every_part_of_a_card_is_without_folders() -> None:
    # Mutations tried: each of settings, models, extra and warnings left as it is; the start of a text alone looked at
    # -> red each.
    card = DatasetCard(
        settings={
            "input": ["/home/me/lists/a.parquet", "s3://bucket/b.parquet", "lists/c.csv"],
            "root": "C:\\me\\videos",
            "filter": "clip=/home/me/clip.bin",
            "note": "see file:///home/me/notes.txt",
            "agent": "lposekit (+https://images.example/of/us)",
        },
        models={"pose": {"name": "stub", "file": "/home/me/weights/a.pth"}},
        warnings=["/home/me/lists/a.parquet looks old"],
        extra={"base": "/home/me/base/", "of": ["image", "file:///home/me/x"], "rate": 1 / 3},
    )
    found = published(card)
    assert "me" not in json.dumps([found.settings, found.models, found.extra, found.warnings]).replace("name", "")
    assert found.settings == {
        "input": ["a.parquet", "s3://bucket/b.parquet", "lists/c.csv"],
        "root": "videos",
        "filter": "clip.bin",
        "note": "notes.txt",
        "agent": "lposekit (+https://images.example/of/us)",
    }
    assert found.extra == {"base": "base", "of": ["image", "x"], "rate": 1 / 3}
    assert list(found.warnings or ()) == ["a.parquet looks old"]
