"""Contract of `lposekit remove`: what a list names is gone from every file of a dataset and from all that was made of
it, the rest is as it was, and nothing brings it back; a removal that is killed ends when it is run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import lposekit
from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from lposekit.report.html import write_report
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.verify import verify_dataset
from lposekit.shards.writer import ShardWriter
from pipelines.fetch.removals import parse_entries, read_removals, traits, write_removals
from pipelines.image import refilter
from pipelines.recipes import build_images, build_poses, build_videos, retry
from pipelines.remove import RemoveReport, remove
from pipelines.video.clips.settings import ClipSettings, EncodeSettings, ShotSettings
from pipelines.video.poses.settings import PosesSettings, VideoPoseSettings
from pipelines.video.rows import CLIP_DIGITS as VIDEO_CLIP_DIGITS
from tests.support.build_process import content_digest
from tests.support.dataset_folder import make_dataset
from tests.support.execute_here import execute_here
from tests.support.fixtures import REPOSITORY
from tests.support.pages import Page
from tests.support.posed_videos import CLIP_FRAMES, video
from tests.support.stub_build import served, stub_pages, stub_settings
from tests.support.video_build import listed
from trainer.run.trained_on import CLIP_DIGITS, dataset_digest, runs_of


def take_out(folder: Path, *lines: str, **how: object) -> RemoveReport:
    return remove(folder, parse_entries(lines, "list"), **how)  # type: ignore[arg-type]


def outcomes(folder: Path) -> list[str]:
    return lposekit.open_dataset(folder).rows()["outcome"].to_pylist()


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    return {sample.key: sample.members for sample in lposekit.open_dataset(folder)}


def without_account(layout: DatasetLayout) -> dict[str, str]:
    """The digests of a folder's files but for the markers, which say that the shard was another one before."""
    return {name: digest for name, digest in content_digest(layout).items() if not name.endswith("_stats.json")}


