"""Images that cost far more to decode than to send are refused from their bytes; no host holds up the decoder."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from lposekit.errors import Outcome, Rejected
from lposekit.records import ImageRow
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.settings import FetchSettings
from pipelines.image.decode import DecodedImage, decode_image
from pipelines.image.decode_budget import DecodeBudget
from pipelines.image.download import download_rows
from pipelines.image.settings import ImageSettings
from tests.pipelines.fetch.conftest import names
from tests.support.bad_server import BadServer
from tests.support.pages import Page, tiny_jpeg

pytestmark = [pytest.mark.timeout(180), pytest.mark.case(86)]
SETTINGS = ImageSettings(min_size=1)


def encoded(side: int, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), 99).save(file, format_, **options)
    return file.getvalue()


def png_head(side: int, num_bytes: int) -> bytes:
    """The beginning of a PNG, with bytes behind it that no decoder gets to see."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return head + bytes(num_bytes - len(head))


def many_scans(side: int, num_scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(side, "JPEG", progressive=True, quality=10)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * num_scans + data[-2:]


def refusal(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        decode_image(data, SETTINGS)
    assert caught.value.outcome is Outcome.TOO_MANY_PIXELS
    return caught.value.detail


# Mutation: no look at the pixels of a byte (5 s for a whole one; these are cut, so `corrupt`).
@pytest.mark.parametrize(
    "data",
    [
        png_head(9900, 300_000),
        b"RIFF\x22\0\0\0WEBPVP8L\x16\0\0\0\x2f" + struct.pack("<I", 9899 | 9899 << 14) + bytes(17),
        b"GIF89a" + struct.pack("<HH", 9900, 9900) + bytes(70_000),
    ],
    ids=["png", "webp", "gif"],
)
def test_a_hundred_megapixels_in_a_few_bytes_are_refused(data: bytes) -> None:
    assert "9900 x 9900 pixels in" in refusal(data)


# Mutations: the scans are not counted (7 s for 9,900 pixels a side); they are multiplied by nothing.
def test_a_jpeg_of_many_scans_is_refused_by_its_work() -> None:
    assert refusal(many_scans(3000, 200)) == "3000 x 3000 pixels in 206 scans"
    with pytest.raises(Rejected) as caught:  # libjpeg warns of the repetition: the limit is not what ends this one
        decode_image(many_scans(300, 200), SETTINGS)
    assert caught.value.outcome is Outcome.CORRUPT


def test_plain_images_of_usual_size_and_large_photos_are_decoded() -> None:
    assert decode_image(encoded(3000, "PNG"), SETTINGS).original_width == 3000
    assert decode_image(encoded(3000, "JPEG", progressive=True), SETTINGS).original_width == 3000
    with pytest.raises(Rejected) as caught:  # 99 pixels a byte: the decoder is asked, and finds nothing
        decode_image(png_head(9900, 990_000), SETTINGS)
    assert caught.value.outcome is Outcome.CORRUPT


# Mutations: `image_of` never raises; one budget for all hosts; `each_s` is not added (the good host ends too).
def test_a_host_whose_images_take_too_long_uses_up_its_own_time(tmp_path: Path) -> None:
    slow_bytes = tiny_jpeg() + b"slow"

    def decode(data: bytes) -> DecodedImage:
        time.sleep(0.1 if data == slow_bytes else 0.01)
        return decode_image(tiny_jpeg(), SETTINGS)

    with BadServer({"/slow": Page(slow_bytes), "/good": Page(tiny_jpeg())}) as server:
        settings = FetchSettings(threads=4, robots=False)
        hosts = names({"slow.test": ["127.0.0.1"], "good.test": ["127.0.0.1"]})
        opener = GuardedOpener(settings, allow_private_addresses=True, resolver=hosts)
        rows = [
            ImageRow(f"{2 * number + place:09}", f"{server.url_as(f'{name}.test')}/{name}", "", {})
            for number in range(30)
            for place, name in enumerate(("slow", "good"))
        ]
        budget = DecodeBudget(first_s=0.25, each_s=0.03)
        ended = list(
            download_rows(
                rows,
                opener=opener,
                decode=decode,
                settings=settings,
                work_dir=tmp_path,
                budget=budget,
                decode_threads=1,
            )
        )
    slow = [row for row in ended if "slow.test" in (row.row.url or "")]
    good = [row for row in ended if "good.test" in (row.row.url or "")]
    refused = [row for row in slow if row.outcome is Outcome.WORKER_CRASH and "its time is used up" in row.detail]
    assert 3 <= len(slow) - len(refused) <= 6
    assert [row.outcome for row in good] == [None] * 30
