"""Contract of reading: frame count, rate, rotation and duration are measured, and both readers show the same frames.

Playlists and scripts that could name other files or addresses are no videos.
"""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.video.clips.probe import DamageSuspectedError, VideoInfo, clip_size, probe, scaled
from pipelines.video.clips.read_decord import DecordReader
from pipelines.video.clips.read_pyav import PyavReader
from tests.support.fixtures import fixture_path
from tests.support.videos import box_payload, moving, read_number, write_video

LIMIT = 4096 * 2304
READERS = pytest.mark.parametrize("reader", [DecordReader, PyavReader], ids=["decord", "pyav"])
RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)]


def quiet() -> None:
    """Nobody listens to the heartbeat."""


def numbers(reader: type, path: Path, start: int = 0, stop: int | None = None) -> list[int]:
    info = probe(path, LIMIT, quiet)
    opened = reader(path, info, clip_size(info, 512), quiet)
    try:
        frames = list(opened.frames(start, len(info.pts) if stop is None else stop))
    finally:
        opened.close()
    assert [frame.index for frame in frames] == list(range(start, start + len(frames)))
    return [read_number(frame.rgb_HWC) for frame in frames]


@READERS
@pytest.mark.parametrize("fps", RATES)
def test_all_frames_come_once_and_in_order(tmp_path: Path, reader: type, fps: Fraction) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(70)), fps, b_frames=3)
    assert numbers(reader, path) == list(range(70))
    info = probe(path, LIMIT, quiet)
    assert (info.fps, info.variable_rate, len(info.pts)) == (fps, False, 70)
    assert info.duration_s == pytest.approx(70 / fps)


# mutation tried: no np.rot90 in PyavReader makes this test red
@READERS
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_images_are_upright(tmp_path: Path, reader: type, rotation: int) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(20)), rotation=rotation)
    assert numbers(reader, path) == list(range(20))
    info = probe(path, LIMIT, quiet)
    assert (info.width, info.height) == (320, 240)
    assert info.rotation % 360 == -rotation % 360


@READERS
@pytest.mark.parametrize("span", [(0, 5), (37, 60), (61, 62), (99, 150)])
def test_any_part_of_the_video_can_be_read(tmp_path: Path, reader: type, span: tuple[int, int]) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(150)), gop=40, b_frames=3)
    assert numbers(reader, path, *span) == list(range(*span))


# mutation tried: a seek to `start` itself in PyavReader makes this test red
@pytest.mark.parametrize("start", range(20, 34))
def test_parts_of_open_groups_begin_where_they_should(tmp_path: Path, start: int) -> None:
    images = (moving(number) for number in range(75))
    path = write_video(tmp_path / "a.mp4", images, gop=25, b_frames=3, preset="veryfast", x264="open-gop=1:scenecut=0")
    assert numbers(PyavReader, path, start, start + 6) == list(range(start, start + 6))


@READERS
def test_parts_can_be_read_one_after_the_other_in_any_order(tmp_path: Path, reader: type) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(100)), gop=30)
    info = probe(path, LIMIT, quiet)
    opened = reader(path, info, (320, 240), quiet)
    for start, stop in ((0, 20), (20, 30), (60, 70), (10, 20)):
        assert [read_number(frame.rgb_HWC) for frame in opened.frames(start, stop)] == list(range(start, stop))


@pytest.mark.parametrize(
    ("reader", "suffix"),
    [(DecordReader, "mkv"), (DecordReader, "webm"), *((PyavReader, each) for each in ("mkv", "webm", "avi", "ts"))],
)
def test_other_containers_are_read_too(tmp_path: Path, reader: type, suffix: str) -> None:
    codec, b_frames = ("libvpx-vp9", 0) if suffix == "webm" else ("libx264", 2)
    path = write_video(tmp_path / f"a.{suffix}", (moving(n) for n in range(60)), codec=codec, b_frames=b_frames)
    assert numbers(reader, path) == list(range(60))
    assert numbers(reader, path, 31, 40) == list(range(31, 40))


@READERS
def test_odd_sizes_become_even_and_small_ones_stay_small(tmp_path: Path, reader: type) -> None:
    images = (moving(number, size=(321, 241)) for number in range(10))
    path = write_video(tmp_path / "a.mkv", images, codec="ffv1", b_frames=0)
    info = probe(path, LIMIT, quiet)
    assert (info.width, info.height) == (321, 241)
    assert clip_size(info, 512) == (320, 240)
    assert numbers(reader, path) == list(range(10))


def test_both_readers_show_the_same_pixels(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number, size=(640, 360)) for number in range(10)))
    info = probe(path, LIMIT, quiet)
    ours = [list(reader(path, info, (320, 180), quiet).frames(0, 10)) for reader in (DecordReader, PyavReader)]
    for one, other in zip(*ours, strict=True):
        np.testing.assert_array_equal(one.rgb_HWC, other.rgb_HWC)


