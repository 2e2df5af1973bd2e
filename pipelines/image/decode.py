"""Bytes from the web become upright RGB images of the stored size, or a reason.

The evidence for the decoders is in docs/decisions/2026-11-20-download-decode.md: of 40 JPEGs with random bytes behind
their header OpenCV made a grey image of 37; of 40 that were cut and closed again OpenCV and Pillow made half a
image of all; libjpeg-turbo through simplejpeg, which can stop at the first warning, of none, and it is the fastest of
the three. So simplejpeg decodes JPEG, OpenCV the rest, and nothing else decodes images.

Rules
- The format comes from the first bytes; what a server declares is not looked at. Of animated images the first frame.
- EXIF orientation is applied; no metadata of any kind leaves this module.
- Alpha goes over white; 16 bits are rounded to 8; grey, palette and CMYK (in Adobe's inverted form, like all CMYK on
  the web) become RGB. An ICC profile is not applied: the numbers are taken as sRGB, as other builders and trainers do.
- Downscaled by area averaging, JPEGs after a decode at 1/2, 1/4 or 1/8 where that is still large enough.

Legend: H, W height and width in pixels, C = 3 channels in the order red, green, blue.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from mmap import PAGESIZE
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.child import answer_buffer
from lposekit.sandbox.killed import again_if_killed
from lposekit.sandbox.sandbox import Sandbox, SandboxError
from pipelines.image.header import Header, read_header
from pipelines.image.lean_jpeg import QuantizationTables, lean_jpeg, tables_of
from pipelines.image.settings import ImageSettings

RGB = npt.NDArray[np.uint8]

_IMAGES_IN_WORK = 128
"""Of one decoder, until the last use of their pixels; further ones are copied."""
_SHARED_BYTES, _SHARED_IMAGE_BYTES = 2**30, 32 * 2**20
"""Most of one decoder, and of one image: `size` may be any number, and pages that held an image once are kept."""
_BAND_ROWS = 256  # rows converted at a time, so that a conversion needs no second image in memory
_THUMBNAIL_SIDE, _THUMBNAIL_QUALITY = 160, 80
_CHEAP_PIXELS = 10_000_000
"""Images up to this size may be as plain as they like: they are decoded within a second."""
_MAX_PIXELS_PER_BYTE = 100
"""Photos have 1 to 30, at poor quality 60."""
_MAX_SCANNED_PIXELS = 1_500_000_000
"""Ten scans are usual; so many of the largest image take about a second."""
_SCAN = re.compile(b"\xff\xda")  # faster than `bytes.count`
_OUT_OF_MEMORY = -4  # cv::Error::StsNoMem

cv2.setNumThreads(1)  # workers are the parallelism; the pixels do not depend on it


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An image as it will be stored.

    rgb_HWC: uint8 [height, width, 3], contiguous. original_width, original_height: upright, before the resize.
    format: what the bytes were: jpeg, png, webp or gif.
    kept_jpeg: the file as it came, without its metadata, where the settings ask for it (`lean_jpeg`): the same pixels.
    """

    rgb_HWC: RGB
    width: int
    height: int
    original_width: int
    original_height: int
    format: str
    kept_jpeg: bytes | None = None


class TooSmall(Rejected):
    """The image is sound but too small or too narrow. `image` is there for the report's thumbnail."""

    def __init__(self, detail: str, image: DecodedImage) -> None:
        super().__init__(Outcome.TOO_SMALL, detail)
        self.image = image


def decode_image(data: bytes, settings: ImageSettings) -> DecodedImage:
    """Decode in this process; `ImageDecoder` gives the same pixels and reasons from a killable child.

    Raises `Rejected` (not_image, too_many_pixels, corrupt), `TooSmall`, and MemoryError where memory is limited.
    """
    header = read_header(data)
    if header.width * header.height > settings.max_pixels:
        detail = f"{header.width} x {header.height} is more than {settings.max_pixels} pixels"
        raise Rejected(Outcome.TOO_MANY_PIXELS, detail)
    if detail := _why_too_costly(data, header):
        raise Rejected(Outcome.TOO_MANY_PIXELS, detail)
    width, height = stored_size(header.width, header.height, settings.size)
    rgb_HWC = _decode_jpeg(data, header, width, height) if header.format == "jpeg" else _decode_other(data, header)
    if rgb_HWC.shape[:2] != (height, width):
        rgb_HWC = _resized(rgb_HWC, width, height)
    rgb_HWC = _upright(rgb_HWC, header.orientation)
    original_width, original_height = (header.width, header.height)[:: -1 if header.orientation >= 5 else 1]
    height, width = rgb_HWC.shape[:2]
    kept = _kept_jpeg(data, header, (width, height), settings)
    image = DecodedImage(rgb_HWC, width, height, original_width, original_height, header.format, kept)
    if detail := _why_too_small(original_width, original_height, settings):
        raise TooSmall(detail, image)
    return image


