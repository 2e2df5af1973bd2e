"""Bytes become upright RGB images of the stored size, or one reason: never a wrong, grey or sideways image.

Beside each group stands the mutation that was tried and turned it red.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lposekit.errors import Outcome, Rejected
from pipelines.image.decode import (
    DecodedImage,
    ImageDecoder,
    TooSmall,
    decode_image,
    encode_jpeg,
    stored_size,
    thumbnail,
)
from pipelines.image.settings import ImageSettings
from tests.support.fixtures import fixture_path

SETTINGS = ImageSettings()
ANY_SIZE = ImageSettings(min_size=1, max_aspect_ratio=1e9)


def photo_rgb(width: int = 320, height: int = 240) -> np.ndarray:
    """Smooth colours with a little texture, so that a JPEG of it has many bytes to damage."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 24, (height, width, 3))
    plain = np.stack([x * 200 / width, y * 200 / height, 100 + 80 * np.sin(x / 20)], -1)
    return (plain + noise).astype(np.uint8)


def encoded(rgb: np.ndarray | Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
    image.save(file, format_, **options)
    return file.getvalue()


def outcome_of(data: bytes, image_settings: ImageSettings = SETTINGS) -> Outcome | None:
    """The outcome of `data`; none if there is an image."""
    try:
        decode_image(data, image_settings)
    except Rejected as rejected:
        return rejected.outcome
    return None


def start_of_scan(jpeg: bytes) -> int:
    """Where the entropy-coded bytes of a JPEG begin."""
    place = 2
    while jpeg[place + 1] != 0xDA:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")


# ---- 13, 14: the format comes from the bytes ----
# mutation: `sniff` returns "png" instead of None for what it does not know -> the HTML row turns red (corrupt)

NOT_IMAGES = {
    "html": (b"<!DOCTYPE html><html><body>gone</body></html>", "HTML"),
    "html after white space": (b"\n\n  <html>", "HTML"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\x02\0", "isom"),
    "avif": (b"\0\0\0\x20ftypavif\0\0\0\0", "avif"),
    "bmp": (encoded(photo_rgb(64, 64), "BMP"), "BMP"),
    "tiff": (encoded(photo_rgb(64, 64), "TIFF"), "TIFF"),
    "empty": (b"", "empty"),
    "one byte": (b"\xff", "begin"),
    "text": (b"404 page not found", "404"),
}


@pytest.mark.parametrize(("data", "word"), NOT_IMAGES.values(), ids=NOT_IMAGES)
@pytest.mark.case(13)
def test_what_is_no_image_is_named(data: bytes, word: str) -> None:
    with pytest.raises(Rejected, match=word) as caught:
        decode_image(data, SETTINGS)
    assert caught.value.outcome is Outcome.NOT_IMAGE


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_four_formats_are_decoded(format_: str) -> None:
    rgb = photo_rgb()
    image = decode_image(encoded(rgb, format_), SETTINGS)
    assert image.format == format_.lower()
    assert (image.width, image.height, image.original_width, image.original_height) == (320, 240, 320, 240)
    assert image.rgb_HWC.shape == (240, 320, 3)
    assert image.rgb_HWC.dtype == np.uint8
    assert image.rgb_HWC.flags.c_contiguous
    assert np.abs(image.rgb_HWC.astype(int) - rgb).mean() < (0.01 if format_ == "PNG" else 12)


# ---- 15: size limits, kinds of pixels ----
# mutation: drop the `max_pixels` test in decode_image -> the bomb test turns red (corrupt outcome or memory)


def png_bomb(width: int, height: int) -> bytes:
    """A valid one-bit PNG of that size in about 50 KB."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PEAK_MEMORY_SCRIPT = """
import sys
from pathlib import Path
from pipelines.image.decode import decode_image
from pipelines.image.settings import ImageSettings
from lposekit.errors import Rejected
try:
    decode_image(open(sys.argv[1], "rb").read(), ImageSettings())
except Rejected as rejected:
    # Not ru_maxrss: a child inherits that from the process that started it.
    status = Path("/proc/self/status").read_text()
    print(rejected.outcome.value, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.case(15)
def test_a_png_bomb_is_refused_from_its_header_in_300_mb(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_bomb(20000, 20000))
    assert bomb.stat().st_size < 100_000
    command = [sys.executable, "-c", PEAK_MEMORY_SCRIPT, str(bomb)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert output[0] == "too_many_pixels"
    assert int(output[1]) < 300e6


@pytest.mark.parametrize(
    "header",
    [
        b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0",
        b"RIFF\x64\0\0\0WEBPVP8L\x20\0\0\0\x2f\xfe\xff\xff\x0f",
        b"RIFF\x64\0\0\0WEBPVP8 \x20\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f",
        b"GIF89a\xff\xff\xff\xff\0\0\0",
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x11\0\x02\x11\0\x03\x11\0",
        b"\xff\xd8\xff\xff\xff\xe0\0\x02\xff\xc2\0\x11\x08\xff\xff\xff\xff\x03\x01\x11\0\x02\x11\0\x03\x11\0",
    ],
    ids=["webp extended", "webp lossless", "webp lossy", "gif", "jpeg", "jpeg with fill bytes"],
)
def test_every_format_shows_its_size_before_it_is_decoded(header: bytes) -> None:
    assert outcome_of(header) is Outcome.TOO_MANY_PIXELS


def test_a_jpeg_with_two_frame_headers_does_not_slip_past_the_limit() -> None:
    # two guards, and either is enough: libjpeg refuses the second frame header, _check_size the other size
    small, large = encoded(photo_rgb(16, 16), "JPEG"), encoded(photo_rgb(1600, 1600), "JPEG")
    frame = small.index(b"\xff\xc0")
    forged = large[:2] + small[frame : frame + 19] + large[2:]
    assert outcome_of(forged, ImageSettings(min_size=1, max_pixels=1000)) is Outcome.CORRUPT


@pytest.mark.parametrize(
    ("width", "height", "word"),
    [(1, 1, "below 64"), (3000, 1, "below 64"), (63, 400, "below 64"), (900, 100, "8 times"), (100, 801, "8 times")],
)
def test_too_small_or_narrow_images_come_with_a_thumbnail(width: int, height: int, word: str) -> None:
    with pytest.raises(TooSmall, match=word) as caught:
        decode_image(encoded(photo_rgb(width, height), "PNG"), SETTINGS)
    assert caught.value.outcome is Outcome.TOO_SMALL
    assert max(Image.open(io.BytesIO(thumbnail(caught.value.image.rgb_HWC))).size) <= 160


@pytest.mark.parametrize(("width", "height"), [(64, 64), (800, 100), (64, 512)])
def test_the_limits_themselves_are_allowed(width: int, height: int) -> None:
    # mutations: `<` to `<=`, `>` to `>=` in _why_too_small
    assert outcome_of(encoded(photo_rgb(width, height), "PNG")) is None


@pytest.mark.parametrize(("limit", "outcome"), [(64 * 80, None), (64 * 80 - 1, Outcome.TOO_MANY_PIXELS)])
def test_as_many_pixels_as_the_limit_are_allowed(limit: int, outcome: Outcome | None) -> None:
    # mutation: `>` to `>=` in decode_image
    assert outcome_of(encoded(photo_rgb(64, 80), "PNG"), ImageSettings(max_pixels=limit)) is outcome


def test_the_image_as_it_came_is_measured_and_not_the_stored_one() -> None:
    # mutation: the stored size in _why_too_small
    assert outcome_of(encoded(photo_rgb(120, 100), "PNG"), ImageSettings(size=50, min_size=64)) is None


@pytest.mark.case(15)
def test_30000_x_1_is_too_small_not_an_error() -> None:
    assert outcome_of(encoded(np.zeros((1, 30000, 3), np.uint8), "PNG")) is Outcome.TOO_SMALL


def rgb_at(data: bytes, x: int = 40, y: int = 40) -> tuple[int, ...]:
    return tuple(int(value) for value in decode_image(data, SETTINGS).rgb_HWC[y, x])


def flat(*colour: int) -> np.ndarray:
    return np.full((80, 80, len(colour)), colour, np.uint8).squeeze()


def png_16_bit(value: int, channels: int) -> bytes:
    pixels = np.full((80, 80, channels), value, np.uint16).squeeze()
    return cv2.imencode(".png", pixels)[1].tobytes()


def transparent_palette() -> bytes:
    image = Image.fromarray(flat(255, 0, 0)).quantize(4)
    return encoded(image, "PNG", transparency=image.getpixel((40, 40)))


# mutations: BGR2RGB exchanged for another; 16 bits by `>> 8`; alpha over black
PIXELS = {
    "grey png": (encoded(flat(77), "PNG"), (77, 77, 77)),
    "one bit": (encoded(Image.new("1", (80, 80), 1), "PNG"), (255, 255, 255)),
    "rgb png": (encoded(flat(10, 20, 30), "PNG"), (10, 20, 30)),
    "palette": (encoded(Image.fromarray(flat(10, 200, 30)).quantize(4), "PNG"), (10, 200, 30)),
    "transparent palette": (transparent_palette(), (255, 255, 255)),
    "alpha": (encoded(flat(0, 0, 200, 51), "PNG"), (204, 204, 244)),
    "grey alpha": (encoded(Image.fromarray(flat(0, 0, 0, 102)).convert("LA"), "PNG"), (153, 153, 153)),
    "alpha webp": (encoded(flat(0, 0, 200, 51), "WEBP", lossless=True), (204, 204, 244)),
    "16 bit grey": (png_16_bit(40 * 257 + 200, 1), (41, 41, 41)),
    "16 bit grey, rounded down": (png_16_bit(40 * 257 + 128, 1), (40, 40, 40)),
    "16 bit grey, rounded up": (png_16_bit(40 * 257 + 129, 1), (41, 41, 41)),
    "16 bit rgb": (png_16_bit(10 * 257 - 100, 3), (10, 10, 10)),
    "16 bit alpha": (png_16_bit(0xFFFF, 4), (255, 255, 255)),
}


@pytest.mark.parametrize(("data", "colour"), PIXELS.values(), ids=PIXELS)
@pytest.mark.case(15)
def test_every_kind_of_pixel_becomes_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    assert rgb_at(data) == colour


@pytest.mark.parametrize("black", [0, 100, 255])
@pytest.mark.case(15)
def test_cmyk_jpeg_is_read_as_adobe_writes_it(black: int) -> None:
    cmyk = np.full((80, 80, 4), (200, 50, 10, black), np.uint8)
    expected = [(255 - ink) * (255 - black) / 255 for ink in (200, 50, 10)]
    data = encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
    assert rgb_at(data) == pytest.approx(expected, abs=3)


def test_grey_jpeg_becomes_rgb() -> None:
    assert rgb_at(encoded(flat(77), "JPEG", quality=100)) == (77, 77, 77)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
@pytest.mark.case(15)
def test_of_a_moving_image_the_first_frame_is_taken(format_: str) -> None:
    frames = [Image.fromarray(flat(*colour)) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9))]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], duration=50)
    assert rgb_at(data) == pytest.approx((250, 0, 0), abs=4)