@pytest.mark.parametrize(
    ("size", "shorter", "expected"),
    [
        ((1920, 1080), 512, (910, 512)),
        ((1080, 1920), 512, (512, 910)),
        ((321, 241), 512, (320, 240)),
        ((64, 64), 512, (64, 64)),
        ((3, 3), 512, (2, 2)),
        ((4000, 100), 50, (2000, 50)),
    ],
)
def test_shorter_side_is_set_ratio_kept_nothing_enlarged(size, shorter, expected) -> None:
    pts = np.arange(3)
    info = VideoInfo(
        "h264",
        "mp4",
        *size,
        0,
        Fraction(25),
        False,
        Fraction(1, 25),
        pts,
        True,
        False,
        0,
        None,
        None,
    )
    assert clip_size(info, shorter) == expected


@pytest.mark.parametrize("size", [(910, 512), (640, 360), (320, 180), (200, 113)])
def test_scaling_keeps_the_mean_and_has_the_size_asked_for(size: tuple[int, int]) -> None:
    image = moving(3, size=(1280, 720))
    small = scaled(image, size)
    assert small.shape == (size[1], size[0], 3)
    assert abs(small.mean() - image.mean()) < 1
    assert read_number(small) == 3


def ten_hours_mp4(data: bytearray) -> None:
    for name, place in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        begin, _ = box_payload(data, name)
        struct.pack_into(">I", data, begin + place, 2**31 - 1)


def ten_hours_mkv(data: bytearray) -> None:
    struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, 36_000_000.0)


def a_million_frames_avi(data: bytearray) -> None:
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, 10**6)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, 10**6)


@pytest.mark.parametrize("suffix", ["avi", "ts"])
def test_containers_without_an_index_are_not_left_to_decord(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a.{suffix}", (moving(number) for number in range(10)))
    with pytest.raises(DamageSuspectedError, match="no index"):
        numbers(DecordReader, path)


@pytest.mark.parametrize("reader", [DecordReader, PyavReader])
@pytest.mark.parametrize(
    ("suffix", "lie"), [("mp4", ten_hours_mp4), ("mkv", ten_hours_mkv), ("avi", a_million_frames_avi)]
)
def test_length_in_the_header_is_not_believed(tmp_path: Path, reader: type, suffix: str, lie) -> None:
    reader = PyavReader if suffix == "avi" else reader
    path = write_video(tmp_path / f"a.{suffix}", (moving(number) for number in range(30)))
    data = bytearray(path.read_bytes())
    lie(data)
    path.write_bytes(data)
    info = probe(path, LIMIT, quiet)
    if suffix == "mkv":
        assert info.header_duration_s == 36_000
    if suffix == "avi":
        assert info.header_frames == 10**6
    assert info.duration_s == pytest.approx(30 / 25)
    assert numbers(reader, path) == list(range(30))


def test_8k_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (np.zeros((4320, 7680, 3), np.uint8) for _ in range(1)), b_frames=0)
    with pytest.raises(Rejected) as caught:
        probe(path, LIMIT, quiet)
    assert caught.value.outcome is Outcome.TOO_MANY_PIXELS
    assert "7680 x 4320" in caught.value.detail


def test_8k_claimed_by_the_header_of_a_small_stream_does_no_harm(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(10)))
    data = bytearray(path.read_bytes())
    begin, _ = box_payload(data, b"avc1")
    struct.pack_into(">HH", data, begin + 24, 7680, 4320)
    path.write_bytes(data)
    assert numbers(DecordReader, path) == list(range(10))


# mutation tried: no format_whitelist makes the playlist and the ansi script open
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", b""),
        ("a.mp4", b"<html>404</html>" * 100),
        ("a.mp4", b"\0\0\0\x20ftypisom" + bytes(20)),
        ("a.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nGOOD\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", b"ffconcat version 1.0\nfile 'good.mp4'\n"),
        ("a.txt", b"a caption, not a video\n" * 50),
    ],
    ids=["empty", "html", "header only", "playlist", "concat script", "text"],
)
def test_what_is_no_video_file_is_corrupt(tmp_path: Path, name: str, content: bytes) -> None:
    good = write_video(tmp_path / "good.mp4", (moving(number) for number in range(5)))
    path = tmp_path / name
    path.write_bytes(content.replace(b"GOOD", str(good).encode()))
    with pytest.raises(Rejected) as caught:
        probe(path, LIMIT, quiet)
    assert caught.value.outcome is Outcome.CORRUPT


def test_strange_file_names_are_names(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", (moving(number) for number in range(5)))
    path = tmp_path / "concat:a|b 'c' %03d.mp4"
    shutil.copy(good, path)
    assert numbers(DecordReader, path) == numbers(PyavReader, path) == list(range(5))


# mutation tried: `_ANY_COPY = -1` (decord's default) makes this test red
def test_frame_that_decord_replaces_by_a_copy_is_noticed() -> None:
    path = fixture_path("data/videos/fyp_dancing_example_4.mp4")  # its last packet but one is not to be shown
    info = probe(path, LIMIT, quiet)
    assert not info.orderly
    as_if_orderly = replace(info, orderly=True, pts=np.append(info.pts, info.pts[-1] + 256))
    with pytest.raises(DamageSuspectedError, match="duplicate frames"):
        list(DecordReader(path, as_if_orderly, (64, 64), quiet).frames(0, 239))
