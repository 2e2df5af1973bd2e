"""Contract: `refilter` applies another keep rule from the stored poses, without fetching and without a model, into a
new folder; `retry` fetches chosen rows again, in place, and leaves every other row as it was, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import lposekit
from lposekit.errors import UsageError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.image import refilter
from pipelines.recipes import build_images as run
from pipelines.recipes import retry
from tests.support.build_process import content_digest
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.stub_build import served, stub_pages, stub_settings
from tests.support.stub_images import stub_image


def _outcomes(folder: Path) -> list[str]:
    return lposekit.open_dataset(folder).rows()["outcome"].to_pylist()


def _bytes(folder: Path) -> dict[str, dict[str, bytes]]:
    return {sample.key: sample.members for sample in lposekit.open_dataset(folder)}


def test_a_tighter_rule_drops_samples_and_keeps_the_others_as_they_are(tmp_path: Path) -> None:
    with served(stub_pages(8, num_detected={0: 9, 1: 17, 2: 10, 3: 8}), tmp_path) as (server, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
        hits = len(server.hits)
        report = refilter.run(tmp_path / "d", tmp_path / "tight", {"min_detected": 0.6})
        assert len(server.hits) == hits, "refilter fetched something"
    assert report.exit_code == 0
    assert _outcomes(tmp_path / "d") == ["kept", "kept", "kept", "few_keypoints", *["kept"] * 4]
    assert _outcomes(tmp_path / "tight") == ["few_keypoints", "kept", "few_keypoints", "few_keypoints", *["kept"] * 4]
    assert verify_dataset(tmp_path / "tight") == []
    old, new = _bytes(tmp_path / "d"), _bytes(tmp_path / "tight")
    assert len(new) == 5
    assert all(new[key]["jpg"] == old[key]["jpg"] and new[key]["txt"] == old[key]["txt"] for key in new)
    assert lposekit.open_dataset(tmp_path / "tight").card.keep_rule["min_detected"] == 0.6


def test_a_looser_rule_lists_the_rows_whose_pixels_are_missing_and_retry_fetches_them_without_a_model(
    tmp_path: Path,
) -> None:
    # Mutation tried: load_retry that knows no poses -> the stub is asked again and rejects the changed image's poses.
    with served(stub_pages(4, num_detected={1: 6, 2: 5, 3: 2}), tmp_path) as (server, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
        report = refilter.run(tmp_path / "d", tmp_path / "loose", {"min_detected": 0.25})
        assert any("2 rows pass this rule" in note for note in report.notes)
        assert _outcomes(tmp_path / "loose") == ["kept", "few_keypoints", "few_keypoints", "few_keypoints"]
        server.pages["/2.jpg"] = Page(stub_image(50, num_detected=17))
        again = retry(tmp_path / "loose", ["few_keypoints"], allow_private_addresses=True, execute=execute_here)
    assert again.exit_code == 0
    assert _outcomes(tmp_path / "loose") == ["kept", "kept", "hash_mismatch", "few_keypoints"]
    assert verify_dataset(tmp_path / "loose") == []


def test_refilter_never_writes_into_the_folder_it_reads(tmp_path: Path) -> None:
    with served(stub_pages(4), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    with pytest.raises(UsageError, match="another folder"):
        refilter.run(tmp_path / "d", tmp_path / "d", {})
    dry = refilter.run(tmp_path / "d", None, {"min_detected": 0.9}, dry_run=True)
    assert dry.outcomes == {"few_keypoints": 4}


def test_refilter_drops_duplicates_over_the_whole_dataset(tmp_path: Path) -> None:
    pages = stub_pages(8)
    pages["/6.jpg"] = pages["/1.jpg"]
    with served(pages, tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    refilter.run(tmp_path / "d", tmp_path / "unique", {}, dedup=True)
    assert [row for row, outcome in enumerate(_outcomes(tmp_path / "unique")) if outcome == "duplicate"] == [6]
    # Mutation tried: duplicates dropped whether asked for or not -> red.
    refilter.run(tmp_path / "d", tmp_path / "all", {})
    assert _outcomes(tmp_path / "all") == ["kept"] * 8


def test_refilter_goes_on_where_it_was_stopped_and_leaves_what_is_committed(tmp_path: Path) -> None:
    # Mutation tried: committed shards written again -> the first tar is another file.
    with served(stub_pages(8), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    layout = DatasetLayout(tmp_path / "new")
    refilter.run(tmp_path / "d", layout.root, {})
    before, files = content_digest(layout), [layout.tar(shard).stat().st_ino for shard in (0, 1)]
    layout.stats(1).unlink()
    refilter.run(tmp_path / "d", layout.root, {})
    assert content_digest(layout) == before
    assert layout.tar(0).stat().st_ino == files[0]


def test_retry_fetches_only_the_outcomes_named_and_leaves_the_other_samples_as_they_were(tmp_path: Path) -> None:
    pages = stub_pages(8)
    pages["/1.jpg"], pages["/6.jpg"] = Page(b"", status=503), Page(b"", status=404)
    with served(pages, tmp_path) as (server, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
        before = _bytes(tmp_path / "d")
        assert _outcomes(tmp_path / "d")[1] == "http_5xx"
        server.pages |= stub_pages(8)
        hits = len(server.hits)
        path.unlink()  # the rows are in the dataset: the list may be gone
        report = retry(tmp_path / "d", ["http_5xx", "dns"], allow_private_addresses=True, execute=execute_here)
        assert [hit.path for hit in server.hits[hits:]] == ["/1.jpg"]
    assert report.exit_code == 0
    assert _outcomes(tmp_path / "d") == ["kept"] * 6 + ["http_4xx", "kept"]
    after = _bytes(tmp_path / "d")
    assert {key: after[key] for key in before} == before
    assert after["000000001"]["txt"] == b"row 1"
    assert verify_dataset(tmp_path / "d") == []


def test_retry_refuses_an_outcome_that_does_not_exist_and_names_the_nearest(tmp_path: Path) -> None:
    with served(stub_pages(4), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    # mutation: `nearest` left out
    for typed, meant in (("dsn", "dns"), ("timout", "timeout")):
        with pytest.raises(UsageError, match=rf"{typed}: no such outcome to retry\. Did you mean {meant}\?"):
            retry(tmp_path / "d", [typed])
    with pytest.raises(UsageError, match="kept: no such outcome to retry") as refusal:
        retry(tmp_path / "d", ["kept"])
    assert "kept" not in str(refusal.value).partition("Known:")[2]
