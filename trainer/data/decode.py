"""From a sample's stored bytes to arrays: images, clips, keypoints.

Images and clips are uint8 RGB: they stay small on their way through the worker's pipe, and the training device
scales them. Bytes here were written by us and are checked by size or hash; anything that still fails names its
sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import av.container
import cv2
import numpy as np
import numpy.typing as npt

from lposekit.json_values import parse_json_object
from lposekit.shards.pose_json import StoredPose, read_pose
from lposekit.skeleton import draw_skeleton
from lposekit.skeleton_styles import StyleName
from lposekit.stored_media import MAX_PIXELS, clip_stream, jpeg_size, open_clip
from trainer.data.geometry import Crop, Geometry, choose_geometry
from trainer.data.random import SampleRandom
from trainer.settings import ClipSamplingSettings

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


class DamagedSample(ValueError):
    """A sample's bytes cannot be decoded."""


class ShortClip(ValueError):
    """A source has fewer frames than a clip takes."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """How to draw. `score_threshold` None: the one that the dataset was built with."""

    style: StyleName = "followyourpose"
    score_threshold: float | None = None
    line_width: float | None = None


@dataclass(frozen=True, slots=True)
class Framing:
    """How to crop: see `choose_geometry`."""

    size: int
    crop: Crop = "center"
    flip: float = 0.0


def decode_training_image(
    jpeg: bytes, framing: Framing, random: SampleRandom, pose_json: bytes | None = None
) -> tuple[npt.NDArray[np.uint8], Geometry]:
    """The training image uint8 [size, size, 3] of a stored JPEG, and its geometry; `pose_json`: see
    `image_geometry`.

    A JPEG twice as large as needed, or more, is decoded at a fraction of its size.
    """
    geometry = image_geometry(jpeg, framing, random, pose_json)
    factor, flag = _reduction(geometry)
    bgr_HWC = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr_HWC is None or bgr_HWC.shape[0] != -(-geometry.source_height // factor):
        raise DamagedSample("its image cannot be decoded")
    return cv2.cvtColor(geometry.image(bgr_HWC), cv2.COLOR_BGR2RGB), geometry  # pyright: ignore


def image_geometry(jpeg: bytes, framing: Framing, random: SampleRandom, pose_json: bytes | None = None) -> Geometry:
    """The geometry of a stored JPEG's training image, from its header, and for the crop `person` from its poses."""
    try:
        height, width = jpeg_size(jpeg)
    except ValueError as error:
        raise DamagedSample(f"its image is {error}") from error
    detected_N2 = None if pose_json is None or framing.crop != "person" else _detected(_pose(pose_json))
    return _geometry(height, width, framing, random, detected_N2)


def _geometry(
    height: int,
    width: int,
    framing: Framing,
    random: SampleRandom,
    detected_N2: npt.NDArray[np.float32] | None = None,
) -> Geometry:
    geometry = choose_geometry(height, width, framing.size, framing.crop, framing.flip, random, detected_N2)
    if geometry.height * geometry.width > MAX_PIXELS:
        raise DamagedSample(f"its image of {width} x {height} pixels is too elongated")
    return geometry


def _reduction(geometry: Geometry) -> tuple[int, int]:
    for factor, flag in _REDUCED:
        if geometry.source_height >= factor * geometry.height:
            return factor, flag
    return 1, cv2.IMREAD_COLOR


def _pose(pose_json: bytes) -> StoredPose:
    try:
        return read_pose(pose_json)
    except ValueError as error:
        raise DamagedSample(f"its pose.json cannot be read ({error})") from error


def _detected(pose: StoredPose) -> npt.NDArray[np.float32]:
    """x and y [N, 2] of the keypoints of all persons that reach the threshold with which the dataset was built."""
    keypoints_N3 = np.concatenate([np.zeros((0, 3), np.float32), *(person.keypoints_K3 for person in pose.persons)])
    return keypoints_N3[keypoints_N3[:, 2] >= pose.keypoint_score_threshold, :2]


