"""Contract: the world's folders are ordinary datasets: they verify, open, train unchanged, and are the same bytes
whenever they are written.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

import lposekit
from lposekit.errors import UsageError
from lposekit.report.html import write_report
from lposekit.shards.verify import verify_dataset
from trainer.smallworld.clip_file import clip_bytes
from trainer.smallworld.datasets import CLIP_FRAMES, write_clips, write_images
from trainer.smallworld.scene import still


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "images"
    write_images(root, 1, "train", 24)
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    write_clips(root, 1, "train", 6)
    return root


def test_both_folders_verify_and_can_be_viewed(images: Path, clips: Path) -> None:
    # Mutations tried: a clip's key that is not its row's -> red; `persons` left out of the parquet -> red in the view.
    for root in (images, clips):
        assert verify_dataset(root) == []
        assert write_report(root).is_file()


def test_a_stored_image_shows_its_pose_and_says_its_caption(images: Path) -> None:
    # Mutation tried: x and y of the stored joints exchanged -> red.
    dataset = lposekit.open_dataset(images)
    assert len(dataset) == 24
    for number in (0, 11, 23):
        sample, scene = dataset[number], still(1, "train", number)
        assert sample.caption == scene.words.caption
        assert np.abs(sample.rgb_HWC.astype(int) - scene.frames()[0].astype(int)).mean() < 2
        [person] = sample.persons
        assert np.abs(person.keypoints_K3[:, :2] - scene.joints_F17x2[0]).max() < 0.01


def test_the_same_world_is_written_in_the_same_bytes(images: Path, clips: Path, tmp_path: Path) -> None:
    # Mutation tried: the time of writing in the sample's json -> red.
    write_images(tmp_path / "images", 1, "train", 24)
    write_clips(tmp_path / "clips", 1, "train", 6)
    for old, new in ((images, tmp_path / "images"), (clips, tmp_path / "clips")):
        for name in ("00000.tar", "00000.parquet"):
            assert (old / name).read_bytes() == (new / name).read_bytes()


def test_writing_again_keeps_what_is_there_and_another_world_is_refused(images: Path) -> None:
    # Mutations tried: shards written anew although they are there -> red; the count left out of the card -> red.
    before = (images / "00000_stats.json").stat().st_mtime_ns
    write_images(images, 1, "train", 24)
    assert (images / "00000_stats.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="count: 24 -> 25"):
        write_images(images, 1, "train", 25)


def test_clips_hold_frames_and_no_pose(clips: Path) -> None:
    # Mutation tried: one frame fewer encoded than the sample's json says -> red.
    from lposekit.shards.whole_index import read_index
    from trainer.data.decode import Framing, decode_clip, read_clip_facts
    from trainer.data.random import SampleRandom
    from trainer.data.reader import SampleRef

    [shard] = read_index(clips)
    assert set(shard.places) == {"json", "mp4", "txt"}
    members = shard.members(0)
    tar = shard.tar_path.read_bytes()
    stored = {name: tar[offset : offset + size] for name, (offset, size) in members.items()}
    assert read_clip_facts(stored["json"]) == (CLIP_FRAMES, 8.0)
    random = SampleRandom(0, SampleRef(0, 0, 0, 0))
    frames = decode_clip(stored["mp4"], np.arange(CLIP_FRAMES), Framing(64), random)
    assert frames.shape == (CLIP_FRAMES, 64, 64, 3)


def test_single_frames_of_a_clip_are_quick_to_read() -> None:
    # Mutations tried: `key_frame_every` ignored; B-frames allowed.
    frames = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    with av.open(io.BytesIO(clip_bytes(frames)), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 12, 24]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
