"""What `image.keep_jpeg` stores: the very pixels that were decoded, nothing else of the file, and never more bytes.

Beside each test stands the mutation that was tried and turned it red.
"""

from __future__ import annotations

import io
import itertools
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from lposekit.errors import Rejected
from lposekit.jpeg import header_segments
from lposekit.records import ImageRow
from pipelines.image.decode import DecodedImage, ImageDecoder, decode_image, encode_jpeg
from pipelines.image.rows import posed_row
from pipelines.image.settings import ImageSettings
from tests.fuzz.corpus import images
from tests.fuzz.mutate import mutated
from tests.pipelines.image.test_decode import encoded, photo_rgb
from tests.support.dataset_folder import RULES, person
from tests.support.fixtures import fixture_path

KEEP = ImageSettings(keep_jpeg=True, min_size=1, max_aspect_ratio=1e9)
SECRETS = (b"SECRET-EXIF", b"SECRET-COMMENT", b"SECRET-ICC", b"SECRET-APP13", b"SECRET-TRAILER")
PLAIN = {"quality": 90, "subsampling": "4:2:0"}


def kept(data: bytes, settings: ImageSettings = KEEP) -> bytes | None:
    return decode_image(data, settings).kept_jpeg


def assert_same_pixels(image: DecodedImage) -> None:
    assert image.kept_jpeg is not None
    rgb_HWC = simplejpeg.decode_jpeg(image.kept_jpeg, "RGB", strict=True)
    assert np.array_equal(rgb_HWC, image.rgb_HWC)
    with Image.open(io.BytesIO(image.kept_jpeg)) as by_pillow:
        assert by_pillow.size == (image.width, image.height)