# ---- 16: damaged files ----
# mutations: strict=False in _decode_jpeg -> cuts, closed cuts and random bytes turn red;
#            OpenCV for JPEG -> random bytes and closed cuts turn red


def damaged_jpegs(jpeg: bytes, seed: int) -> dict[str, bytes]:
    rng, scan = random.Random(seed), start_of_scan(jpeg)
    half = (scan + len(jpeg)) // 2
    cuts = {f"cut at {cut}": jpeg[:cut] for cut in (rng.randrange(4, len(jpeg) - 1) for _ in range(20))}
    return cuts | {
        "minus 40 bytes": jpeg[:-40],
        "minus 2 bytes": jpeg[:-2],
        "half, closed": jpeg[:half] + b"\xff\xd9",
        "half, zeros": jpeg[:half] + bytes(len(jpeg) - half),
        "half, random": jpeg[:half] + rng.randbytes(len(jpeg) - half - 2) + b"\xff\xd9",
        "random after the header": jpeg[:scan] + rng.randbytes(len(jpeg) - scan),
        "header only": jpeg[:scan],
    }


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["plain", "progressive", "444"]
)
@pytest.mark.case(16)
def test_a_damaged_jpeg_is_corrupt_never_half_an_image(options: dict[str, Any]) -> None:
    jpeg = encoded(photo_rgb(), "JPEG", quality=90, **options)
    assert outcome_of(jpeg) is None
    for seed in range(3):
        damaged = damaged_jpegs(jpeg, seed)
        kept = {name for name, data in damaged.items() if outcome_of(data) is not Outcome.CORRUPT}
        assert not kept


