"""Contract of the video job on real files: each fixture ends in the outcome of the table, rows and windows add up, and
a caption arrives with every clip, in plain webdataset as in `open_dataset`; clips of JPEG frames read there too.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import webdataset

import lposekit
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.job.build_report import BuildReport
from pipelines.recipes import build_videos as run
from pipelines.video.clips.settings import ClipSettings, EncodeSettings, ShotSettings
from pipelines.video.plan import folder_videos
from pipelines.video.settings import BuildVideoSettings
from tests.support.execute_here import execute_here
from tests.support.video_fixtures import SLOW, TABLE, Deserved, fixture_rows, fixture_videos
from tests.support.videos import moving, read_number, write_video

pytestmark = pytest.mark.timeout(1200)
# small and fast: sizes and presets do not decide any outcome
SMALL = EncodeSettings(preset="ultrafast", size=128)


def _captions() -> dict[str, str]:
    return {name: row["caption"] for name, row in fixture_rows().items()}


def _build(given: Path, output: Path) -> BuildReport:
    settings = BuildVideoSettings(
        input=(str(given),), output=output, rows_per_shard=10, encode=SMALL, allow_outside_paths=True
    )
    return run(settings, execute=execute_here)


def _list_without(name: str, folder: Path) -> Path:
    path = folder / "most.jsonl"
    rows = [{**row, "file": str(fixture_videos() / file)} for file, row in fixture_rows().items() if file != name]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _folder_of_some(folder: Path) -> Path:
    """The short test files of the torchcodec project, where they lie, their captions beside them."""
    some = folder / "some"
    some.mkdir()
    for name, caption in _captions().items():
        if name.startswith("tc_"):
            (some / name).symlink_to(fixture_videos() / name)
            (some / name).with_suffix(".txt").write_text(caption + "\n")
    return some


@pytest.mark.more  # `clips/test_fixtures.py` judges each of them, and the next test a folder of some
def test_a_list_of_the_fixtures_ends_as_the_table_says(tmp_path: Path) -> None:
    report = _build(_list_without(SLOW, tmp_path), tmp_path / "d")
    _assert_as_deserved(report, [name for name in TABLE if name != SLOW], _captions())


def test_a_folder_of_fixtures_ends_as_the_table_says_with_the_captions_beside_them(tmp_path: Path) -> None:
    # Mutation tried: `txt` left empty in `clip_members`, or `dropped` in `video_row`, makes this test red.
    folder = _folder_of_some(tmp_path)
    names = [path.name for path in folder_videos(folder)]
    assert len(names) == 7
    _assert_as_deserved(_build(folder, tmp_path / "d"), names, _captions())


@pytest.mark.slow
@pytest.mark.parametrize("given", ["", "videos.jsonl"])
def test_all_fixtures_as_they_lie_end_as_the_table_says(tmp_path: Path, given: str) -> None:
    report = _build(fixture_videos() / given, tmp_path / "d")
    if given:
        _assert_as_deserved(report, list(fixture_rows()), _captions())
    else:  # nothing stands beside the videos, and the one that is only sound is not named as a video
        names = sorted(name for name in TABLE if not name.endswith(".mp3"))
        _assert_as_deserved(report, names, dict.fromkeys(names, ""))


def _assert_as_deserved(report: BuildReport, names: list[str], captions: dict[str, str]) -> None:
    """The whole account of a folder built from these files, in this order; every clip with its video's caption."""
    assert report.exit_code == 0
    dataset = lposekit.open_dataset(report.root)
    rows = dict(zip(names, dataset.rows().to_pylist(), strict=True))
    for name, row in rows.items():
        assert Path(row["url"]).name == name
        _assert_row_as_deserved(row, TABLE[name])
    assert sum(report.outcomes.values()) == len(names)
    assert report.windows == report.num_samples + sum(report.dropped_windows.values())
    assert report.windows == sum(row["num_windows"] for row in rows.values())
    assert report.num_samples == sum(TABLE[name].clips for name in names)
    assert verify_dataset(report.root) == []
    expected = {key: captions[name] for name, row in rows.items() for key in row["clip_keys"]}
    assert {sample.key: sample.caption for sample in dataset} == expected
    read = _in_plain_webdataset(report.root)
    assert {sample["__key__"]: sample["txt"].decode() for sample in read} == expected
    for sample in read:
        with av.open(io.BytesIO(sample["mp4"])) as container:
            assert container.streams.video[0].frames == json.loads(sample["json"])["num_frames"]


def _assert_row_as_deserved(row: dict[str, Any], deserved: Deserved) -> None:
    assert (row["outcome"], row["num_clips"]) == (deserved.outcome, deserved.clips), row
    if deserved.dropped:
        assert json.loads(row["dropped"]) == dict(deserved.dropped)
    assert row["num_windows"] == row["num_clips"] + sum(json.loads(row["dropped"]).values())


def _in_plain_webdataset(root: Path) -> list[dict[str, Any]]:
    layout = DatasetLayout(root)
    tars = [str(layout.tar(shard)) for shard in layout.committed_shards()]
    return list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))


def test_clips_of_frames_read_in_plain_webdataset_and_through_open_dataset(tmp_path: Path) -> None:
    # Mutation tried: `_member_name` that keeps the clip's number, or drops the frame's, makes this test red.
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(40)))
    path.with_suffix(".txt").write_text("somebody walks")
    settings = BuildVideoSettings(
        input=(str(tmp_path),),
        output=tmp_path / "d",
        encode=EncodeSettings(format="frames"),
        clips=ClipSettings(length_frames=16, min_length_frames=8),
        shots=ShotSettings(detector="none"),
    )
    assert run(settings, execute=execute_here).num_samples == 3
    assert verify_dataset(tmp_path / "d") == []
    clips = [range(16), range(16, 32), range(32, 40)]
    read = _in_plain_webdataset(tmp_path / "d")
    for numbers, sample in zip(clips, read, strict=True):
        names = [f"{place:06d}.jpg" for place in range(len(numbers))]
        assert sorted(name for name in sample if name.endswith("jpg")) == names
        assert [read_number(_rgb(sample[name])) for name in names] == list(numbers)
        assert sample["txt"] == b"somebody walks"
        assert json.loads(sample["json"])["num_frames"] == len(numbers)
    opened = {sample.key: sample.members for sample in lposekit.open_dataset(tmp_path / "d")}
    assert opened == {
        sample["__key__"]: {name: data for name, data in sample.items() if not name.startswith("__")} for sample in read
    }


def _rgb(jpeg: bytes) -> Any:
    bgr_HWC = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr_HWC is not None
    return bgr_HWC[:, :, ::-1]
