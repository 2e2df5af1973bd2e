"""Contract of the video job: every video ends in one outcome and every clip window is written or dropped by a reason;
clips read back in plain webdataset and through `open_dataset`, captions with them; the same input gives the same bytes,
also after kills; a decoder that hangs or dies costs its video alone.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lposekit
from lposekit import recipe as recipes_protocol
from lposekit.errors import Outcome, UsageError
from lposekit.shards.card import read_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.fetch.settings import TransportSettings
from pipelines.job.build_report import BuildReport
from pipelines.quickstart.videos import SAMPLE_VIDEOS
from pipelines.recipes import build_videos as run
from pipelines.recipes import retry
from pipelines.video import recipe as video_recipe
from pipelines.video.clips.settings import ClipSettings
from pipelines.video.settings import BuildVideoSettings, DecodeLimits
from tests.support.bad_server import BadServer
from tests.support.build_process import content_digest, wait_until
from tests.support.execute_here import execute_here
from tests.support.fixtures import REPOSITORY
from tests.support.pages import Page
from tests.support.videos import moving, plain, write_video

pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five videos: two good ones, one with a cut, a black one, and one that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", [moving(i) for i in range(60)], fps=25)
    write_video(folder / "b cut.mp4", [moving(i, shot=i // 50) for i in range(100)], fps=25)
    write_video(folder / "c.mp4", [moving(i, shot=3) for i in range(60)], fps=25)
    write_video(folder / "d black.mp4", [plain(0)] * 60, fps=25)
    (folder / "e.mp4").write_bytes(b"no video" * 100)
    (folder / "a.txt").write_text("somebody walks")
    (folder / "c.json").write_text(json.dumps({"caption": "somebody dances"}))
    return folder


@pytest.fixture(scope="module")
def built(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """The folder of these videos and its report, to be read or copied."""
    folder = tmp_path_factory.mktemp("built") / "d"
    return folder, run(_settings(videos, folder), execute=execute_here)


def _settings(videos: Path, output: Path, **changes: object) -> BuildVideoSettings:
    return BuildVideoSettings(input=(str(videos),), output=output, rows_per_shard=2, workers=1, **changes)  # type: ignore[arg-type]


def test_every_video_and_every_window_is_accounted_for_and_captions_arrive(built: tuple[Path, BuildReport]) -> None:
    folder, report = built
    assert report.exit_code == 0
    dataset = lposekit.open_dataset(folder)
    rows = dataset.rows().to_pylist()
    assert [row["outcome"] for row in rows] == ["kept", "kept", "kept", "no_clip", "corrupt"]
    assert report.windows == report.num_samples + sum(report.dropped_windows.values())
    assert report.dropped_windows["black"] >= 1
    assert report.success == 0.8  # a video without a clip was decoded all the same
    assert verify_dataset(folder) == []
    captions = {sample.metadata["video_key"]: sample.caption for sample in dataset}
    assert captions["000000000"] == "somebody walks"
    assert captions["000010000"] == "somebody dances"
    for sample in dataset:
        assert sample.members["mp4"][4:8] == b"ftyp"
        assert sample.metadata["num_frames"] > 0
        assert sample.key.startswith(sample.metadata["video_key"])
    cut = [sample.metadata for sample in dataset if sample.metadata["video_key"] == "000000001"]
    assert len(cut) >= 2
    assert all(clip["end_s"] <= 2.0 or clip["start_s"] >= 2.0 for clip in cut), "a clip spans the cut at 2 s"


# mutations tried: no `add_all` of the child's times, no stage "commit" in the writer: red
def test_the_marker_the_report_and_the_last_line_say_where_the_time_went(built: tuple[Path, BuildReport]) -> None:
    layout, report = DatasetLayout(built[0]), built[1]
    stages = {"fetch", "hash", "decode", "shots", "encode", "commit"}
    by_shard = [layout.read_stats(shard).timings_s or {} for shard in layout.committed_shards()]
    assert by_shard[0].keys() == stages
    assert all(by_shard[0][stage] > 0 for stage in ("decode", "encode", "commit"))
    assert by_shard[-1].keys() <= stages  # of a file that is no video
    decode_s = sum(times["decode"] for times in by_shard)
    assert report.timings_s["decode"] == pytest.approx(decode_s, abs=0.01)
    assert re.match(r"time by stage: \w+ \d+ %, ", report.summary_lines()[-1])
    page = (layout.root / "_dataset/report/index.html").read_text()
    assert "Time by stage" in page
    assert "<dt>shots</dt>" in page


def test_plain_webdataset_reads_the_clips(built: tuple[Path, BuildReport]) -> None:
    import webdataset

    layout = DatasetLayout(built[0])
    tars = [str(layout.tar(shard)) for shard in layout.committed_shards()]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == len(lposekit.open_dataset(layout.root))
    assert all({"mp4", "txt", "json"} <= sample.keys() for sample in samples)


def test_the_same_input_gives_the_same_bytes_and_a_missing_shard_is_built_again(
    videos: Path, built: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    run(_settings(videos, tmp_path / "second"), execute=execute_here)
    first, second = DatasetLayout(built[0]), DatasetLayout(tmp_path / "second")
    assert content_digest(first) == content_digest(second)
    second.stats(1).unlink()
    run(_settings(videos, second.root), execute=execute_here)
    assert content_digest(first) == content_digest(second)


def test_a_video_that_takes_too_long_is_set_aside_and_the_others_are_built(videos: Path, tmp_path: Path) -> None:
    # Mutation tried: no timeout passed to the sandbox -> all videos are kept.
    limits = DecodeLimits(timeout_s=0.01)
    report = run(_settings(videos, tmp_path / "d", limits=limits), execute=execute_here)
    outcomes = [row["outcome"] for row in lposekit.open_dataset(tmp_path / "d").rows().to_pylist()]
    assert set(outcomes[:4]) == {"decode_hang"}
    assert report.num_rows == 5


def test_urls_are_fetched_to_disk_under_the_transport_guard(videos: Path, tmp_path: Path) -> None:
    pages = {"/a.mp4": Page((videos / "a.mp4").read_bytes(), "video/mp4"), "/gone.mp4": Page(b"", status=404)}
    with BadServer(pages=pages) as server:
        rows = [{"url": f"{server.url}{name}", "caption": name} for name in ("/a.mp4", "/gone.mp4")]
        listed = tmp_path / "list.jsonl"
        listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = _settings(listed, tmp_path / "d", fetch=TransportSettings(robots=False, retries=0))
        assert run(settings, execute=execute_here).outcomes == {"private_address": 2}
        assert server.hits == []
        settings = replace(settings, output=tmp_path / "open", allow_private_addresses=True)
        assert run(settings, execute=execute_here).outcomes == {"http_4xx": 1, "kept": 1}
    assert lposekit.open_dataset(tmp_path / "open")[0].caption == "/a.mp4"


# mutation tried: `folder_videos` finds clips in the work folder, and the input counts as another one: red
def test_a_folder_below_its_input_resumes_after_a_kill(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    settings = _settings(folder, folder / "d")
    run(settings, execute=execute_here)
    layout = DatasetLayout(folder / "d")
    before = content_digest(layout)
    layout.stats(1).unlink()
    clips = layout.work / "killed" / "worker-x" / "000010000-x" / "clips"
    clips.mkdir(parents=True)
    shutil.copy(videos / "a.mp4", clips / "00000.mp4")
    run(settings, execute=execute_here)
    assert content_digest(layout) == before


# mutation tried: the limits of the card in place of those given: red
def test_retry_takes_other_limits_than_the_build_had(videos: Path, tmp_path: Path) -> None:
    run(_settings(videos, tmp_path / "d", limits=DecodeLimits(timeout_s=0.01)), execute=execute_here)
    report = _rebuilt(tmp_path / "d", Outcome.DECODE_HANG, {"timeout_s": 60.0})
    assert report.outcomes == {"corrupt": 1, "kept": 3, "no_clip": 1}


# mutations tried: versions not in `fixed`, not compared in `retry_plans`: red each
def test_other_versions_of_the_encoders_do_not_continue_a_folder(
    videos: Path, built: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(videos, tmp_path / "d")
    shutil.copytree(built[0], tmp_path / "d")
    versions = read_card(DatasetLayout(tmp_path / "d")).versions
    assert {"av", "decord2", "scenedetect-headless", "python", "lposekit"} <= versions.keys()
    for module in (recipes_protocol, video_recipe):
        monkeypatch.setattr(module, "installed_versions", lambda packages: dict.fromkeys(packages, "0.1"))
    with pytest.raises(UsageError, match=rf"versions.av: '{versions['av']}' -> '0.1'"):
        run(settings, execute=execute_here)
    with pytest.raises(UsageError, match=rf"other versions: av: '{versions['av']}' -> '0.1'"):
        _rebuilt(tmp_path / "d", Outcome.CORRUPT)


def test_impossible_settings_are_refused_before_anything_is_written(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--clips\.length-s inf: .*finite"):
        run(_settings(videos, tmp_path / "d", clips=ClipSettings(length_s=math.inf)), execute=execute_here)
    assert not (tmp_path / "d").exists()


# mutation tried: the samples written beside the output in a dry run too: red
def test_dry_run_of_the_quickstart_writes_nothing(tmp_path: Path) -> None:
    report = run(BuildVideoSettings(output=tmp_path / "d"), quickstart=True, dry_run=True)
    assert f"would build {len(SAMPLE_VIDEOS)} videos" in report.notes[0]
    assert list(tmp_path.iterdir()) == []


def test_samples_are_not_mixed_with_videos_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "sample-videos").mkdir()
    (tmp_path / "sample-videos" / "mine.mp4").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds something else"):
        run(BuildVideoSettings(output=tmp_path / "d"), quickstart=True, execute=execute_here)
    assert [path.name for path in (tmp_path / "sample-videos").iterdir()] == ["mine.mp4"]


@pytest.mark.more  # `faults/test_video_killed.py` kills a worker in the middle of a video
@pytest.mark.parametrize("point", ["shard:before_fsync", "shard:between_tar_and_parquet", "shard:before_stats"])
def test_a_worker_killed_at_a_named_point_changes_nothing(
    videos: Path, built: tuple[Path, BuildReport], tmp_path: Path, point: str
) -> None:
    marker = tmp_path / "killed"
    command = [sys.executable, "-m", "lposekit.cli", "build-video-shards", "--input", str(videos)]
    command += ["--output", str(tmp_path / "d"), "--rows-per-shard", "2", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LPOSEKIT_FAULT": f"{point}@{marker}"}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path)
    wait_until(lambda: marker.exists() or process.poll() is not None, "the fault point")
    assert process.wait(150) == 0
    assert marker.exists()
    assert content_digest(DatasetLayout(tmp_path / "d")) == content_digest(DatasetLayout(built[0]))


def test_retry_builds_the_failed_videos_again_and_leaves_the_others_as_they_were(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    good = (folder / "c.mp4").read_bytes()
    (folder / "c.mp4").write_bytes(b"\x00" * len(good))
    settings = _settings(folder, tmp_path / "d")
    run(settings, execute=execute_here)
    layout = DatasetLayout(tmp_path / "d")
    before = content_digest(layout)
    (folder / "c.mp4").write_bytes(good)
    report = _rebuilt(layout.root, Outcome.CORRUPT)
    assert report.outcomes == {"corrupt": 1, "kept": 3, "no_clip": 1}
    assert verify_dataset(layout.root) == []
    after = content_digest(layout)
    assert after["00000.tar"] == before["00000.tar"]
    assert after["00001.tar"] != before["00001.tar"]
    assert "somebody dances" in [sample.caption for sample in lposekit.open_dataset(layout.root)]


def _rebuilt(dataset: Path, outcome: Outcome, limits: dict[str, float] | None = None) -> BuildReport:
    return retry(dataset, [outcome.value], limits=limits, execute=execute_here)