def files_with(folder: Path, *texts: str) -> list[str]:
    """The files of a folder in whose bytes one of the texts can be read."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and any(text.encode() in path.read_bytes() for text in texts)
    )


def test_a_line_is_told_by_its_form_and_what_is_none_of_them_is_reported_with_its_number(tmp_path: Path) -> None:
    # Mutation tried: wrong lines passed over -> nothing raised.
    digest = "AB" * 32
    lines = ["# a comment", "http://B.example:80/a.jpg#top ", "*.Example.org # all", digest, "000000007", ""]
    assert list(parse_entries(lines, "list")) == [
        ("url", "http://b.example/a.jpg"),
        ("domain", "example.org"),
        ("sha256", digest.lower()),
        ("key", "000000007"),
    ]
    with pytest.raises(UsageError, match=r"2 lines are no address.*\n  line 2: nonsense\n  line 3: ab12") as error:
        parse_entries(["a.example", "nonsense", "ab12"], "list")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "line",
    [
        "a.example/0/0.jpg",
        "a.example?x=1",
        "a.example#top",
        "me@a.example",
        "a.example:80",
        "127.0.0.1:28417/photos/camera.jpg",
        "[::1]:8080",
        "a.example\\0.jpg",
    ],
)
def test_a_url_without_a_scheme_is_refused_and_not_its_whole_domain_removed(tmp_path: Path, line: str) -> None:
    # Mutation tried: the host of whatever stands there.
    layout = make_dataset(tmp_path / "d", num_shards=1)
    before = members(layout.root)
    (tmp_path / "list.txt").write_text(f"000000001\n{line}\n")
    assert main(["remove", str(layout.root), "--list", str(tmp_path / "list.txt")]) == 2
    assert members(layout.root) == before
    assert not layout.removed.exists()
    assert list(parse_entries(["[::1]"], "list")) == [("domain", "::1")]


def test_a_comment_begins_after_white_space_on_every_line_and_a_fragment_without() -> None:
    # Mutation tried: lines with `://` taken whole.
    lines = ["http://a.example/1.jpg # asked on Monday", "http://a.example/2.jpg#top", "\t# http://a.example/3.jpg"]
    assert list(parse_entries(lines, "list")) == [("url", "http://a.example/1.jpg"), ("url", "http://a.example/2.jpg")]


@pytest.mark.parametrize("named", ["?token=abc&w=3", "?w=3", "?w=3&X-Amz-Date=1"])
def test_an_address_names_its_row_whether_it_comes_from_the_list_or_from_the_dataset(
    tmp_path: Path, named: str
) -> None:
    # Mutations tried: entries, or rows, compared in full.
    with served(stub_pages(4), tmp_path) as (server, path):
        path.write_text(path.read_text().replace("/0.jpg", "/0.jpg?token=abc&w=3"))
        server.pages["/0.jpg?token=abc&w=3"] = server.pages["/0.jpg"]
        run = tmp_path / "d"
        build_images(stub_settings(path, run), execute=execute_here)
        rows = lposekit.open_dataset(run).rows()["url"].to_pylist()
        assert f"{server.url}/0.jpg?w=3" in rows
        assert take_out(run, f"{server.url}/0.jpg{named}").unmatched == ()
        [gone] = [i for i, outcome in enumerate(outcomes(run)) if outcome == "removed"]
        assert gone == rows.index(f"{server.url}/0.jpg?w=3")
        fresh = DatasetLayout(tmp_path / "fresh")
        fresh.meta.mkdir(parents=True)
        shutil.copy(DatasetLayout(run).removed, fresh.removed)
        hits = len(server.hits)
        build_images(stub_settings(path, fresh.root), execute=execute_here)
        assert outcomes(fresh.root) == outcomes(run)
        assert not any("token" in hit.path for hit in server.hits[hits:])


def test_what_is_named_by_url_domain_hash_or_key_is_gone_from_every_file_and_the_rest_is_as_it_was(
    tmp_path: Path,
) -> None:
    # Mutations tried: `removed_columns` that keeps the caption; `_drop_pages` and the new report left out; thumbnails
    # carried along; only the row's own sha256 compared.
    layout = make_dataset(tmp_path / "d", num_shards=3)
    before, rows = members(layout.root), lposekit.open_dataset(layout.root).rows().to_pylist()
    write_report(layout.root)
    write_report(layout.root, public=True)
    stored_jpg = hashlib.sha256(before["000010001"]["jpg"]).hexdigest()
    report = take_out(
        layout.root,
        "http://a.example/0/0.jpg",  # kept
        "http://a.example/0/2.jpg",  # turned down, with a thumbnail
        rows[5]["sha256"],  # of the file that was fetched
        stored_jpg,  # of the file that is stored, in each of the shards
        "000010003",  # failed on the network
        "https://elsewhere.example/x.jpg",
        "nobody.example",
    )
    assert report.unmatched == ("https://elsewhere.example/x.jpg", "nobody.example")
    assert report.samples == ("000000000", "000000001", "000000005", "000010001", "000020001")
    assert (report.rows, report.shards) == (7, 3)
    assert verify_dataset(layout.root) == []
    gone = [0, 1, 2, 5, 9, 11, 17]
    after = lposekit.open_dataset(layout.root).rows().to_pylist()
    assert [i for i, row in enumerate(after) if row["outcome"] == "removed"] == gone
    assert {name for i in gone for name, value in after[i].items() if value is not None} == {
        "key",
        "outcome",
        "status",
        "error_message",
    }
    assert [row for i, row in enumerate(after) if i not in gone] == [row for i, row in enumerate(rows) if i not in gone]
    assert members(layout.root) == {key: value for key, value in before.items() if key not in report.samples}
    assert set(lposekit.open_dataset(layout.root).thumbnails()["key"].to_pylist()) == {
        "000000006",
        "000010002",
        "000010006",
        "000020002",
        "000020006",
    }
    assert lposekit.open_dataset(layout.root).card.totals.outcomes["removed"] == 7  # type: ignore[union-attr]
    for text in ("http://a.example/0/0.jpg", "http://a.example/1/3.jpg", "elsewhere.example", "nobody.example"):
        assert files_with(layout.root, text) == []
    assert not (layout.report.parent / "public.html").exists()
    assert "taken out of the dataset" in layout.report.read_text(encoding="utf-8")


def test_a_domain_stands_for_its_subdomains_and_not_for_names_that_end_alike(tmp_path: Path) -> None:
    # Mutation tried: `host.endswith(domain)`.
    layout = make_dataset(tmp_path / "d", num_shards=1)
    assert take_out(layout.root, "b.example", "xa.example", "a.example.org", dry_run=True).rows == 0
    domains = [text for kind, text in traits("http://www.site.example/a.jpg") if kind == "domain"]
    assert domains == ["www.site.example", "site.example", "example"]
    assert take_out(layout.root, "a.example").rows == 8
    assert lposekit.open_dataset(layout.root)[:] == []
    assert verify_dataset(layout.root) == []


def test_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d")
    write_report(layout.root)
    before = {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}
    report = take_out(layout.root, "000000000", "000010001", dry_run=True)
    assert (report.rows, report.samples) == (2, ("000000000", "000010001"))
    assert {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()} == before


def test_no_retry_resume_or_refilter_brings_back_what_was_removed(tmp_path: Path) -> None:
    # Mutations tried: ImageWorker without `read_removals`; `_stored` that does not look at the sha256; refilter that
    # does not pass the list on.
    pages = stub_pages(12)
    twin = hashlib.sha256(pages["/1.jpg"].body).hexdigest()
    pages["/2.jpg"], pages["/9.jpg"] = Page(b"", status=503), pages["/1.jpg"]
    with served(pages, tmp_path) as (server, path):
        run = tmp_path / "d"
        build_images(stub_settings(path, run), execute=execute_here)
        layout = DatasetLayout(run)
        layout.stats(2).unlink()  # as if the build had been stopped before its last shard
        take_out(run, f"{server.url}/0.jpg", f"{server.url}/2.jpg", twin, f"{server.url}/8.jpg", f"{server.url}/10.jpg")
        assert outcomes(run) == ["removed", "removed", "removed", "kept", *["kept"] * 4]
        server.pages["/2.jpg"] = stub_pages(3)["/2.jpg"]
        hits = len(server.hits)
        retry(run, ["http_5xx", "few_keypoints"], allow_private_addresses=True, execute=execute_here)
        report = build_images(stub_settings(path, run), execute=execute_here)
        assert sorted(hit.path for hit in server.hits[hits:]) == ["/11.jpg", "/9.jpg"], (
            "a removed address was asked for"
        )
        with pytest.raises(UsageError, match="no such outcome to retry"):
            retry(run, ["removed"], execute=execute_here)
        assert report.outcomes == {"kept": 6, "removed": 6}
        assert outcomes(run)[8:] == ["removed", "removed", "removed", "kept"]
        assert verify_dataset(run) == []
        assert files_with(run, f"{server.url}/10.jpg", f"{server.url}/9.jpg") == []

        remembered = tmp_path / "fresh" / "_dataset" / "removed.json"
        remembered.parent.mkdir(parents=True)
        shutil.copy(layout.removed, remembered)
        server.pages["/2.jpg"] = Page(b"", status=503)
        build_images(stub_settings(path, tmp_path / "fresh"), execute=execute_here)
        assert without_account(DatasetLayout(tmp_path / "fresh")) == without_account(layout)
        refilter.run(run, tmp_path / "loose", {"min_detected": 0.3})
        assert outcomes(tmp_path / "loose") == outcomes(run)
        assert DatasetLayout(tmp_path / "loose").removed.read_bytes() == layout.removed.read_bytes()


def test_refilter_run_again_keeps_what_was_removed_from_its_own_folder(tmp_path: Path) -> None:
    # Mutations tried: the source's list written over the target's; rows not judged by the target's list.
    with served(stub_pages(12), tmp_path) as (server, path):
        build_images(stub_settings(path, tmp_path / "d"), execute=execute_here)
    take_out(tmp_path / "d", f"{server.url}/0.jpg")
    refilter.run(tmp_path / "d", tmp_path / "new", {})
    source, target = DatasetLayout(tmp_path / "d"), DatasetLayout(tmp_path / "new")
    target.stats(2).unlink()  # as if it had been stopped before its last shard
    take_out(target.root, f"{server.url}/1.jpg", f"{server.url}/9.jpg")
    take_out(source.root, f"{server.url}/5.jpg")
    refilter.run(source.root, target.root, {})
    assert [i for i, outcome in enumerate(outcomes(target.root)) if outcome == "removed"] == [0, 1, 9]
    assert verify_dataset(target.root) == []
    assert len(read_removals(target).entries["url"]) == 4
    assert files_with(target.root, f"{server.url}/9.jpg") == []

    write_removals(target, replace(read_removals(target), salt="another"))
    before = target.removed.read_bytes()
    with pytest.raises(UsageError, match="were begun apart"):
        refilter.run(source.root, target.root, {})
    assert target.removed.read_bytes() == before


def test_the_remembered_list_discloses_no_address(tmp_path: Path) -> None:
    # Mutation tried: `DISCLOSING = ()`.
    layout = make_dataset(tmp_path / "d")
    take_out(layout.root, "http://a.example/0/0.jpg", "private.example")
    text = layout.removed.read_text()
    assert "example" not in text
    plain = hashlib.sha256(b"http://a.example/0/0.jpg").hexdigest()
    assert plain not in text, "without salt, a list of addresses would tell which of them it holds"
    again = make_dataset(tmp_path / "e")
    take_out(again.root, "http://a.example/0/0.jpg", "private.example")
    assert json.loads(text)["url"] != json.loads(again.removed.read_text())["url"]


def test_a_damaged_memory_stops_a_build_rather_than_forget(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d")
    take_out(layout.root, "000000000")
    layout.removed.write_text("{")
    with pytest.raises(LposekitError, match=r"removed\.json: cannot be read"):
        take_out(layout.root, "000000001")


def cache_of(layout: DatasetLayout) -> DatasetLayout:
    """A cache of latents as `lposekit cache-latents` writes it, its vectors the keys of their samples."""
    cache = DatasetLayout(layout.latents / "0123456789ab")
    cache.root.mkdir(parents=True)
    claim_folder(cache, DatasetCard(kind="latents", fixed={"size": 8}, extra={"of": "image"}))
    for shard in layout.committed_shards():
        writer = ShardWriter(cache, shard, "test")
        keys = [sample.key for sample in lposekit.open_dataset(layout.root) if sample.key.startswith(f"{shard:05d}")]
        for key in keys:
            writer.add(key, {"latents.npy": np.frombuffer(key.encode(), np.uint8).tobytes()})
        table = pa.table({"key": keys, "frames": pa.array([1] * len(keys), pa.int32())})
        tar = layout.read_stats(shard).files[layout.tar(shard).name].sha256
        writer.commit(table, ShardStats(count=len(keys), outcomes={"kept": len(keys)}, source_sha256=tar))
    update_card(cache)
    return cache


def test_cached_latents_go_with_their_samples_and_the_rest_of_the_cache_stays_good(tmp_path: Path) -> None:
    # Mutations tried: caches left alone; `source_sha256` of before kept.
    layout = make_dataset(tmp_path / "d")
    cache = cache_of(layout)
    inode = cache.tar(1).stat().st_ino
    report = take_out(layout.root, "000000001")
    [found] = report.made_of
    assert (found.kind, found.samples) == ("latents", 1)
    assert {sample.key for sample in lposekit.open_dataset(cache.root)} == members(layout.root).keys()
    for shard in (0, 1):
        tar = layout.read_stats(shard).files[layout.tar(shard).name].sha256
        assert cache.read_stats(shard).source_sha256 == tar, "the trainer would refuse the cache"
    assert cache.tar(1).stat().st_ino == inode, "a shard of which nothing goes was written anew"
    assert b"000000001.latents" not in cache.tar(0).read_bytes()


def test_a_cache_that_was_stale_before_stays_stale(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    cache = cache_of(layout)
    stats = cache.stats(0)
    stats.write_text(stats.read_text().replace(cache.read_stats(0).source_sha256 or "", "0" * 64))
    take_out(layout.root, "000000001")
    assert "000000001" not in {sample.key for sample in lposekit.open_dataset(cache.root)}
    assert cache.read_stats(0).source_sha256 == "0" * 64


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three clips and one of one clip, one shard each, and beside them the poses of the clips."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for name, frames in (("long", 3 * CLIP_FRAMES), ("short", CLIP_FRAMES)):
        rows.append({**video(folder / f"{name}.mp4", num_frames=frames), "caption": f"{name} secret"})
    settings = listed(
        folder,
        rows,
        rows_per_shard=1,
        clips=ClipSettings(length_s=1.0, min_length_s=0.5),
        shots=ShotSettings(detector="none"),
        encode=EncodeSettings(preset="ultrafast"),
    )
    assert build_videos(settings, execute=execute_here).num_samples == 4
    find_poses(folder / "d", folder / "poses")
    return folder


def find_poses(clips: Path, output: Path) -> None:
    pose = VideoPoseSettings(batch_size=8)
    settings = PosesSettings(
        input=(str(clips),), output=output, detector="stub", pose_model="stub", smooth="none", pose=pose
    )
    build_poses(settings, execute=execute_here)


def copied(clips: Path, folder: Path) -> Path:
    """A copy of the clips and their poses, the poses told where their clips are now."""
    for name in ("d", "poses"):
        shutil.copytree(clips / name, folder / name)
    for path in (folder / "poses" / "_dataset").glob("*.json"):
        path.write_text(path.read_text().replace(str(clips / "d"), str(folder / "d")))
    shutil.copy(clips / "list.jsonl", folder)
    return folder / "d"


def test_a_clip_goes_alone_a_video_with_its_clips_and_their_poses_with_them(clips: Path, tmp_path: Path) -> None:
    # Mutations tried: `dropped` without the removed clip -> verify finds 3 windows of 2; poses left alone; the poses'
    # `source_sha256` of before -> refused as changed.
    dataset = copied(clips, tmp_path)
    report = take_out(dataset, "0000000000001", "000010000")
    assert report.samples == ("0000000000001", "0000100000000")
    assert (report.rows, [each.samples for each in report.made_of]) == (1, [2])
    assert verify_dataset(dataset) == []
    assert verify_dataset(tmp_path / "poses") == []
    first, second = lposekit.open_dataset(dataset).rows().to_pylist()
    assert (first["clip_keys"], first["num_windows"]) == (["0000000000000", "0000000000002"], 3)
    assert json.loads(first["dropped"])["removed"] == 1
    assert (second["outcome"], second["caption"], second["url"]) == ("removed", None, None)
    assert files_with(dataset, "short secret", "short.mp4") == []
    layout, poses = DatasetLayout(dataset), DatasetLayout(tmp_path / "poses")
    assert [sample.key for sample in lposekit.open_dataset(poses.root)] == ["0000000000000", "0000000000002"]
    find_poses(dataset, tmp_path / "anew")
    assert without_account(DatasetLayout(tmp_path / "anew")) == without_account(poses)
    find_poses(dataset, poses.root)  # goes on: the shards are those that the poses were found of

    # built again from the list, with what is remembered: the same bytes
    fresh = tmp_path / "fresh"
    (fresh / "_dataset").mkdir(parents=True)
    shutil.copy(layout.removed, fresh / "_dataset")
    settings = listed(
        clips,
        [json.loads(line) for line in (clips / "list.jsonl").read_text().splitlines()],
        rows_per_shard=1,
        clips=ClipSettings(length_s=1.0, min_length_s=0.5),
        shots=ShotSettings(detector="none"),
        encode=EncodeSettings(preset="ultrafast"),
    )
    build_videos(replace(settings, output=fresh), execute=execute_here)
    assert without_account(DatasetLayout(fresh)) == without_account(layout)


def test_poses_alone_can_be_removed_and_named_folders_must_be_poses_of_these_clips(clips: Path, tmp_path: Path) -> None:
    dataset = copied(clips, tmp_path)
    assert take_out(tmp_path / "poses", "0000000000001").rows == 1
    assert outcomes(tmp_path / "poses").count("removed") == 1
    assert verify_dataset(tmp_path / "poses") == []
    assert len(lposekit.open_dataset(dataset)) == 4
    with pytest.raises(UsageError, match="no dataset of poses"):
        take_out(dataset, "000010000", poses=[dataset])
    with pytest.raises(UsageError, match="the poses of other clips"):
        take_out(dataset, "000010000", poses=[clips / "poses"])


POINTS = [
    pytest.param("remove:remembered", marks=pytest.mark.more),
    pytest.param("shard:before_commit", marks=pytest.mark.more),
    pytest.param("shard:before_fsync", marks=pytest.mark.more),
    "shard:marker_set_aside",
    pytest.param("shard:between_tar_and_parquet", marks=pytest.mark.more),
    pytest.param("shard:before_stats", marks=pytest.mark.more),
    "remove:shards_written",
]


@pytest.mark.case(84)
@pytest.mark.parametrize("point", POINTS)
def test_a_removal_killed_anywhere_leaves_each_shard_old_or_new_and_ends_when_it_is_run_again(
    tmp_path: Path, point: str
) -> None:
    # Mutations tried: caches brought into step by the keys that this call removes, not by what the dataset holds -> the
    # cache keeps what a killed call had removed from the shards; no `FORMER_TARS` -> what is left of it does not count.
    layout = make_dataset(tmp_path / "d")
    cache = cache_of(layout)
    whole = shutil.copytree(layout.root, tmp_path / "whole")
    before = members(layout.root)
    lines = ["000000001", "000010000"]
    take_out(whole, *lines)
    (tmp_path / "list.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "lposekit.cli", "remove", str(layout.root), "--list", str(tmp_path / "list.txt")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LPOSEKIT_FAULT": f"{point}@{tmp_path / 'marker'}"}
    killed = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    if layout.half_replaced_shards():
        with pytest.raises(LposekitError, match="is being replaced, or was when its run was killed"):
            members(layout.root)
    elif layout.committed_shards():
        for key, found in members(layout.root).items():
            assert found == before[key]
    assert main([*command[3:]]) == 0
    assert verify_dataset(layout.root) == []
    assert without_account(layout) == without_account(DatasetLayout(whole))
    assert layout.report.exists()
    for shard in (0, 1):
        tar = layout.read_stats(shard).files[layout.tar(shard).name].sha256
        assert cache.read_stats(shard).source_sha256 == tar, "what is left of the cache does not count any more"


def test_the_command_names_the_runs_that_were_trained_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Mutation tried: runs told by their folder alone -> the run whose dataset was moved is not named.
    layout = make_dataset(tmp_path / "d")
    runs = {"here": [str(layout.root)], "moved": ["elsewhere"], "other": ["elsewhere"]}
    digest = dataset_digest(layout.root)
    for name, data in runs.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        fixed = {"data": [digest if name == "moved" else "0" * 64]}
        (folder / "run.json").write_text(json.dumps({"stage": 1, "data": data, "fixed": fixed}))
    steps = [{"step": 1, "keys": ["000000001", "000000004"]}, {"step": 2, "keys": ["000000001"]}]
    keys = "".join(json.dumps(step) + "\n" for step in steps) + '{"step": 3, "ke'
    (tmp_path / "runs" / "here" / "keys.jsonl").write_text(keys)
    (tmp_path / "list.txt").write_text("000000001\n000000005\n")
    call = ["remove", str(layout.root), "--list", str(tmp_path / "list.txt"), "--runs", str(tmp_path / "runs")]
    assert main([*call, "--dry-run"]) == 0
    assert "would remove 2 rows and 2 samples" in capsys.readouterr().out
    for _ in range(2):  # mutation tried: the digest of now alone -> the second call does not know the moved one
        assert main(call) == 0
        out = capsys.readouterr().out
        assert f"run {tmp_path}/runs/here: trained on this dataset; 1 of these samples were in its batches" in out
        assert f"run {tmp_path}/runs/moved: trained on this dataset; which samples it saw is not recorded" in out
        assert "runs/other" not in out
    assert main([*call[:4], "--runs", str(tmp_path / "d")]) == 2
    assert "no run folder there" in capsys.readouterr().err
    assert main(call[:2]) == 2
    assert "--list FILE" in capsys.readouterr().err


def run_of(folder: Path, layout: DatasetLayout, *keys: str) -> Path:
    """A run folder that says that it read a dataset, and these samples of it."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"stage": 1, "data": [str(layout.root)], "fixed": {"data": ["0" * 64]}})
    )
    (folder / "keys.jsonl").write_text(json.dumps({"step": 1, "keys": keys}) + "\n")
    return folder


