"""Contract of the image job, end to end with a stub model and a real server: every row ends in exactly one outcome;
what is stored belongs together; the same command resumes; other settings in the same folder are refused. These tests
build in this process; those of `test_build_on_ray` and the fault tests use Ray.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lposekit
import pipelines.build
from lposekit.errors import UsageError
from lposekit.recipe import ShardReport
from lposekit.shards.card import DatasetTotals, read_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.fetch.settings import FetchSettings
from pipelines.image.settings import FilterSettings, ImageSettings
from pipelines.job.runner import RunResult
from pipelines.pose.pool import LocalPoses
from pipelines.recipes import build_images as run
from pipelines.recipes import retry
from tests.support.build_process import content_digest
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.stub_build import served, stub_pages, stub_settings, write_rows
from tests.support.stub_images import stub_image


def _png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_every_row_ends_in_the_outcome_that_it_deserves(tmp_path: Path) -> None:
    pages = stub_pages(8, num_persons={1: 0, 3: 3}, num_detected={2: 8, 4: 9})
    pages |= {
        "/8.jpg": Page(b"gone", status=404),
        "/9.jpg": Page(b"<html></html>"),
        "/10.jpg": Page(stub_image(10)[:-200]),
        "/11.jpg": Page(_png(30, 30), "image/png"),
        "/12.jpg": Page(stub_image(12), headers=(("X-Robots-Tag", "noai"),)),
        "/13.jpg": Page(_png(20000, 20000), "image/png"),
        "/14.jpg": Page(stub_image(14), "text/html"),
    }
    unsafe = [0.9 if row == 15 else 0.1 for row in range(16)]
    pages["/15.jpg"] = Page(stub_image(15))
    with served(pages, tmp_path, punsafe=unsafe) as (_, path):
        killable = ImageSettings(decode_processes=1)
        settings = stub_settings(path, tmp_path / "d", filter=FilterSettings(max_punsafe=0.5), image=killable)
        report = run(settings, execute=execute_here)
    assert report.exit_code == 0
    dataset = lposekit.open_dataset(tmp_path / "d")
    rows = dataset.rows()
    assert rows["outcome"].to_pylist() == [
        "kept",
        "no_person",
        "few_keypoints",
        "kept",
        "kept",
        "kept",
        "kept",
        "kept",
        "http_4xx",
        "not_image",
        "corrupt",
        "too_small",
        "opt_out",
        "too_many_pixels",
        "kept",
        "metadata_filter",
    ]
    assert sum(report.outcomes.values()) == report.num_rows == 16
    assert verify_dataset(tmp_path / "d") == []
    assert [sample.caption for sample in dataset] == [f"row {row}" for row in (0, 3, 4, 5, 6, 7, 14)]
    for sample in dataset:
        assert sample.persons[0].keypoints_K3[0, 1] == 20 + int(sample.caption.split()[1])
    assert len(dataset[1].persons) == 3
    assert len(dataset.thumbnails()) == 3
    assert (tmp_path / "d" / "_dataset" / "report" / "index.html").exists()
    assert rows["error_message"][2].as_py().startswith("few_keypoints: 8 of 17")


@pytest.mark.case(18)
def test_stored_images_are_upright_without_metadata_and_of_the_size_asked_for(tmp_path: Path) -> None:
    marked = np.zeros((200, 400, 3), np.uint8)
    marked[:40, :40] = 255  # upper left as stored; orientation 6 turns it to the upper right
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "secret place"
    Image.fromarray(marked).save(stream, "JPEG", exif=exif, quality=95)
    pages = {"/0.jpg": Page(stream.getvalue()), "/1.jpg": Page(stub_image(1))}
    with served(pages, tmp_path) as (_, path):
        settings = stub_settings(
            path, tmp_path / "d", store_min_detected=0.0, image=ImageSettings(size=100, decode_processes=0)
        )
        run(settings, execute=execute_here)
    rows = lposekit.open_dataset(tmp_path / "d").rows().to_pylist()
    assert (rows[0]["width"], rows[0]["height"]) == (100, 200)
    assert (rows[0]["original_width"], rows[0]["original_height"]) == (200, 400)
    thumbnail = lposekit.open_dataset(tmp_path / "d").thumbnails().to_pylist()[0]["jpeg"]
    pixels = np.asarray(Image.open(io.BytesIO(thumbnail)))
    assert pixels[5, -5].min() > 200
    assert pixels[5, 5].max() < 60
    tar = (tmp_path / "d" / "00000.tar").read_bytes()
    assert b"Exif" not in tar
    assert b"secret place" not in tar + thumbnail


def test_the_same_command_resumes_and_fetches_only_what_is_missing(tmp_path: Path) -> None:
    with served(stub_pages(12), tmp_path) as (server, path):
        whole = stub_settings(path, tmp_path / "whole")
        run(whole, execute=execute_here)
        settings = stub_settings(path, tmp_path / "d")
        run(settings, execute=execute_here)
        layout = DatasetLayout(tmp_path / "d")
        layout.stats(1).unlink()
        before = len(server.hits)
        assert run(settings, execute=execute_here).exit_code == 0
        assert sorted(hit.path for hit in server.hits[before:]) == [f"/{row}.jpg" for row in range(4, 8)]
        before = len(server.hits)
        assert run(settings, execute=execute_here).num_samples == 12
        assert len(server.hits) == before
    assert content_digest(layout) == content_digest(DatasetLayout(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("num_rows", "filtered", "sizes"),
    [(1, [], [1]), (8, [], [8]), (9, [], [4, 5]), (23, [], [7, 8, 8]), (25, [], [6, 6, 6, 7]), (9, [0, 1], [3, 4])],
)
def test_the_rows_of_a_shard_are_divided_evenly_into_batches(
    num_rows: int, filtered: list[int], sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutations tried in `in_runs`: runs of `batch_size` -> 8 and 1 of 9; one run more; all runs but the last of one
    # length, rounded down (9 of 23) or up (4 of 25) -> red.
    # In `image_rows`: without the rows that are not fetched -> 7.
    batches: list[int] = []
    submit = LocalPoses.submit

    def noted(poses: LocalPoses, images: list[Any]) -> Any:
        batches.append(len(images))
        return submit(poses, images)

    monkeypatch.setattr(LocalPoses, "submit", noted)
    unsafe = [0.9 if row in filtered else 0.1 for row in range(num_rows)]
    with served(stub_pages(num_rows), tmp_path, punsafe=unsafe) as (_, path):
        settings = stub_settings(path, tmp_path / "d", rows_per_shard=25, filter=FilterSettings(max_punsafe=0.5))
        settings = replace(settings, pose=replace(settings.pose, batch_size=8))
        assert run(settings, execute=execute_here).num_samples == num_rows - len(filtered)
    assert sorted(batches) == sizes


@pytest.mark.case(32)
def test_the_account_of_a_shard_is_small_and_no_image_travels_with_it(tmp_path: Path) -> None:
    """What comes back from a worker goes through Ray's store."""
    reports: list[ShardReport] = []

    def collected(recipe, claim, plans, progress, interrupts):
        worker = recipe.worker(claim)
        reports.extend(worker.build(plan) for plan in plans)
        return RunResult()

    with served(stub_pages(40), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=collected)
    assert sum(report.num_rows for report in reports) == 40
    assert max(len(pickle.dumps(report)) for report in reports) < 64 * 2**10