def stored_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height with the shorter side at most `size`: ratio kept, halves rounded up, never enlarged."""
    shorter = min(width, height)
    if shorter <= size:
        return width, height
    return (2 * width * size + shorter) // (2 * shorter), (2 * height * size + shorter) // (2 * shorter)


def _resized(rgb_HWC: RGB, width: int, height: int) -> RGB:
    buffer = answer_buffer(height * width * 3)
    into_HWC = None if buffer is None else np.frombuffer(buffer, np.uint8).reshape(height, width, 3)
    return cv2.resize(rgb_HWC, (width, height), into_HWC, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def encode_jpeg(rgb_HWC: RGB, quality: int) -> bytes:
    """JPEG of the pixels, 4:2:0, without metadata; the same bytes for the same pixels. `quality` in 1..100."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb_HWC), quality, "RGB", "420", fastdct=False)


def _kept_jpeg(data: bytes, header: Header, stored: tuple[int, int], settings: ImageSettings) -> bytes | None:
    untouched = header.orientation == 1 and (header.width, header.height) == stored
    if not (settings.keep_jpeg and header.format == "jpeg" and untouched):
        return None
    return lean_jpeg(data, _own_tables(settings.jpeg_quality))


@cache
def _own_tables(quality: int) -> QuantizationTables:
    return tables_of(encode_jpeg(np.zeros((16, 16, 3), np.uint8), quality))


def thumbnail(rgb_HWC: RGB) -> bytes:
    """A JPEG of at most 160 pixels a side, for the report."""
    height, width = rgb_HWC.shape[:2]
    scale = min(_THUMBNAIL_SIDE / max(width, height), 1.0)
    small_HWC = cv2.resize(
        rgb_HWC, (max(round(width * scale), 1), max(round(height * scale), 1)), interpolation=cv2.INTER_AREA
    )
    return encode_jpeg(small_HWC.astype(np.uint8, copy=False), _THUMBNAIL_QUALITY)