def test_a_damaged_large_jpeg_is_corrupt_in_the_scaled_decode_too() -> None:
    jpeg = encoded(photo_rgb(2400, 1800), "JPEG", quality=80)
    for name, data in damaged_jpegs(jpeg, 0).items():
        assert outcome_of(data) is Outcome.CORRUPT, name


@pytest.mark.parametrize(
    ("format_", "options"), [("PNG", {}), ("GIF", {}), ("WEBP", {"quality": 80}), ("WEBP", {"lossless": True})]
)
def test_a_cut_image_of_any_format_is_corrupt(format_: str, options: dict[str, Any]) -> None:
    data = encoded(photo_rgb(), format_, **options)
    rng = random.Random(0)
    for cut in [*(rng.randrange(12, len(data) - 12) for _ in range(20)), len(data) - 40]:
        assert outcome_of(data[:cut]) is Outcome.CORRUPT, cut


def test_the_truncated_photo_among_the_fixtures_is_corrupt() -> None:
    assert outcome_of(fixture_path("data/images/skimage_truncated.jpg").read_bytes()) is Outcome.CORRUPT


def test_bytes_after_the_end_of_an_image_do_no_harm() -> None:
    for format_ in ("JPEG", "PNG", "GIF"):
        assert outcome_of(encoded(photo_rgb(), format_) + b"trailing junk" * 10) is None


