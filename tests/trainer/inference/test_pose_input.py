"""Contract of `--pose`: only the file that was named is read, as players show it; whatever a hostile file holds, the
end is one line."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lposekit.errors import LposekitError, UsageError
from lposekit.pose.tracks import PoseTracks
from lposekit.skeleton_check import EXAMINED_SIDE_PX, examined_pixels
from tests.support.sample_runs import skeleton_video
from trainer.inference import pose_input
from trainer.inference.pose_input import PoseRequest, load_pose, still_tracks
from trainer.inference.pose_video import read_pose_video
from trainer.inference.settings import PoseInputSettings
from trainer.run.walker import walker_keypoints, walker_skeletons

SIDE = 64


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def estimated(video: Path) -> PoseTracks:
    raise AssertionError(f"{video} was taken for a video of persons")


def skeletons_of(pose: str) -> np.ndarray:
    how = PoseInputSettings()
    return load_pose(PoseRequest(pose, None, 32, 1, SIDE, SIDE, "followyourpose", None, how), estimated)


# --- what is opened --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nskeleton.ts\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile skeleton.mp4\n"),
        ("a.txt", "a caption, not a video\n" * 50),
    ],
    ids=["playlist", "concat script", "text"],
)
def test_a_file_that_names_others_is_no_video(name: str, text: str) -> None:
    # Mutation tried: without `format_whitelist`, all three are opened.
    skeleton_video(Path("skeleton.mp4"), 2)
    skeleton_video(Path("skeleton.ts"), 2)
    Path(name).write_text(text)
    with pytest.raises(UsageError, match="neither a video nor an image"):
        skeletons_of(name)


@pytest.mark.parametrize("name", ["http:x.mp4", "concat:a|b.mp4", "a:b.mp4", "a%03d\n.mp4"])
def test_odd_names_are_names(name: str) -> None:
    # Mutation tried: `path` instead of `path.resolve()`.
    skeleton_video(Path("skeleton.mp4"), 2)
    shutil.move("skeleton.mp4", name)
    assert len(skeletons_of(name)) == 2


def test_a_name_like_a_pattern_opens_no_other_image() -> None:
    # Mutation tried: `format=None`. (With "image2" allowed as well, the numbered file would be opened.)
    frames = walker_skeletons(8, SIDE, "followyourpose")
    Image.fromarray(frames[0]).save("a%03d.png")
    Image.fromarray(frames[7]).save("a001.png")
    np.testing.assert_array_equal(skeletons_of("a%03d.png")[0], frames[0])


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp", "tiff", "gif"])
def test_one_image_is_a_pose(ending: str) -> None:
    image = Image.fromarray(walker_skeletons(1, SIDE, "followyourpose")[0])
    image.save(f"a.{ending}", **{"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(ending, {}))
    assert skeletons_of(f"a.{ending}").shape == (1, SIDE, SIDE, 3)


def test_huge_frames_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: without the first `refuse_large`.
    monkeypatch.setattr("trainer.inference.pose_video.MAX_PIXELS", 255 * 255)
    skeleton_video(Path("a.mp4"), 2)
    data = Path("a.mp4").read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    # nothing in it can be decoded: the size is that of the header
    Path("a.mp4").write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(UsageError, match="256 x 256 pixels are too large"):
        skeletons_of("a.mp4")


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_pixels_are_square() -> None:
    # Mutation tried: without `square_pixels`.
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[16:48, 24:40] = 255
    with av.open("narrow.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    [shown] = read_pose_video(Path("narrow.mp4"), 1, 1, lambda image: image, 1).frames
    assert shown.shape == (64, 128, 3)
    lit = np.argwhere(shown.max(axis=-1) > 128)
    assert np.ptp(lit, axis=0) == pytest.approx((31, 31), abs=2)


def test_what_is_transparent_is_black() -> None:
    # Mutation tried: "rgb24" always.
    skeleton = walker_skeletons(1, SIDE, "followyourpose")[0]
    drawn = skeleton.max(axis=-1, keepdims=True) > 0
    white = np.concatenate([np.where(drawn, skeleton, 255), 255 * drawn], axis=-1).astype(np.uint8)
    Image.fromarray(white).save("a.png")
    np.testing.assert_array_equal(skeletons_of("a.png")[0], skeleton)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_title_in_another_encoding_does_not_matter(ending: str) -> None:
    # Mutation tried: without `metadata_errors`.
    with av.open(f"a.{ending}", "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("libx264", rate=25)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        for image in walker_skeletons(2, SIDE, "followyourpose"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    data = Path(f"a.{ending}").read_bytes().replace(b"TITLE", b"\xff\xfe\xfd\xfc\xfb")
    Path(f"a.{ending}").write_bytes(data)
    assert len(read_pose_video(Path(f"a.{ending}"), 2, 1, lambda image: image, 2).frames) == 2


def test_frames_to_look_at_are_kept_small() -> None:
    # Mutation tried: `looked.append(rgb_HWC)`.
    skeleton_video(Path("a.mp4"), 1, side=4 * EXAMINED_SIDE_PX)
    looked = read_pose_video(Path("a.mp4"), 1, 1, lambda image: image[:1], 1).looked_FHWC
    assert looked.shape[1] == EXAMINED_SIDE_PX
    assert examined_pixels(looked[0]).shape == looked[0].shape


# --- keypoints -------------------------------------------------------------------------------------------------------

GOOD = {
    "width": SIDE,
    "height": SIDE,
    "keypoint_format": "coco17",
    "keypoint_score_threshold": 0.3,
    "persons": [{"bbox": [1, 1, 50, 50], "bbox_score": 0.9, "keypoints": walker_keypoints(0, SIDE).ravel().tolist()}],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"width": float("inf")},
        {"keypoint_score_threshold": 10**400},
        {"persons": [{**GOOD["persons"][0], "bbox": [10**400] * 4}]},
        {"persons": [{**GOOD["persons"][0], "keypoints": [10**400] * 51}]},
    ],
    ids=["width", "threshold", "box", "keypoints"],
)
def test_numbers_without_end_are_no_pose(changed: dict[str, Any]) -> None:
    # Mutation tried: without OverflowError.
    assert still_tracks(json.dumps(GOOD).encode(), "good").persons
    with pytest.raises(LposekitError, match="not a pose file"):
        still_tracks(json.dumps({**GOOD, **changed}).encode(), "bad")


@pytest.mark.timeout(180)
def test_devices_and_pipes_are_no_pose_files(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: without `S_ISREG`. `read_bytes`, as it was, read the device until the memory ended.
    monkeypatch.setattr(pose_input, "MAX_POSE_BYTES", 2**10)
    os.symlink("/dev/zero", "zero.pose.json")
    os.mkfifo("pipe.pose.json")
    for name in ("zero.pose.json", "pipe.pose.json"):
        with pytest.raises(UsageError, match="no regular file"):
            skeletons_of(name)


def test_a_name_that_is_too_long_is_not_there() -> None:
    # Mutation tried: `path.is_file()`, which raises.
    with pytest.raises(UsageError, match="there is no such file"):
        skeletons_of(f"{'x' * 300}.mp4")