class ImageDecoder:
    """`decode_image` in `settings.decode_processes` killable children; with 0 of them in this process.

    Give `decode` to as many threads as there are children: each call takes a free one.
    """

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        self._free: queue.LifoQueue[Sandbox] = queue.LifoQueue()  # the last one used still has warm caches
        self._sandboxes = [_image_sandbox(settings) for _ in range(settings.decode_processes)]
        for sandbox in self._sandboxes:
            self._free.put(sandbox)

    @property
    def parallel(self) -> int:
        """Calls of `decode` that can run at the same time."""
        return max(len(self._sandboxes), 1)

    def decode(self, data: bytes) -> DecodedImage:
        """As `decode_image`; a decoder that crashes, hangs or eats memory raises `Rejected` with worker_crash. One that
        is killed from outside is replaced, and only if that happens again and again, so does it."""
        if not self._sandboxes:
            return decode_image(data, self._settings)
        sandbox = self._free.get()
        try:
            answer = again_if_killed(lambda: sandbox.call({"data": data}, timeout_s=self._settings.decode_timeout_s))
        except SandboxError as err:
            raise Rejected(Outcome.WORKER_CRASH, f"decoder: {err}") from err
        finally:
            self._free.put(sandbox)
        image = DecodedImage(**answer["image"])
        if answer["too_small"] is not None:
            raise TooSmall(answer["too_small"], image)
        return image

    def start(self) -> None:
        """Start the children now, rather than with the first images."""
        for sandbox in self._sandboxes:
            sandbox.start()

    def close(self) -> None:
        """End the children."""
        for sandbox in self._sandboxes:
            sandbox.close()

    def __enter__(self) -> ImageDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _image_sandbox(settings: ImageSettings) -> Sandbox:
    image_bytes = min(6 * settings.size**2, _SHARED_IMAGE_BYTES)  # up to twice as long as wide
    slot_bytes = -(-image_bytes // PAGESIZE) * PAGESIZE
    return Sandbox(
        f"{__name__}:decode_payload",
        memory_limit_bytes=settings.decode_memory_bytes,
        init_args={"settings": asdict(settings)},
        slots=min(_IMAGES_IN_WORK, _SHARED_BYTES // slot_bytes),
        slot_bytes=slot_bytes,
    )


def decode_payload(payload: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, object]:
    """What runs in the child: `decode_image` with plain values on both sides."""
    try:
        image, too_small = decode_image(payload["data"], ImageSettings(**settings)), None
    except TooSmall as rejected:
        image, too_small = rejected.image, rejected.detail
    return {"image": {name: getattr(image, name) for name in DecodedImage.__slots__}, "too_small": too_small}


def _decode_jpeg(data: bytes, header: Header, width: int, height: int) -> RGB:
    """Strictly, at the smallest of 1/1, 1/2, 1/4, 1/8 that covers width x height (the other eighths are slower)."""
    divisor = next(n for n in (8, 4, 2, 1) if n == 1 or (header.width >= n * width and header.height >= n * height))
    expected_HW = (-(-header.height // divisor), -(-header.width // divisor))
    # in place of the answer, unless it is resized to there
    buffer = answer_buffer(height * width * 3) if expected_HW == (height, width) else None
    try:
        rgb_HWC = simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_height=expected_HW[0],
            min_width=expected_HW[1],
            min_factor=divisor,
            buffer=buffer,
            strict=True,
        )
    except ValueError as err:  # simplejpeg's only error, warnings included
        if "memory" in str(err).lower():
            raise MemoryError(str(err)) from err
        raise Rejected(Outcome.CORRUPT, f"jpeg: {err}") from err
    _check_size(rgb_HWC, expected_HW)
    return rgb_HWC


def _decode_other(data: bytes, header: Header) -> RGB:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as err:
        if err.code == _OUT_OF_MEMORY:
            raise MemoryError(str(err)) from err
        raise Rejected(Outcome.CORRUPT, f"{header.format}: {err.err}") from err
    if pixels is None:
        raise Rejected(Outcome.CORRUPT, f"{header.format}: the decoder refused it")
    _check_size(pixels, (header.height, header.width))
    rgb_HWC = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _BAND_ROWS):
        rgb_HWC[top : top + _BAND_ROWS] = _rgb_band(pixels[top : top + _BAND_ROWS])
    return rgb_HWC


def _rgb_band(pixels: npt.NDArray[Any]) -> RGB:
    """RGB of grey, BGR or BGRA rows with 8 or 16 bits, alpha over white."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    rgb_HWC = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB).astype(np.uint8, copy=False)
    alpha_HW1 = pixels[:, :, 3:].astype(np.uint16)
    if alpha_HW1.min() == 255:
        return rgb_HWC
    over_white = rgb_HWC * alpha_HW1 + 255 * (255 - alpha_HW1) + 128
    return ((over_white + (over_white >> 8)) >> 8).astype(np.uint8)  # division by 255, rounded, exact up to 255 * 255


def _check_size(pixels: npt.NDArray[Any], expected_HW: tuple[int, int]) -> None:
    if pixels.shape[:2] != expected_HW:
        height, width = expected_HW
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise Rejected(Outcome.CORRUPT, f"the header promises {width} x {height} pixels, the image has {found}")


def _upright(rgb_HWC: RGB, orientation: int) -> RGB:
    """Apply an EXIF orientation: 2, 4, 5, 7 mirror, 3, 6, 8 turn."""
    if orientation in (5, 6, 7, 8):
        rgb_HWC = rgb_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb_HWC = rgb_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb_HWC = rgb_HWC[::-1]
    return np.ascontiguousarray(rgb_HWC)


def _why_too_costly(data: bytes, header: Header) -> str:
    """A kilobyte may stand for a hundred million pixels, and each scan of a progressive JPEG goes over all of them."""
    num_pixels = header.width * header.height
    if header.format == "jpeg":
        # within a scan the two bytes of this marker cannot follow each other; a few in metadata do no harm
        num_scans = len(_SCAN.findall(data))
        is_costly = num_scans * num_pixels > _MAX_SCANNED_PIXELS
        return f"{header.width} x {header.height} pixels in {num_scans} scans" if is_costly else ""
    is_costly = num_pixels > _CHEAP_PIXELS and num_pixels > _MAX_PIXELS_PER_BYTE * len(data)
    return f"{header.width} x {header.height} pixels in {len(data)} bytes" if is_costly else ""


def _why_too_small(width: int, height: int, settings: ImageSettings) -> str:
    shorter, longer = sorted((width, height))
    if shorter < settings.min_size:
        return f"{width} x {height}: the shorter side is below {settings.min_size} pixels"
    if longer > settings.max_aspect_ratio * shorter:
        return f"{width} x {height}: longer than {settings.max_aspect_ratio:g} times its shorter side"
    return ""