MAGICS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8X"]
SMALL_FILES = [encoded(photo_rgb(80, 70), format_) for format_ in ("JPEG", "PNG", "WEBP", "GIF")]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(start=st.sampled_from(MAGICS), rest=st.binary(max_size=200))
def test_any_bytes_end_in_a_reason(start: bytes, rest: bytes) -> None:
    assert outcome_of(start + rest) is not None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.sampled_from(SMALL_FILES), place=st.integers(0, 10**6), value=st.binary(min_size=1, max_size=8))
def test_any_changed_bytes_give_an_image_or_a_reason(data: bytes, place: int, value: bytes) -> None:
    place %= len(data)
    outcome_of(data[:place] + value + data[place + len(value) :], ImageSettings(max_pixels=1_000_000))


# ---- 17, 56: a decoder that crashes, loops or eats memory costs its row, nothing else ----


def test_the_child_gives_the_same_pixels_and_reasons() -> None:
    jpeg = encoded(photo_rgb(700, 900), "JPEG")
    narrow = encoded(photo_rgb(20, 90), "PNG")
    with ImageDecoder(SETTINGS) as decoder:
        here, there = decode_image(jpeg, SETTINGS), decoder.decode(jpeg)
        assert np.array_equal(here.rgb_HWC, there.rgb_HWC)
        assert same_but_pixels(here, there)
        with pytest.raises(TooSmall) as caught:
            decoder.decode(narrow)
        assert np.array_equal(caught.value.image.rgb_HWC, photo_rgb(20, 90))
        for data, outcome in ((jpeg[:-40], Outcome.CORRUPT), (b"<html>", Outcome.NOT_IMAGE)):
            with pytest.raises(Rejected) as rejected:
                decoder.decode(data)
            assert rejected.value.outcome is outcome


