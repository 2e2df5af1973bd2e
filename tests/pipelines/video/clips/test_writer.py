"""Contract of stored clips: H.264, GOP at most 12, no B-frames, constant rate, tagged colours, the same bytes again."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.clips.writer import clip_writer, prepared, yuv420
from tests.support.fixtures import REPOSITORY
from tests.support.videos import Image, moving, read_images, read_number

SETTINGS = EncodeSettings(preset="ultrafast")
RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(179, 6)]


def write(path: Path, images: list[Image], fps: Fraction = Fraction(25), settings: EncodeSettings = SETTINGS) -> Path:
    height, width = images[0].shape[:2]
    writer = clip_writer(path, (width, height), fps, settings)
    for image in images:
        writer.write(prepared(image, settings))
    return writer.finish()[0]


@pytest.mark.parametrize("fps", RATES)
def test_clip_is_h264_with_short_groups_no_b_frames_and_a_constant_rate(tmp_path: Path, fps: Fraction) -> None:
    # a hard cut inside must not move the key frames
    path = write(tmp_path / "a", [moving(number, number // 20) for number in range(40)], fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == fps
        assert [place for place, packet in enumerate(packets) if packet.is_keyframe] == [0, 12, 24, 36]
        assert all(packet.pts == packet.dts for packet in packets)
        steps = {(after.pts - before.pts) * stream.time_base for before, after in pairwise(packets)}
        assert steps == {1 / fps}


def test_same_frames_make_the_same_bytes(tmp_path: Path) -> None:
    images = [moving(number) for number in range(30)]
    assert write(tmp_path / "a", images).read_bytes() == write(tmp_path / "b", images).read_bytes()


def test_index_stands_in_front_of_the_images(tmp_path: Path) -> None:
    data = write(tmp_path / "a", [moving(0), moving(1)]).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


# mutation tried: codec.colorspace = 1 (BT.709) makes this test red
@pytest.mark.parametrize("colour", [(200, 40, 60), (30, 180, 90), (20, 60, 220), (250, 250, 250), (0, 0, 0)])
def test_colours_survive_in_readers_that_obey_the_tag_and_in_those_that_do_not(tmp_path: Path, colour: tuple) -> None:
    image = np.full((64, 128, 3), colour, dtype=np.uint8)
    path = write(tmp_path / "a", [image] * 3)
    for shown in (read_images(path)[1], decord.VideoReader(str(path))[1].asnumpy()):
        assert np.abs(shown.astype(int) - colour).max() <= 4
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (6, 1)


def test_planes_agree_with_those_of_swscale() -> None:
    image = moving(5, 1, size=(182, 102))
    theirs = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", dst_colorspace="ITU601")
    difference = np.abs(yuv420(image).astype(int) - theirs.to_ndarray())
    assert difference.mean() < 1
    assert np.median(difference) == 0


def test_frames_format_stores_one_numbered_jpeg_a_frame(tmp_path: Path) -> None:
    settings = EncodeSettings(format="frames")
    writer = clip_writer(tmp_path / "a", (320, 240), Fraction(25), settings)
    for number in range(3):
        writer.write(prepared(moving(number), settings))
    paths = writer.finish()
    assert [path.name for path in paths] == ["a.000000.jpg", "a.000001.jpg", "a.000002.jpg"]
    assert [read_number(read_images(path)[0]) for path in paths] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["mp4", "frames"])
def test_discarded_clip_leaves_nothing(tmp_path: Path, kind: str) -> None:
    settings = EncodeSettings(format=kind, preset="ultrafast")  # type: ignore[arg-type]
    writer = clip_writer(tmp_path / "a", (320, 240), Fraction(25), settings)
    for number in range(20):
        writer.write(prepared(moving(number), settings))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


_ENCODE = """
import sys
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from pipelines.video.clips.writer import clip_writer, prepared
from pipelines.video.clips.settings import EncodeSettings
from tests.support.videos import moving
settings = EncodeSettings()
writer = clip_writer(Path(sys.argv[1]), (320, 240), Fraction(25), settings)
for number in range(53, 100):
    writer.write(prepared(moving(number, 1), settings))
writer.finish()
"""


def test_bytes_do_not_depend_on_what_fresh_memory_holds(tmp_path: Path) -> None:
    # Mutation tried: without mbtree=0 the two files differ.
    for pattern in ("0", "1"):
        environment = {**os.environ, "MALLOC_PERTURB_": pattern, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", _ENCODE, str(tmp_path / pattern)]
        subprocess.run(command, env=environment, check=True, timeout=60)
    assert (tmp_path / "0.mp4").read_bytes() == (tmp_path / "1.mp4").read_bytes()
