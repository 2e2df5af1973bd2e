"""Contract: the child that decodes videos reads the folder of its own file and writes the run's work folder only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lposekit.errors import Outcome
from lposekit.sandbox import landlock
from lposekit.sandbox.sandbox import Sandbox
from pipelines.video.clips.child import TARGET, build_in_child
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.poses.frames import FrameSource
from pipelines.video.poses.settings import FrameLimits
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


def test_poses_of_a_video_open_its_folder_only(tmp_path: Path) -> None:
    # Mutation tried: `open_to` left out of `FrameSource.open` -> red: it cannot be read.
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(10)), preset="ultrafast")
    source = FrameSource(FrameLimits())
    try:
        assert source.open(path).num_frames == 10
        assert source._sandbox._introduction["places"]["reads"] == (os.path.realpath(tmp_path),)
    finally:
        source.close()
