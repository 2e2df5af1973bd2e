"""Contract of a video's account: its outcome follows from the reasons for which its windows were dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from lposekit.errors import Outcome
from lposekit.stage_times import StageTimes
from pipelines.video.clips.account import VideoAccount
from pipelines.video.clips.probe import VideoInfo, probe
from pipelines.video.clips.records import VideoRow, WindowRecord
from pipelines.video.clips.settings import BuildClipsSettings
from tests.support.videos import moving, write_video


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> VideoInfo:
    path = write_video(tmp_path_factory.mktemp("account") / "a.mp4", (moving(n, size=(64, 48)) for n in range(10)))
    return probe(path, 10**6, lambda: None)


# mutations tried: any damaged window makes the video corrupt; any short one makes it too short
@pytest.mark.parametrize(
    ("reasons", "outcome"),
    [
        (["too_short"], Outcome.TOO_SHORT),
        (["too_short", "too_short"], Outcome.TOO_SHORT),
        (["too_short", "black"], Outcome.NO_CLIP),
        (["black", "frozen"], Outcome.NO_CLIP),
        (["damaged"], Outcome.CORRUPT),
        (["damaged", "too_short"], Outcome.CORRUPT),
        (["damaged", "black"], Outcome.NO_CLIP),
    ],
)
def test_a_video_without_a_clip_ends_by_what_its_windows_have_in_common(
    info: VideoInfo, tmp_path: Path, reasons: list[str], outcome: Outcome
) -> None:
    account = VideoAccount(info, VideoRow("a"), BuildClipsSettings(), tmp_path, StageTimes())
    account.windows += [WindowRecord(0.0, 0.1, 2, reason) for reason in reasons]
    assert account.result("pyav").outcome is outcome