# Mutation tried: neither limit of shared bytes -> for a size of a million, no memory can be mapped.
@pytest.mark.parametrize("size", [64, 10**6])
def test_any_size_of_images_can_be_asked_for(size: int) -> None:
    rgb_HWC = photo_rgb(300, 200)
    with ImageDecoder(ImageSettings(size=size, min_size=16)) as decoder:
        image = decoder.decode(encoded(rgb_HWC, "PNG"))
    assert min(image.width, image.height) == min(200, size)


def same_but_pixels(one: DecodedImage, other: DecodedImage) -> bool:
    names = ("width", "height", "original_width", "original_height", "format")
    return all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.mark.parametrize(("format_", "options"), [("PNG", {"compress_level": 1}), ("JPEG", {"progressive": True})])
@pytest.mark.case(56)
def test_an_image_that_needs_more_memory_than_allowed_costs_its_row_only(format_: str, options: dict[str, Any]) -> None:
    # mutations: no _limit_memory in the child -> the large image is decoded; libjpeg's word not looked at -> corrupt
    with ImageDecoder(ImageSettings(decode_memory_bytes=48 * 2**20)) as decoder:
        with pytest.raises(Rejected, match="memory") as caught:
            decoder.decode(encoded(np.zeros((5000, 5000, 3), np.uint8), format_, **options))
        assert caught.value.outcome is Outcome.WORKER_CRASH
        assert decoder.decode(encoded(photo_rgb(), "JPEG")).width == 320


@pytest.mark.case(17)
def test_a_killed_child_costs_one_row_and_the_next_one_is_decoded() -> None:
    with ImageDecoder(ImageSettings(decode_timeout_s=2.0)) as decoder:
        decoder.start()
        (sandbox,) = decoder._sandboxes
        assert sandbox.pid is not None
        os.kill(sandbox.pid, signal.SIGSTOP)  # a decoder that does not come back
        began_s = time.monotonic()
        with pytest.raises(Rejected, match=r"2\.0 s") as caught:
            decoder.decode(encoded(photo_rgb(), "JPEG"))
        assert caught.value.outcome is Outcome.WORKER_CRASH
        assert time.monotonic() - began_s < 6
        assert decoder.decode(encoded(photo_rgb(), "JPEG")).width == 320


# ---- 18: orientation, and nothing else of the metadata ----
# mutations: transpose dropped, the two flips swapped, 5 and 7 exchanged in _upright


def exif_bytes(orientation: int, order: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[274] = orientation
    exif[0x010F] = "camera maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    return exif.tobytes()


def marked_corner() -> np.ndarray:
    """120 x 80, white in the upper left corner as a viewer shall see it."""
    rgb = np.full((80, 120, 3), 60, np.uint8)
    rgb[:24, :32] = 255
    return rgb


STORED_AS = {  # how an image has to lie in the file so that its orientation makes it upright
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, 1),
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rgb: np.rot90(rgb, -1),
}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.case(18)
def test_images_stand_upright_whatever_their_orientation(orientation: int, format_: str) -> None:
    lying = np.ascontiguousarray(STORED_AS[orientation](marked_corner()))
    options = {} if format_ == "PNG" else {"quality": 100}
    data = encoded(lying, format_, exif=exif_bytes(orientation), **options)
    image = decode_image(data, SETTINGS)
    assert (image.width, image.height, image.original_width, image.original_height) == (120, 80, 120, 80)
    assert np.abs(image.rgb_HWC.astype(int) - marked_corner()).max() < 40


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_exif_are_read(order: str) -> None:
    lying = np.ascontiguousarray(STORED_AS[6](marked_corner()))
    assert decode_image(encoded(lying, "JPEG", exif=exif_bytes(6, order)), SETTINGS).width == 120


