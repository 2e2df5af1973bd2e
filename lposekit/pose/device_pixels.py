"""Letterboxing and cutting on a GPU: the images of a batch go there once, in one copy, and stay for both models.

One batched gather takes the pixels of all outputs; how many kernels run does not depend on how many images there are.
Pixels are those of `lposekit.pose.preprocess` within one level of 255 (OpenCV rounds its weights, this does not).
Legend: B outputs, H W their height and width; `pixels_P3` the images one after the other, uint8, a row a pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lposekit.pose.preprocess import PAD_VALUE, Crops, Letterboxed, centers_and_sizes, fitted_size

_THREAD = threading.local()


@dataclass(frozen=True)
class DeviceImage:
    """An image among others on a device: `first` is the number of its first pixel."""

    pixels_P3: Tensor
    first: int
    shape: tuple[int, int, int]


def upload(images_rgb: Sequence[npt.NDArray[np.uint8]], device: str) -> list[DeviceImage]:
    """Images uint8 [H, W, 3] to the device, in one copy from memory that this thread uses again and again."""
    counts = [image.shape[0] * image.shape[1] for image in images_rgb]
    staging_P3 = _staging(sum(counts), device)
    firsts = np.cumsum([0, *counts])
    for image, first, count in zip(images_rgb, firsts, counts, strict=False):
        staging_P3[first : first + count] = image.reshape(-1, 3)
    pixels_P3 = to_device(torch.from_numpy(staging_P3), device)
    return [DeviceImage(pixels_P3, int(first), image.shape) for first, image in zip(firsts, images_rgb, strict=False)]


def _staging(num_pixels: int, device: str) -> npt.NDArray[np.uint8]:
    """Memory for so many pixels; pinned where there is a GPU. It is free again when the answer of a batch is there."""
    held: Tensor | None = getattr(_THREAD, "pixels_P3", None)
    if held is None or len(held) < num_pixels:
        held = torch.empty((num_pixels, 3), dtype=torch.uint8, pin_memory=device.startswith("cuda"))
        _THREAD.pixels_P3 = held
    return held[:num_pixels].numpy()


def own_queue(device: str) -> AbstractContextManager[object]:
    """On a GPU: this thread's own queue of copies and kernels there (a CUDA stream), so that copies of one thread go on
    beside the kernels of another, and each waits for its own numbers alone."""
    if not device.startswith("cuda"):
        return nullcontext()
    streams: dict[str, torch.cuda.Stream] = _THREAD.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
        streams[device].wait_stream(torch.cuda.default_stream(device))  # the weights came there by it
    return torch.cuda.stream(streams[device])


def to_device(tensor: Tensor, device: str) -> Tensor:
    """The one way from the host to the device."""
    return tensor.to(device, non_blocking=True, copy=True)


def to_host(tensor: Tensor) -> npt.NDArray[Any]:
    """The one way back; waits for what is computed before."""
    return tensor.cpu().numpy()


def letterbox_there(images: Sequence[DeviceImage], size_px: int, bgr: bool) -> Letterboxed:
    """As `lposekit.pose.preprocess.letterbox`."""
    sizes_B2 = np.array([(image.shape[1], image.shape[0]) for image in images], np.float32)
    fitted_B2 = np.array([fitted_size(*image.shape[:2], size_px) for image in images], np.float32)
    scale_B2 = fitted_B2 / sizes_B2
    # pixel centres are at halves: x of the image = (x of the square + 0.5) / scale - 0.5
    step_B2 = np.reciprocal(scale_B2)
    start_B2 = (0.5 * step_B2 - 0.5).astype(np.float32)
    pixels = _sample(images, step_B2, start_B2, (size_px, size_px), bgr, fitted_B2)
    return Letterboxed(pixels, scale_B2)


def cut_there(
    persons: Sequence[tuple[DeviceImage, npt.NDArray[np.float32]]],
    input_size_wh: tuple[int, int],
    padding: float,
    use_udp: bool,
    bgr: bool,
) -> Crops:
    """As `lposekit.pose.preprocess.Cutter.cut`."""
    width, height = input_size_wh
    center_N2, size_N2 = centers_and_sizes(np.stack([bbox for _, bbox in persons]), padding, width / height)
    span_2 = np.array(input_size_wh, np.float32) - (1 if use_udp else 0)
    step_N2 = size_N2 / span_2
    if not use_udp:  # MMPose takes one scale, that of the width, for both directions
        step_N2 = np.repeat(step_N2[:, :1], 2, axis=1)
    start_N2 = (center_N2 - 0.5 * span_2 * step_N2).astype(np.float32)
    pixels = _sample([image for image, _ in persons], step_N2, start_N2, (height, width), bgr, None)
    return Crops(pixels, center_N2, size_N2)


def _sample(
    images: Sequence[DeviceImage],
    step_B2: npt.NDArray[np.float32],
    start_B2: npt.NDArray[np.float32],
    output_hw: tuple[int, int],
    bgr: bool,
    fitted_B2: npt.NDArray[np.float32] | None,
) -> Tensor:
    """Bilinear, uint8 [B, H, W, 3]: output pixel (x, y) shows the image at start + (x, y) * step.

    `fitted_B2`: width and height that the image fills; beyond them the output is grey, and at the image's edge its last
    pixel goes on. None: what is not in the image is black.
    """
    pixels_P3 = images[0].pixels_P3
    assert all(image.pixels_P3 is pixels_P3 for image in images), "images of one upload"
    sizes_B3 = [(image.first, image.shape[1], image.shape[0]) for image in images]
    filled_B2 = step_B2 if fitted_B2 is None else fitted_B2
    numbers = np.concatenate([np.array(sizes_B3, np.float64), step_B2, start_B2, filled_B2], 1)
    first, width, height, step_x, step_y, start_x, start_y, fill_x, fill_y = to_device(
        torch.from_numpy(numbers), str(pixels_P3.device)
    ).unbind(1)
    x0, x1, share_x, in_x0, in_x1 = _neighbours(output_hw[1], step_x, start_x, width)
    y0, y1, share_y, in_y0, in_y1 = _neighbours(output_hw[0], step_y, start_y, height)
    row_0, row_1 = (first[:, None] + y * width[:, None] for y in (y0, y1))

    def taken(row_BH: Tensor, x_BW: Tensor, row_in: Tensor, x_in: Tensor) -> Tensor:
        values = pixels_P3[(row_BH[:, :, None] + x_BW[:, None, :]).long()].float()
        return values if fitted_B2 is not None else values * (row_in[:, :, None] & x_in[:, None, :])[..., None]

    upper = torch.lerp(taken(row_0, x0, in_y0, in_x0), taken(row_0, x1, in_y0, in_x1), share_x[:, None, :, None])
    lower = torch.lerp(taken(row_1, x0, in_y1, in_x0), taken(row_1, x1, in_y1, in_x1), share_x[:, None, :, None])
    mixed = torch.lerp(upper, lower, share_y[:, :, None, None]).round_()
    if fitted_B2 is not None:
        filled = _up_to(fill_y, output_hw[0])[:, :, None] & _up_to(fill_x, output_hw[1])[:, None, :]
        mixed = torch.where(filled[..., None], mixed, PAD_VALUE)
    return (mixed.flip(3) if bgr else mixed).to(torch.uint8)


def _neighbours(length: int, step_B: Tensor, start_B: Tensor, size_B: Tensor) -> tuple[Tensor, ...]:
    """Along one axis, [B, length] each: the two nearest pixels (kept within the image), the share of the second, and
    whether they are in the image."""
    place = start_B[:, None] + step_B[:, None] * torch.arange(length, device=step_B.device)
    low = place.floor()
    last = size_B[:, None] - 1
    inside = [(each >= 0) & (each <= last) for each in (low, low + 1)]
    zero = torch.zeros_like(last)
    return low.clamp(zero, last), (low + 1).clamp(zero, last), (place - low).float(), *inside


def _up_to(count_B: Tensor, length: int) -> Tensor:
    return torch.arange(length, device=count_B.device) < count_B[:, None]
