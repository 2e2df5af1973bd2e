"""The images and clips of a dataset, decoded for its report as the bytes of a stranger are in builds: in a child with
limits on memory and time, without network or files. One child serves a page; a file that kills it costs its image.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from lposekit.report.inline_images import Rgb, fit_within
from lposekit.sandbox.sandbox import Sandbox, SandboxError
from lposekit.stored_media import clip_stream, decode_stored_jpeg, open_clip

with contextlib.suppress(ImportError):  # not installed everywhere; the child opens its libraries before it is confined
    import av.error  # noqa: F401

log = logging.getLogger(__name__)

_MEMORY_BYTES = 2**31  # the largest image that is decoded, and what its decoder needs beside it
_TIMEOUT_S = 30.0
_sandbox = Sandbox(f"{__name__}:decoded", memory_limit_bytes=_MEMORY_BYTES)


def decode_jpeg(data: bytes) -> Rgb | None:
    """The image in a stored JPEG, or None if it is none, or damaged."""
    images = _ask({"jpeg": data})
    return images[0] if images else None


def three_frames_of_mp4(mp4: bytes, num_frames: int, fps: float) -> list[Rgb]:
    """First, middle and last frame of a stored clip; none if it cannot be decoded."""
    frames = _ask({"mp4": mp4, "indices": first_middle_last(num_frames), "fps": fps})
    return frames if len(frames) == 3 else []


def small_frames_of_mp4(mp4: bytes, step: int, most: int, side_px: int) -> list[Rgb]:
    """Every `step`-th frame of a stored clip, `most` at most, shrunk; none if it cannot be decoded."""
    return _ask({"mp4": mp4, "step": step, "most": most, "side_px": side_px})


def shrunk(rgb_HWC: Rgb, side_px: int) -> Rgb:
    """Longer side at most `side_px`, both even, as video encoders need them."""
    height, width = fit_within(rgb_HWC.shape[0], rgb_HWC.shape[1], side_px)
    size = (max(2, width // 2 * 2), max(2, height // 2 * 2))
    return np.asarray(cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)


def first_middle_last(count: int) -> tuple[int, int, int]:
    return 0, count // 2, max(count - 1, 0)


def close_decoder() -> None:
    """End the child; the next image starts another one."""
    _sandbox.close()


def _ask(payload: Mapping[str, Any]) -> list[Rgb]:
    if sys.platform != "linux":  # no sandbox there; builds need Linux, a look at their result does not
        return decoded(payload)["images"]
    try:
        images = _sandbox.call(payload, timeout_s=_TIMEOUT_S)["images"]
    except SandboxError as error:
        log.warning("an image of the report is left out: %s", error)
        return []
    return images if isinstance(images, list) and all(map(_is_image, images)) else []


def _is_image(value: object) -> bool:
    """The child may be in the hands of its input, so that nothing of its answer is believed."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] == (3,) and value.size > 0


# ---- the child's side ----


def decoded(payload: Mapping[str, Any]) -> dict[str, list[Rgb]]:
    """The sandbox's target: {"jpeg": bytes}, {"mp4": bytes, "indices", "fps"}, or {"mp4": bytes, "step", "most",
    "side_px"}; no images where it cannot."""
    if "step" in payload:
        return {"images": _small_frames(payload["mp4"], payload["step"], payload["most"], payload["side_px"])}
    if "jpeg" not in payload:
        return {"images": _frames_of_mp4(payload["mp4"], payload["indices"], payload["fps"])}
    try:
        return {"images": [decode_stored_jpeg(payload["jpeg"])]}
    except ValueError:
        return {"images": []}


def _frames_of_mp4(mp4: bytes, indices: tuple[int, ...], fps: float) -> list[Rgb]:
    import av.error

    frames: list[Rgb] = []
    try:
        with open_clip(mp4) as container:
            stream = clip_stream(container)
            for index in indices:
                # clips have a constant rate and a key frame every dozen frames, so that seeking is cheap
                target = round(index / fps / stream.time_base) if fps and stream.time_base else 0
                container.seek(target, stream=stream)
                for frame in container.decode(stream):
                    if frame.pts is not None and frame.pts >= target:
                        frames.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
                        break
    except (av.error.FFmpegError, ValueError):
        return []
    return frames


def _small_frames(mp4: bytes, step: int, most: int, side_px: int) -> list[Rgb]:
    import av.error

    frames: list[Rgb] = []
    try:
        with open_clip(mp4) as container:
            for number, frame in enumerate(container.decode(clip_stream(container))):
                if number >= most * step:
                    break
                if number % step == 0:
                    frames.append(shrunk(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), side_px))
    except (av.error.FFmpegError, ValueError):
        return []
    return frames
