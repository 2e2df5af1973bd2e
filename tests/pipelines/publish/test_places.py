"""Contract: a push to a folder with images opens and verifies, never writes over what another hand put there, and
leaves no half shard behind.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import lposekit
from lposekit.cli import main
from lposekit.errors import UsageError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.fetch.removals import read_entries
from pipelines.job.lock import driver_lock
from pipelines.publish.destinations import LocalFolder
from pipelines.remove import remove
from tests.support.bad_server import BadServer
from tests.support.pushed_index import members_of, pushed


def test_with_images_the_dataset_opens_and_verifies(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutations tried: the source's own tables pushed -> the refused rows are told; thumbnails along -> red.
    _, dataset = built
    pushed(dataset, tmp_path / "public", with_images=True)
    assert verify_dataset(tmp_path / "public") == []
    public, original = members_of(tmp_path / "public"), members_of(dataset)
    assert public.keys() == original.keys()
    assert all(public[key]["jpg"] == original[key]["jpg"] for key in original)
    outcomes = lposekit.open_dataset(tmp_path / "public").rows()["outcome"].to_pylist()
    assert outcomes == ["kept"] * 6
    everything = b"".join(path.read_bytes() for path in (tmp_path / "public").rglob("*.*"))
    assert str(tmp_path).encode() not in everything
    assert b"/home/me" not in everything
    thumbnails = (tmp_path / "public" / "_dataset" / "thumbnails").iterdir()
    assert sum(pq.read_table(path).num_rows for path in thumbnails) == 0


def test_a_push_into_its_source_or_over_another_dataset_is_refused(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutations tried: the place not compared with the source; no look at what lies there -> a dataset is lost.
    _, dataset = built
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    kinds = ("*.tar", "*.parquet", "*.json")
    before = {path: path.read_bytes() for kind in kinds for root in (dataset, other) for path in root.rglob(kind)}
    for place in (dataset, dataset / "public", other):
        with pytest.raises(UsageError, match="--to"):
            pushed(dataset, place)
        assert all(path.read_bytes() == data for path, data in before.items())


def test_a_readme_of_others_stays(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: written over -> red.
    _, dataset = built
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "README.md").write_text("mine")
    for _ in range(2):
        pushed(dataset, tmp_path / "site")
        assert (tmp_path / "site" / "README.md").read_text() == "mine"
    assert (tmp_path / "site" / "00000.parquet").is_file()


def test_a_push_while_a_build_or_a_removal_is_at_work_is_refused(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: no lock -> red.
    _, dataset = built
    with driver_lock(DatasetLayout(dataset), "other"), pytest.raises(UsageError, match="is being built"):
        pushed(dataset, tmp_path / "index")


def test_an_old_marker_does_not_stand_beside_new_files(
    built: tuple[BadServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: the marker left until its turn -> a shard that verify calls damaged.
    _, dataset = built
    pushed(dataset, tmp_path / "public", with_images=True)
    put = LocalFolder.put

    def put_until_the_second_shard(place: LocalFolder, name: str, path: Path) -> None:
        put(place, name, path)
        if name == "00001.tar":
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalFolder, "put", put_until_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        pushed(dataset, tmp_path / "public", with_images=True)
    assert sorted(path.name for path in (tmp_path / "public").glob("*_stats.json")) == [
        *("00000_stats.json", "00002_stats.json"),
    ]


def test_a_later_push_takes_away_what_is_no_longer_there_and_leaves_foreign_files(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutation tried: nothing removed at the end -> the removed row's shard stays.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    (tmp_path / "index" / "NOTES.md").write_text("mine")
    listed = tmp_path / "removals.txt"
    listed.write_text("000020000\n000020001\n")
    remove(dataset, read_entries(listed))
    pushed(dataset, tmp_path / "index")
    names = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert names == ["00000.parquet", "00001.parquet", "NOTES.md", "README.md", "_dataset", "index.html"]


def test_a_dry_run_lists_the_files_and_writes_none(
    built: tuple[BadServer, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, dataset = built
    assert main(["push", str(dataset), "--to", str(tmp_path / "index"), "--allow-private-addresses", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "would push an index without images" in printed
    assert "00002.parquet" in printed
    assert not (tmp_path / "index").exists()