@pytest.mark.case(30)
def test_an_output_below_a_file_is_a_usage_error_before_anything_is_started(tmp_path: Path) -> None:
    with served(stub_pages(4), tmp_path) as (_, path):
        (tmp_path / "file").write_text("a file")
        with pytest.raises(UsageError, match=r"file"):
            run(stub_settings(path, tmp_path / "file" / "d"), execute=_never)


@pytest.mark.case(31)
def test_other_settings_in_the_same_folder_are_refused_with_the_differing_fields(tmp_path: Path) -> None:
    # Mutation tried: claim_folder without its refusal -> red.
    with served(stub_pages(4), tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d")
        run(settings, execute=execute_here)
        with pytest.raises(UsageError, match=r"min_detected: 0\.5 -> 0\.7"):
            run(replace(settings, min_detected=0.7), execute=execute_here)
        write_rows(path, [{"url": "http://other.example/1.jpg", "caption": ""}])
        with pytest.raises(UsageError, match="input: "):
            run(settings, execute=execute_here)


def test_a_folder_from_before_duplicates_were_dropped_goes_on_without_dropping_them(tmp_path: Path) -> None:
    # Mutation tried: duplicate_oks marked MAY_CHANGE -> the first run goes on silently.
    with served(stub_pages(8), tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d")
        run(settings, execute=execute_here)
        layout = DatasetLayout(tmp_path / "d")
        card = json.loads(layout.card.read_text())
        for place in (card["settings"], card["fixed"]["settings"]):
            del place["pose.duplicate_oks"]
        layout.card.write_text(json.dumps(card))
        layout.stats(1).unlink()
        with pytest.raises(UsageError, match=r"pose\.duplicate_oks: None -> 0\.7"):
            run(settings, execute=execute_here)
        as_before = replace(settings, pose=replace(settings.pose, duplicate_oks=None))
        assert run(as_before, execute=execute_here).num_samples == 8
        assert retry(tmp_path / "d", ["few_keypoints"], execute=execute_here).exit_code == 0


def test_a_low_success_rate_ends_with_exit_code_3_only_where_it_was_asked_for(tmp_path: Path) -> None:
    pages = stub_pages(2) | {f"/{row}.jpg": Page(b"", status=404) for row in range(2, 8)}
    with served(pages, tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d")
        assert run(settings, execute=execute_here).exit_code == 0
        assert run(replace(settings, min_success=0.5), execute=execute_here).exit_code == 3
        # Mutation tried: `<=` in place of `<` in `BuildReport.exit_code` -> exactly what was asked for is too little.
        assert run(replace(settings, min_success=0.25), execute=execute_here).exit_code == 0
        assert run(replace(settings, min_success=0.2), execute=execute_here).exit_code == 0


def test_dry_run_fetches_and_writes_nothing(tmp_path: Path) -> None:
    with served(stub_pages(4), tmp_path) as (server, path):
        report = run(stub_settings(path, tmp_path / "d"), dry_run=True)
        assert report.exit_code == 0
        assert server.hits == []
    assert not (tmp_path / "d").exists()


def test_the_cards_totals_are_those_of_the_shards(tmp_path: Path) -> None:
    with served(stub_pages(6, num_persons={0: 0}), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    card = read_card(DatasetLayout(tmp_path / "d"))
    assert card.totals == DatasetTotals(shards=2, rows=6, samples=5, outcomes={"kept": 5, "no_person": 1})
    assert card.shards == ["00000", "00001"]


def test_duplicates_within_a_shard_are_turned_down_when_asked(tmp_path: Path) -> None:
    pages = stub_pages(4)
    pages["/2.jpg"] = pages["/0.jpg"]
    with served(pages, tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d")
        run(replace(settings, fetch=replace(settings.fetch, dedup=True)), execute=execute_here)
    assert lposekit.open_dataset(tmp_path / "d").rows()["outcome"].to_pylist() == ["kept", "kept", "duplicate", "kept"]


# mutation tried: `times` not handed to `pose_windows`: red
def test_the_marker_of_a_shard_says_where_its_time_went(tmp_path: Path) -> None:
    with served(stub_pages(4), tmp_path) as (_, path):
        report = run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    timings_s = DatasetLayout(tmp_path / "d").read_stats(0).timings_s
    assert timings_s is not None
    assert timings_s.keys() == {"fetch", "decode", "pose", "encode", "commit"}  # the stub has no detector
    assert all(seconds > 0 for stage, seconds in timings_s.items() if stage != "pose")
    assert report.timings_s == timings_s


def _never(*_: Any) -> RunResult:
    raise AssertionError("nothing may be started")


def test_a_missing_blocklist_is_a_usage_error_before_anything_is_started(tmp_path: Path) -> None:
    # Mutation tried: no `Blocklist.from_files` in `preflight` -> `_never` is called.
    with served(stub_pages(4), tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d", fetch=FetchSettings(blocklist=(tmp_path / "gone.txt",)))
        with pytest.raises(UsageError, match=r"blocklist .*gone\.txt cannot be read"):
            run(settings, execute=_never)
    assert not (tmp_path / "d").exists()


def test_a_full_disk_is_a_usage_error_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutations tried: no `require_free_space` in `build`, or in `rebuild` -> red.
    with served(stub_pages(4), tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d")
        run(settings, execute=execute_here)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 2**20))
        with pytest.raises(UsageError, match=r"--output .*new: 300 MB are free on its disk"):
            run(replace(settings, output=tmp_path / "new"), execute=_never)
        with pytest.raises(UsageError, match=r"300 MB are free"):
            retry(tmp_path / "d", ["timeout"], execute=_never)
    assert not (tmp_path / "new").exists()


def test_missing_weights_are_a_usage_error_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: no `_require_weights` in `preflight` -> `_never` is called.
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with served(stub_pages(4), tmp_path) as (_, path):
        models = {"detector": "rtmdet-nano-rebuilt", "pose_model": "tinypose", "weights_dir": tmp_path}
        with pytest.raises(UsageError, match=r"(?s)rtmdet_nano.*tinypose"):
            run(stub_settings(path, tmp_path / "d", **models), execute=_never)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("number", "stops"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_while_the_report_is_written_a_second_ctrl_c_stops_and_a_second_sigterm_does_not(
    number: signal.Signals, stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: without `second_raises`, Ctrl-C is not heard.
    write = pipelines.build.write_report

    def interrupted(layout: DatasetLayout) -> Path:
        for _ in range(2):
            signal.raise_signal(number)
        return write(layout)

    monkeypatch.setattr(pipelines.build, "write_report", interrupted)
    with served(stub_pages(2), tmp_path) as (_, path):
        settings = stub_settings(path, tmp_path / "d")
        if stops:
            with pytest.raises(KeyboardInterrupt):
                run(settings, execute=execute_here)
        else:
            report = run(settings, execute=execute_here)
            assert report.report_path is not None
            assert report.report_path.is_file()