def test_a_downscaled_image_is_upright_too() -> None:
    lying = np.ascontiguousarray(STORED_AS[6](cv2.resize(marked_corner(), (1800, 1200))))
    image = decode_image(encoded(lying, "JPEG", exif=exif_bytes(6)), SETTINGS)
    assert (image.width, image.height, image.original_width, image.original_height) == (768, 512, 1800, 1200)
    assert image.rgb_HWC[20, 20].min() > 200


@pytest.mark.parametrize("damage", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40])
def test_broken_exif_counts_as_upright(damage: bytes) -> None:
    image = decode_image(encoded(photo_rgb(), "JPEG", exif=b"Exif\0\0" + damage), SETTINGS)
    assert (image.width, image.original_width) == (320, 320)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(orientation: int) -> None:
    # mutation: the value returned as it is -> original width and height are exchanged
    image = decode_image(encoded(photo_rgb(), "JPEG", exif=exif_bytes(orientation)), SETTINGS)
    assert (image.width, image.original_width) == (320, 320)


@pytest.mark.case(18)
def test_no_metadata_leaves() -> None:
    data = encoded(photo_rgb(), "JPEG", exif=exif_bytes(1), comment=b"secret", icc_profile=b"\0" * 200)
    jpeg = encode_jpeg(decode_image(data, SETTINGS).rgb_HWC, 95)
    written = Image.open(io.BytesIO(jpeg))
    assert not written.getexif()
    assert set(written.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"camera" not in jpeg


# ---- the stored size ----


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 5000), height=st.integers(1, 5000), size=st.integers(1, 1024))
def test_the_shorter_side_is_the_size_and_nothing_is_enlarged(width: int, height: int, size: int) -> None:
    stored_width, stored_height = stored_size(width, height, size)
    assert min(stored_width, stored_height) == min(width, height, size)
    assert stored_width <= width
    assert stored_height <= height
    if min(width, height) > size:
        scale = size / min(width, height)
        assert abs(stored_width - width * scale) <= 0.5
        assert abs(stored_height - height * scale) <= 0.5
    assert stored_size(height, width, size) == (stored_height, stored_width)


@pytest.mark.parametrize("side", [(1023, 1400), (1024, 1400), (1025, 2049), (2048, 3000), (4200, 4100)])
def test_scaled_decode_agrees_with_full_decode(side: tuple[int, int]) -> None:
    # mutation: twice the divisor -> the image is enlarged and differs
    rgb = cv2.resize(photo_rgb(), side, interpolation=cv2.INTER_CUBIC)
    image = decode_image(encoded(rgb, "JPEG", quality=95), SETTINGS)
    expected = cv2.resize(rgb, (image.width, image.height), interpolation=cv2.INTER_AREA)
    assert min(image.width, image.height) == 512
    assert cv2.PSNR(image.rgb_HWC, expected) > 38


def test_the_same_pixels_give_the_same_bytes_whatever_the_threads() -> None:
    jpeg = encoded(photo_rgb(1500, 1100), "JPEG")
    try:
        results = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            rgb = decode_image(jpeg, SETTINGS).rgb_HWC
            results.append((rgb.tobytes(), encode_jpeg(rgb, 95), thumbnail(rgb)))
        assert results[0] == results[1]
    finally:
        cv2.setNumThreads(1)


def test_encode_jpeg_is_close_to_the_pixels() -> None:
    rgb = photo_rgb()
    assert cv2.PSNR(decode_image(encode_jpeg(rgb, 95), SETTINGS).rgb_HWC, rgb) > 28


def test_every_colour_at_every_alpha_is_rounded_right() -> None:
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    data = encoded(np.stack([colour, colour, colour, alpha], -1).astype(np.uint8), "PNG")
    expected = np.floor((colour * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    assert np.array_equal(decode_image(data, SETTINGS).rgb_HWC[:, :, 1], expected)