def with_secrets() -> bytes:
    """A plain photo with everything that cameras, editors and smugglers put beside the pixels."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET-EXIF"
    data = encoded(photo_rgb(), "JPEG", exif=exif, comment=b"SECRET-COMMENT", icc_profile=b"SECRET-ICC", **PLAIN)
    app13 = b"\xff\xed" + struct.pack(">H", 2 + len(SECRETS[3])) + SECRETS[3]
    return data[:2] + app13 + data[2:] + b"SECRET-TRAILER"


def photo_paths() -> list[Path]:
    return sorted(fixture_path("data/images").rglob("*.jpg"))


def photos() -> Iterator[np.ndarray]:
    """A third of the real photos, small: what is measured is a ratio."""
    for path in photo_paths()[::3]:
        try:
            yield decode_image(path.read_bytes(), replace(KEEP, size=192)).rgb_HWC
        except Rejected:
            continue


@pytest.mark.parametrize("quality", [95, 85])
def test_real_photos_keep_their_pixels_and_never_grow(quality: int) -> None:
    # Mutations tried: the factors of the samplings left out -> some files are larger; the scan cut one byte early.
    settings, num_kept = replace(KEEP, jpeg_quality=quality), 0
    for rgb in photos():
        for its_quality, sampling in itertools.product((75, 86, 91, 94), ("4:2:0", "4:2:2", "4:4:4")):
            image = decode_image(encoded(rgb, "JPEG", quality=its_quality, subsampling=sampling), settings)
            if image.kept_jpeg is not None:
                assert_same_pixels(image)
                assert len(image.kept_jpeg) <= len(encode_jpeg(image.rgb_HWC, quality))
                num_kept += 1
    assert num_kept >= 100 if quality == 95 else num_kept >= 30


def test_photos_as_they_lie_there_are_kept_where_they_are_small() -> None:
    # Mutation tried: nothing kept -> red.
    images = [decode_image(path.read_bytes(), KEEP) for path in photo_paths() if path.stem in ("mhp_10084", "fly_1400")]
    assert [image.kept_jpeg is not None for image in images] == [False, True]


def test_nothing_but_the_pixels_passes() -> None:
    # Mutations tried: application segments copied; the rest of the file behind the scan copied -> red.
    data = with_secrets()
    assert all(secret in data for secret in SECRETS)
    image = decode_image(data, KEEP)
    assert_same_pixels(image)
    lean = image.kept_jpeg
    assert lean is not None
    assert not any(secret in lean for secret in SECRETS)
    markers = [marker for marker, _, _ in header_segments(lean)]
    assert markers == [0xE0, 0xDB, 0xDB, 0xC0, 0xC4, 0xC4, 0xC4, 0xC4, 0xDA]
    assert lean.endswith(b"\xff\xd9")
    assert lean.count(b"\xff\xd9") == 1


def test_tables_that_no_component_uses_are_left_out() -> None:
    # Mutation tried: every table written -> red.
    data = encoded(photo_rgb(), "JPEG", **PLAIN)
    unused = b"\xff\xdb" + struct.pack(">H", 67) + b"\x03" + b"SMUGGLED" * 8
    lean = kept(data[:2] + unused + data[2:])
    assert lean is not None
    assert b"SMUGGLED" not in lean


def test_of_a_table_that_comes_twice_the_later_one_counts() -> None:
    # Mutation tried: the first one -> other pixels.
    data = encoded(photo_rgb(), "JPEG", **PLAIN)
    earlier = b"\xff\xdb" + struct.pack(">H", 67) + b"\x00" + b"\x40" * 64
    assert_same_pixels(decode_image(data[:2] + earlier + data[2:], KEEP))


def test_restart_intervals_and_grey_photos_are_kept() -> None:
    # Mutation tried: the restart interval dropped -> red.
    for rgb, options in ((photo_rgb(), {"restart_marker_blocks": 3}), (photo_rgb()[..., 0], {})):
        assert_same_pixels(decode_image(encoded(rgb, "JPEG", quality=90, **options), KEEP))


def test_the_same_bytes_for_the_same_file() -> None:
    assert kept(with_secrets()) == kept(with_secrets())


ODD_FILES = {
    "progressive": {"progressive": True},
    "4:4:4, hardly coarser": {"subsampling": "4:4:4"},
    "finer than ours": {"quality": 98},
    "RGB in the file": {"keep_rgb": True, "subsampling": "4:4:4", "quality": 75},
    "turned": {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"},
}


@pytest.mark.parametrize("options", ODD_FILES.values(), ids=ODD_FILES)
def test_a_file_of_another_kind_is_encoded_anew(options: dict[str, object]) -> None:
    # Mutations tried: the fineness, the factor of 4:4:4, the orientation not looked at -> the one it belongs to is red.
    # (A progressive file is turned down twice: by its frame, and since more than one scan follows.)
    assert kept(encoded(photo_rgb(), "JPEG", **{**PLAIN, **options})) is None


def test_cmyk_rare_samplings_and_other_formats_are_encoded_anew() -> None:
    # Mutation tried: any number of components -> red.
    assert kept(encoded(Image.fromarray(photo_rgb()).convert("CMYK"), "JPEG", quality=80)) is None
    assert kept(simplejpeg.encode_jpeg(photo_rgb(), 75, "RGB", "440")) is None
    assert kept(encoded(photo_rgb(), "PNG")) is None
    assert kept(encoded(photo_rgb(), "WEBP")) is None


def test_components_that_are_named_r_g_b_are_encoded_anew() -> None:
    # Mutation tried: the names not looked at -> kept, with other colors.
    data = encoded(photo_rgb(), "JPEG", quality=50, subsampling="4:4:4", keep_rgb=True)
    start = data.index(b"\xff\xee")
    without_adobe = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    image = decode_image(without_adobe, KEEP)
    assert image.kept_jpeg is None
    assert abs(image.rgb_HWC.astype(int) - photo_rgb()).mean() < 16


def test_colors_that_only_an_adobe_marker_explains_are_encoded_anew() -> None:
    # Mutation tried: the marker not read -> kept, and red here: with our JFIF header the colors would be others.
    data = encoded(photo_rgb(), "JPEG", **PLAIN)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    assert kept(data[:2] + adobe + data[20:]) is None  # without the JFIF header of 18 bytes


def test_a_resized_image_is_encoded_anew() -> None:
    # Mutation tried: the size not compared -> red.
    data = encoded(photo_rgb(), "JPEG", **PLAIN)
    assert kept(data, replace(KEEP, size=239)) is None
    assert kept(data, replace(KEEP, size=240)) is not None


def test_without_the_option_every_image_is_encoded_anew() -> None:
    # Mutation tried: on by default -> red.
    assert kept(encoded(photo_rgb(), "JPEG", **PLAIN), replace(KEEP, keep_jpeg=ImageSettings().keep_jpeg)) is None


def test_what_is_kept_is_what_is_stored_and_comes_out_of_the_decoder_child() -> None:
    # Mutations tried: encoded anew in the row; not handed on by the child -> red each.
    with ImageDecoder(KEEP) as decoder:
        image = decoder.decode(with_secrets())
    assert_same_pixels(image)
    row = posed_row(ImageRow("000000000", None, "", {}), image, "0" * 64, [person(17, size=200.0)], RULES)
    ((_, members),) = row.samples
    assert members["jpg"] == image.kept_jpeg


def test_a_damaged_file_is_refused_or_keeps_the_pixels_that_were_decoded() -> None:
    # Mutations tried: the last table of a number replaced by the first; bytes behind a stray marker kept -> red.
    source = random.Random(5)
    seeds = [data for name, data in images().items() if name.endswith(".jpg")]
    num_kept = 0
    for _ in range(4000):
        try:
            image = decode_image(mutated(source.choice(seeds), seeds, source), KEEP)
        except Rejected:
            continue
        if image.kept_jpeg is not None:
            assert_same_pixels(image)
            num_kept += 1
    assert num_kept >= 50
