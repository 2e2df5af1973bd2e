"""Contract: clips are pushed as images are: rows of the clips that are stored, and with them the clips; no path of the
machine that built them goes along, whatever the manifest named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lposekit
from lposekit.errors import UsageError
from lposekit.shards.verify import verify_dataset
from pipelines.image.index_settings import MaterializeSettings
from pipelines.publish.push import push_dataset
from pipelines.publish.settings import PushSettings
from pipelines.recipes import build_videos, materialize
from pipelines.video.clips.settings import ClipSettings, EncodeSettings, ShotSettings
from tests.support.execute_here import execute_here
from tests.support.video_build import listed
from tests.support.videos import moving, write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two videos in a private folder, and a video that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(2):
        write_video(folder / f"{number}.mp4", [moving(at, size=(64, 48)) for at in range(12)], 20, codec="mpeg4")
    (folder / "2.mp4").write_bytes(b"no video")
    rows = [{"path": str(folder / f"{number}.mp4"), "caption": f"number {number}"} for number in range(3)]
    settings = listed(
        folder,
        rows,
        clips=ClipSettings(length_frames=6, min_length_frames=1, cut_margin_frames=0),
        shots=ShotSettings(detector="none"),
        encode=EncodeSettings(size=32, preset="ultrafast"),
    )
    assert build_videos(settings, execute=execute_here).num_samples == 4
    return folder / "d"


def test_clips_of_local_videos_go_without_their_paths(clips: Path, tmp_path: Path) -> None:
    # Mutations tried: rows without a web address left out -> no clips; json as it is -> the path is told.
    push_dataset(PushSettings(source=clips, to=str(tmp_path / "public"), with_images=True))
    assert verify_dataset(tmp_path / "public") == []
    dataset = lposekit.open_dataset(tmp_path / "public")
    assert [sample.key for sample in dataset] == [sample.key for sample in lposekit.open_dataset(clips)]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "public").rglob("*.*"))
    assert str(clips.parent).encode() not in everything
    assert all(json.loads(sample.members["json"])["caption"].startswith("number") for sample in dataset)
    assert dataset.rows()["outcome"].to_pylist() == ["kept", "kept"]


def test_an_index_leaves_out_videos_that_nobody_else_can_fetch(clips: Path, tmp_path: Path) -> None:
    # Mutation tried: rows without an address kept -> red.
    report = push_dataset(PushSettings(source=clips, to=str(tmp_path / "index")))
    assert report.left_out == {"no web address": 2}
    assert list((tmp_path / "index").glob("*.parquet")) == []
    card = json.loads((tmp_path / "index" / "_dataset" / "dataset.json").read_text())
    assert card["kind"] == "video-index"


def test_an_index_of_clips_is_not_materialized_and_says_how_they_are_built_again(clips: Path, tmp_path: Path) -> None:
    # Mutations tried: the message for datasets, which names a push as the way on; the README of an index of images.
    push_dataset(PushSettings(source=clips, to=str(tmp_path / "index")))
    with pytest.raises(UsageError, match=r"an index of clips .* Build the clips again: `lposekit build-video-shards`"):
        materialize(MaterializeSettings(index=tmp_path / "index", output=tmp_path / "again"), execute=execute_here)
    assert not (tmp_path / "again").exists()
    assert "`lposekit materialize` fetches images alone" in (tmp_path / "index" / "README.md").read_text()
