"""Contract: the child that decodes videos reads the folder of its own file and writes its own worker's folder only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import Outcome
from lposekit.recipe import Claim
from lposekit.sandbox import landlock
from lposekit.sandbox.confinement import Places
from lposekit.sandbox.sandbox import Sandbox
from lposekit.shards.layout import DatasetLayout
from lposekit.stage_times import StageTimes
from pipelines.job.attempt import begin_attempt
from pipelines.job.lock import beat, owned_folder, worker_folder
from pipelines.video import shard
from pipelines.video.clips.child import TARGET, build_in_child
from pipelines.video.clips.records import VideoResult, VideoRow
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.poses.frames import FrameSource
from pipelines.video.poses.settings import FrameLimits
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.shard import VideoPlan, video_rows
from pipelines.video.worker import VideoWorker
from tests.support.videos import moving, write_video

pytestmark = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock, or it is off")
SPY = "tests.pipelines.video.clips.video_targets:spy"


def test_a_listed_video_opens_its_folder_and_a_fetched_one_the_work_folder(tmp_path: Path) -> None:
    # Mutation tried: `_places` that names "/" -> red; that forgets the video's own folder -> red (corrupt).
    videos, work, secret = tmp_path / "videos", tmp_path / "work", tmp_path / "secret.txt"
    out = work / "00000" / "clips"
    videos.mkdir()
    out.mkdir(parents=True)
    secret.write_text("a secret")
    path = write_video(videos / "a.mp4", (moving(number) for number in range(60)), preset="ultrafast")
    listed = VideoRow("a", path=str(path), root=str(videos))
    with Sandbox(TARGET, memory_limit_bytes=2**30) as sandbox:
        result = build_in_child(
            sandbox, path, listed, BuildClipsSettings(), out, timeout_s=60, heartbeat_timeout_s=30, work_root=work
        )
    assert (result.outcome, result.detail) == (Outcome.KEPT, "")
    for row, seen in ((listed, ["own folder", "work folder"]), (VideoRow("a", url="http://host/a"), ["work folder"])):
        (work / "source").write_text("fetched")
        places = {"own folder": str(path), "work folder": str(work / "source"), "elsewhere": str(secret)}
        with Sandbox(SPY, memory_limit_bytes=2**30) as sandbox:
            build_in_child(
                sandbox, path, row, BuildClipsSettings(), out, timeout_s=60, heartbeat_timeout_s=30, work_root=work
            )
            assert sandbox.call(places, timeout_s=30)["opened"] == seen


def test_what_workers_and_drivers_tell_each_other_is_closed_to_a_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: `work_folder` right below the run's folder -> red.
    layout = DatasetLayout(tmp_path / "d")
    (tmp_path / "a.mp4").write_bytes(b"a video")
    seen: list[list[str]] = []
    with owned_folder(layout) as run_id:
        claim, run_folder = Claim(layout.root, run_id), layout.work / run_id

        def spied(_sandbox: Sandbox, _path: Path, _row: VideoRow, *rest: Any, work_root: Path, **_: Any) -> VideoResult:
            (rest[-1] / "clip").touch()
            told = [run_folder / name for name in ("driver-beat", "attempt-00000", "worker-other/000000001-x")]
            with Sandbox(SPY, memory_limit_bytes=2**28, places=Places(writes=(str(work_root),))) as child:
                paths = {path.name: str(path) for path in (rest[-1] / "clip", *told)}
                seen.append(child.call(paths, timeout_s=30)["opened"])
            assert all(path.is_file() for path in told)
            return VideoResult(Outcome.CORRUPT, "spied")

        monkeypatch.setattr(shard, "build_in_child", spied)
        beat(layout, run_id)
        begin_attempt(layout, run_id, 0)
        (run_folder / "worker-other").mkdir()
        (run_folder / "worker-other" / "000000001-x").touch()
        settings = BuildVideoSettings(input=tmp_path / "a.mp4", output=layout.root)
        stages = VideoWorker(claim, settings)._stages
        plan = VideoPlan(0, (VideoRow("a", path=str(tmp_path / "a.mp4"), root=str(tmp_path)),))
        list(video_rows(plan, claim, stages, StageTimes()))
        assert list(worker_folder(layout, run_id).iterdir()) == []
    assert seen == [["clip"]]


def test_poses_of_a_video_open_its_folder_only(tmp_path: Path) -> None:
    # Mutation tried: `open_to` left out of `FrameSource.open` -> red: it cannot be read.
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(10)), preset="ultrafast")
    source = FrameSource(FrameLimits())
    try:
        assert source.open(path).num_frames == 10
        assert source._sandbox._introduction["places"]["reads"] == (os.path.realpath(tmp_path),)
    finally:
        source.close()
