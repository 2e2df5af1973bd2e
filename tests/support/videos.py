"""Real video files for tests, made with PyAV in milliseconds: images that carry their own frame number.

The number stands as a row of black and white blocks along the lower edge, so that it survives scaling and H.264:
`read_number(rgb_HWC)` gives it back. Above it a texture pans by a few pixels a frame; each shot has its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

Image = npt.NDArray[np.uint8]
NUMBER_BITS = 14
MILLISECOND = Fraction(1, 1000)


@lru_cache(maxsize=16)
def _texture(shot: int, width: int, height: int) -> Image:
    """A large colourful image; shots differ in hue and brightness as real ones do."""
    random = np.random.default_rng(shot)
    rough = random.integers(0, 256, (height // 24 + 2, (width + 600) // 24 + 2, 3), dtype=np.uint8)
    smooth = cv2.resize(rough, (width + 600, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    tint = np.array([[40, 0, 90], [90, 60, 0], [0, 90, 40], [100, 100, 100], [0, 0, 0]][shot % 5], dtype=np.float32)
    return np.clip(smooth * 0.6 + tint, 0, 255).astype(np.uint8)


def moving(number: int, shot: int = 0, size: tuple[int, int] = (320, 240), step: int = 3) -> Image:
    """Frame `number` of a panning shot, [H, W, 3] RGB, its number drawn."""
    width, height = size
    left = (number * step) % 600
    return with_number(_texture(shot, width, height)[:, left : left + width].copy(), number)


def with_number(image: Image, number: int) -> Image:
    """Draw `number` (below 2**14) into the image."""
    height, width = image.shape[:2]
    top = height - height // 8
    image[top:] = 128
    for bit, (left, right) in enumerate(_blocks(width)):
        image[top:, left:right] = 235 if number >> bit & 1 else 20
    return image


def read_number(image: Image) -> int:
    """The number that `with_number` drew, at any size."""
    height, width = image.shape[:2]
    row = image[height - height // 16]
    number = 0
    for bit, (left, right) in enumerate(_blocks(width)):
        number |= int(row[(3 * left + right) // 4 : (left + 3 * right) // 4 + 1].mean() > 128) << bit
    return number


def _blocks(width: int) -> Iterator[tuple[int, int]]:
    for bit in range(NUMBER_BITS):
        yield bit * width // NUMBER_BITS, (bit + 1) * width // NUMBER_BITS


def grey_noise(number: int, size: tuple[int, int] = (320, 240)) -> Image:
    """An image in which nothing moves but the noise of the sensor; no number."""
    random = np.random.default_rng(number)
    still = _texture(3, *size)[:, : size[0]].astype(np.int16)
    return np.clip(still + random.integers(-3, 4, still.shape), 0, 255).astype(np.uint8)


def plain(level: int, size: tuple[int, int] = (320, 240)) -> Image:
    """One grey level all over."""
    return np.full((size[1], size[0], 3), level, dtype=np.uint8)


def dark(number: int, size: tuple[int, int] = (320, 240)) -> Image:
    """A moving shot in which nearly no light is left; no number."""
    left = number * 3 % 600
    return (_texture(0, *size)[:, left : left + size[0]] // 3).astype(np.uint8)


def write_video(
    path: Path,
    images: Iterable[Image],
    fps: Fraction | int = 25,
    *,
    pts: Sequence[int] | None = None,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 2,
    crf: int = 20,
    preset: str = "ultrafast",
    x264: str = "",
    rotation: int = 0,
    faststart: bool = False,
) -> Path:
    """Write an H.264 (or other) file. `pts`: time stamps in milliseconds, for a variable rate. `rotation`: degrees
    clockwise that a player has to turn the image by; the images given are the upright ones. `preset`: x264's;
    `ultrafast` codes without CABAC, in which most flipped bits yield another valid image."""
    options = {"movflags": "+faststart"} if faststart else {}
    container = av.open(str(path), "w", options=options)
    rate = Fraction(fps)
    stream = None
    for number, upright in enumerate(images):
        image = np.ascontiguousarray(np.rot90(upright, rotation // 90))
        if stream is None:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = image.shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = b_frames
            stream.codec_context.thread_count = 1
            if codec == "libx264":
                options = {"crf": str(crf), "preset": preset, "sc_threshold": "0", "x264-params": x264}
                stream.codec_context.options = {name: value for name, value in options.items() if value}
            if pts is not None:
                stream.codec_context.time_base = MILLISECOND
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number if pts is None else pts[number]
        frame.time_base = 1 / rate if pts is None else MILLISECOND
        container.mux(stream.encode(frame))
    if stream is not None:
        container.mux(stream.encode(None))
    container.close()
    if rotation:
        _patch_rotation(path, rotation)
    return path


def _patch_rotation(path: Path, degrees: int) -> None:
    """Write the display matrix of the (only) track of an mp4 file."""
    one = 0x10000
    cos, sin = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    data = bytearray(path.read_bytes())
    matrix_at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    struct.pack_into(">9i", data, matrix_at, cos, sin, 0, -sin, cos, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def read_images(path: Path) -> list[Image]:
    """All frames of a file, decoded with PyAV; independent of the code under test."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def box_payload(data: bytes | bytearray, name: bytes) -> tuple[int, int]:
    """Where the payload of the first mp4 box of that name begins and ends."""
    at = data.index(name)
    return at + 4, at - 4 + struct.unpack_from(">I", data, at - 4)[0]
