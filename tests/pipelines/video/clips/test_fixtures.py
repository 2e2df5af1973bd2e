"""Contract on real files: every fixture ends in the outcome that its content deserves, and its windows are accounted.

What each deserves stands in a table (`tests.support.video_fixtures`). Only 1080p slides of two minutes are marked slow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import Outcome
from pipelines.video.clips.build import build_clips
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import BuildClipsSettings, EncodeSettings
from tests.support.video_fixtures import SLOW, TABLE, fixture_rows, fixture_videos
from tests.support.videos import read_images


def test_table_names_every_fixture() -> None:
    assert set(fixture_rows()) == set(TABLE)


def _parameters() -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name == SLOW else name for name in TABLE]


@pytest.mark.parametrize("name", _parameters())
def test_fixture_ends_in_the_outcome_that_its_content_deserves(tmp_path: Path, name: str) -> None:
    line, deserved = fixture_rows()[name], TABLE[name]
    # small and fast: sizes and presets do not decide any outcome
    settings = BuildClipsSettings(encode=EncodeSettings(preset="ultrafast", size=256))
    result = build_clips(fixture_videos() / name, VideoRow(name, caption=line["caption"]), settings, tmp_path)
    assert (result.outcome, len(result.clips)) == (deserved.outcome, deserved.clips), result.detail
    assert len(result.windows) == len(result.clips) + sum(result.dropped.values())
    if deserved.outcome is not Outcome.NO_CLIP:
        assert tuple(sorted(result.dropped.items())) == deserved.dropped
        assert tuple(round(cut_s * line["fps"]) for cut_s in result.cuts_s) == deserved.cuts
    if result.info and name != "decord_corrupted.mp4":
        assert result.info["num_frames"] == line["frames"]
        assert result.info["rotation"] == line["rotation"]
    for clip in result.clips:
        assert clip.caption == line["caption"]
        assert clip.repeated_frames == 0 or line["file"] == "mmaction2_demo_skeleton.mp4"  # 5 frames were never stored
    if result.clips:
        clip = result.clips[0]
        images = read_images(tmp_path / clip.files[0])
        assert len(images) == clip.num_frames
        assert images[0].shape == (clip.height, clip.width, 3)
        assert min(clip.height, clip.width) == min(256, line["width"], line["height"]) // 2 * 2
