"""Contract: the image and the clip of a sample are a JPEG and an mp4 of sane sizes, whatever else lies there."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from lposekit.report.clip_strips import three_frames
from lposekit.report.decode import decode_jpeg
from lposekit.stored_media import decode_stored_jpeg
from tests.support.train_data import clip_members, image_members
from trainer.data.decode import DamagedSample, Framing, decode_clip, decode_training_image
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom

LISTS = {
    "ffconcat": b"ffconcat version 1.0\nfile private.mp4\n",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nprivate.ts\n#EXT-X-ENDLIST\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "text for ansi art": b"\x1b[31mprivate\n" * 100,
    "y4m": b"YUV4MPEG2 W16 H16 F25:1 C420\nFRAME\n" + bytes(384),
}


@pytest.mark.case(72)
@pytest.mark.parametrize("name", LISTS)
def test_a_member_that_is_no_mp4_is_no_clip_and_reads_no_other_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutations tried: without the format -> red for `y4m`; without both -> `ffconcat` gives frames of private.mp4.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.mp4").write_bytes(clip_members(0)["mp4"])
    with pytest.raises(DamagedSample, match="cannot be decoded"):
        decode_clip(LISTS[name], np.array([0]), Framing(64), SampleRandom(0, SampleRef(0, 0, 0, 0)))
    assert three_frames({"mp4": LISTS[name]}, 20, 10.0) == []


def _png_bomb() -> bytes:
    """A few kilobytes that unfold to 30,000 x 30,000 pixels."""
    packer, row = zlib.compressobj(9), bytes(1 + 30_000 // 8)
    packed = b"".join([*(packer.compress(row) for _ in range(30_000)), packer.flush()])
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _of_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The same bytes, with another size in the header."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]


JPEG = image_members(0, 512, 512)["jpg"]
BAD_IMAGES = {
    "nothing": (b"", "no jpeg"),
    "png": (_png_bomb(), "no jpeg"),
    "huge": (_of_size(JPEG, 60_000, 60_000), "60000 x 60000 pixels"),
    "cut short": (JPEG[: len(JPEG) // 2], "cut short"),
    "without its last byte": (JPEG[:-1], "cut short"),
    "no size": (_of_size(JPEG, 0, 512), "without a size"),
}


# Mutations tried: without the look at the header, at the pixels, at the end -> red each.
@pytest.mark.case(75)
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_an_image_that_is_no_whole_jpeg_of_a_sane_size_is_refused(name: str) -> None:
    data, why = BAD_IMAGES[name]
    with pytest.raises(ValueError, match=why):
        decode_stored_jpeg(data)
    with pytest.raises(DamagedSample, match=why):
        decode_training_image(data, Framing(64), SampleRandom(0, SampleRef(0, 0, 0, 0)))
    assert decode_jpeg(data) is None


@pytest.mark.case(75)
def test_an_image_that_would_unfold_by_its_shape_is_refused() -> None:
    # Mutation tried: without the check of the size to which it is scaled -> red (it takes gigabytes).
    with pytest.raises(DamagedSample, match="1 x 60000 pixels is too elongated"):
        decode_training_image(_of_size(JPEG, 60_000, 1), Framing(512), SampleRandom(0, SampleRef(0, 0, 0, 0)))


def test_a_whole_jpeg_is_decoded_as_it_was_stored() -> None:
    assert decode_stored_jpeg(JPEG).shape == (512, 512, 3)
    assert decode_stored_jpeg(image_members(3, 80, 64)["jpg"])[0, 0].tolist() == pytest.approx([199, 113, 91], abs=3)