def decode_skeleton(pose_json: bytes, geometry: Geometry, skeleton: Skeleton) -> npt.NDArray[np.uint8]:
    """The skeleton of all persons, uint8 [size, size, 3], drawn at the training image's size."""
    pose = _pose(pose_json)
    points, persons = pose.keypoint_format, [person.keypoints_K3 for person in pose.persons]
    threshold = pose.keypoint_score_threshold if skeleton.score_threshold is None else skeleton.score_threshold
    empty = np.zeros((0, points.num_keypoints, 3), np.float32)
    keypoints_PK3 = geometry.keypoints(np.stack(persons) if persons else empty, points)
    return draw_skeleton(
        keypoints_PK3,
        geometry.size,
        geometry.size,
        style=skeleton.style,
        score_threshold=threshold,
        line_width=skeleton.line_width,
    )


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Which source frames make a clip: `frames` of them from a drawn start on, `stride` apart.

    `stride_s` overrides `stride` by the clip's frame rate. repeats: a source with fewer frames than the clip repeats
    its last, instead of being refused. on_stride: it starts at a multiple of its stride.
    """

    frames: int
    stride: int = 1
    stride_s: float | None = None
    repeats: bool = True
    on_stride: bool = False

    def stride_in(self, num_frames: int, fps: float) -> int:
        """The stride in a source of so many frames; one that is too short takes the largest that fits."""
        stride = self.stride if self.stride_s is None else max(1, round(self.stride_s * fps))
        return stride if self.frames == 1 else max(1, min(stride, (num_frames - 1) // (self.frames - 1)))

    def indices(self, num_frames: int, fps: float, random: SampleRandom) -> npt.NDArray[np.int64]:
        """Source frames [frames], rising.

        Raises:
            ShortClip: the source has fewer frames than the clip, and is not to repeat its last.
        """
        if num_frames < self.frames and not self.repeats:
            raise ShortClip(f"it has {num_frames} frames")
        stride = self.stride_in(num_frames, fps)
        last_start = max(0, num_frames - (self.frames - 1) * stride - 1)
        step = stride if self.on_stride else 1
        start = step * int(random.stream("clip_start").integers(last_start // step + 1))
        return np.minimum(start + np.arange(self.frames) * stride, num_frames - 1)

    def needed_frames(self, num_frames: int, fps: float) -> npt.NDArray[np.int64]:
        """The source frames, rising, that `indices` may name."""
        return np.arange(0, num_frames, self.stride_in(num_frames, fps) if self.on_stride else 1)


def clip_plan(settings: ClipSamplingSettings) -> ClipPlan:
    """The plan that a run's settings mean."""
    return ClipPlan(
        settings.frames, settings.stride, settings.stride_s, settings.short == "repeat", settings.start == "stride"
    )


def read_clip_facts(sample_json: bytes) -> tuple[int, float]:
    """(num_frames, fps) of a stored clip."""
    try:
        facts: dict[str, Any] = parse_json_object(sample_json)
        num_frames, fps = int(facts["num_frames"]), float(facts["fps"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DamagedSample(f"its json lacks num_frames or fps ({error!r})") from error
    if num_frames < 1 or not fps > 0:
        raise DamagedSample(f"its json says {num_frames} frames at {fps} a second")
    return num_frames, fps


def decode_clip(
    mp4: bytes, wanted_F: npt.NDArray[np.int64], framing: Framing, random: SampleRandom
) -> npt.NDArray[np.uint8]:
    """The training clip uint8 [F, size, size, 3]: source frames `wanted_F` (rising) of a stored mp4.

    Seeks to the key frame before the first and decodes on; frames between are decoded and never converted.
    """
    clip_FHWC = np.empty((len(wanted_F), framing.size, framing.size, 3), np.uint8)
    try:
        with open_clip(mp4) as container:
            found = _decode_frames(container, wanted_F, framing, random, clip_FHWC)
    except av.FFmpegError as error:
        raise DamagedSample(f"its clip cannot be decoded ({error})") from error
    if found < len(wanted_F):
        raise DamagedSample(f"its clip ends before frame {wanted_F[found]}")
    return clip_FHWC


def _decode_frames(
    container: av.container.InputContainer,
    wanted_F: npt.NDArray[np.int64],
    framing: Framing,
    random: SampleRandom,
    clip_FHWC: npt.NDArray[np.uint8],
) -> int:
    """Fills `clip_FHWC`; returns how many of its frames were found."""
    try:
        stream = clip_stream(container)
    except ValueError as error:
        raise DamagedSample(f"its clip has {error}") from error
    # workers are the parallelism; a decoder with threads of its own would only fight them
    stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
    rate, unit, origin = stream.average_rate, stream.time_base, stream.start_time or 0
    if rate is None or unit is None:
        raise DamagedSample("its clip has no frame rate")
    ticks = float(1 / (rate * unit))
    if wanted_F[0] > 0:
        container.seek(origin + round(float(wanted_F[0]) * ticks), stream=stream)
    geometry, found = None, 0
    for frame in container.decode(stream):
        if frame.pts is None:
            raise DamagedSample("its clip has frames without a time")
        index = round((frame.pts - origin) / ticks)
        if index < wanted_F[found]:
            continue
        if index > wanted_F[found]:
            raise DamagedSample(f"its clip lacks frame {wanted_F[found]}")
        if geometry is None:
            geometry = _geometry(frame.height, frame.width, framing, random)
        image = geometry.cut(_to_rgb(frame, geometry))
        while found < len(wanted_F) and wanted_F[found] == index:
            clip_FHWC[found] = image
            found += 1
        if found == len(wanted_F):
            break
    return found


def _to_rgb(frame: av.VideoFrame, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """RGB at the geometry's height x width; scaling and colour conversion in one pass."""
    shrinks = frame.height > geometry.height
    scaled = frame.reformat(
        width=geometry.width, height=geometry.height, format="rgb24", interpolation="AREA" if shrinks else "BICUBIC"
    )
    return scaled.to_ndarray()  # pyright: ignore