def test_a_second_call_still_says_which_of_the_removed_samples_a_run_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutations tried: only the samples of this call asked for -> "0 of these samples"; "name nothing".
    layout = make_dataset(tmp_path / "d")
    run = run_of(tmp_path / "runs" / "here", layout, "000000001", "000000004")
    (tmp_path / "list.txt").write_text("000000001\nhttp://a.example/0/5.jpg\n")
    call = ["remove", str(layout.root), "--list", str(tmp_path / "list.txt"), "--runs", str(tmp_path / "runs")]
    said = f"run {run}: trained on this dataset; 1 of these samples were in its batches\n"
    for more in ([], [], ["--dry-run"]):
        assert main([*call, *more]) == 0
        out = capsys.readouterr().out
        assert said in out
    assert "1 lines of the list name nothing more in this dataset" in out
    assert "counted with what was removed before" in out


def test_of_no_samples_nothing_is_said_about_a_run(tmp_path: Path) -> None:
    # Mutation tried: 0 of none counted -> "0 of these samples were in its batches".
    layout = make_dataset(tmp_path / "d")
    run = run_of(tmp_path / "run", layout, "000000001")
    [found] = runs_of([run], layout.root, (), ())
    assert found.samples is None
    assert found.line().endswith("whether these samples were in its batches is not known")


def test_a_removed_video_stands_for_the_clips_of_it_that_a_run_saw(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutations tried: clips not told by their video's key; the remembered keys of single clips left out.
    assert CLIP_DIGITS == VIDEO_CLIP_DIGITS
    dataset = copied(clips, tmp_path)
    run_of(tmp_path / "run", DatasetLayout(dataset), "0000000000001", "0000000000002", "0000100000000")
    (tmp_path / "list.txt").write_text("0000000000001\n000010000\n")
    call = ["remove", str(dataset), "--list", str(tmp_path / "list.txt"), "--runs", str(tmp_path / "run")]
    for _ in range(2):
        assert main(call) == 0
        assert "2 of these samples were in its batches" in capsys.readouterr().out


def test_help_says_that_a_list_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["remove", "--help"])
    out = capsys.readouterr().out
    assert re.search(r"--list PATH[^-]*\(required\)", out)
    assert "example: lposekit remove laion-pose --list removals.txt" in out
