"""One dataset of real photos and one of videos, made once for all tests of the report; tests leave them as they are."""

from __future__ import annotations

import pytest

from lposekit.shards.layout import DatasetLayout
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import (
    BuildClipsSettings,
    ClipSettings,
    EncodeSettings,
    ShotSettings,
    VideoSettings,
)
from tests.support.datasets import make_photo_dataset, make_video_dataset
from tests.support.fixtures import fixture_path
from tests.support.videos import moving, plain, write_video

FPS = 20
CLIPS = BuildClipsSettings(
    video=VideoSettings(decoder="pyav"),
    shots=ShotSettings(detector="none"),
    clips=ClipSettings(length_s=1.0, min_length_s=0.5),
    encode=EncodeSettings(size=240, preset="ultrafast"),
)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return make_photo_dataset(tmp_path_factory.mktemp("photos") / "dataset", fixture_path("data/images"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """Two shots of 1.5 s and 1.0 s with the cut given, a still video, and a video of 4 frames."""
    folder = tmp_path_factory.mktemp("videos")
    shots = [moving(i, shot=int(i >= 30)) for i in range(50)]
    rows = [
        VideoRow("cut", path=str(write_video(folder / "cut.mp4", shots, FPS)), caption="two shots", cuts_s=(1.5,)),
        VideoRow("still", path=str(write_video(folder / "still.mp4", [plain(128)] * 30, FPS)), caption="still"),
        VideoRow("short", path=str(write_video(folder / "short.mp4", shots[:4], FPS)), caption="short"),
    ]
    return make_video_dataset(folder / "dataset", rows, CLIPS)
