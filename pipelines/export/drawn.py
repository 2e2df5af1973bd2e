"""The samples of a dataset with their skeletons drawn: an image beside an image, a clip beside a clip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lposekit.errors import LposekitError, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.tracks import MEMBER, PoseTracks, decode_tracks
from lposekit.shards.dataset import PoseDataset, PoseSample, open_dataset, read_members
from lposekit.shards.index import ShardIndex
from lposekit.skeleton_styles import STYLES
from lposekit.stored_media import jpeg_size, open_clip
from pipelines.export.settings import ExportSettings
from pipelines.video.poses.skeleton_video import write_skeleton_video

ALL_PARTS = ("body", "hands", "face")
DEFAULT_THRESHOLD = 0.35


class Skipped(Exception):
    """A sample that is not exported: why, in a word, and what there is to say of it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Media:
    """What a stored clip or image says of itself. `fps` is None of an image."""

    width: int
    height: int
    num_frames: int = 1
    fps: float | None = None


def samples_of(dataset: PoseDataset) -> Iterator[tuple[ShardIndex, PoseSample]]:
    """All samples in order, with the shard that each lies in."""
    for shard in dataset.shards:
        for row in range(len(shard)):
            yield shard, PoseSample(shard.key(row), read_members(shard, row))


def media_of(sample: PoseSample) -> Media:
    """Size and length of a sample's image or clip, from the file itself.

    Raises:
        Skipped: it is damaged.
    """
    try:
        if "jpg" in sample.members:
            height, width = jpeg_size(sample.members["jpg"])
            return Media(width, height)
        with open_clip(sample.members["mp4"]) as container:
            stream = container.streams.video[0]
            num_frames = sum(packet.size > 0 for packet in container.demux(stream))
            rate = stream.average_rate
            if not num_frames or not rate:
                raise ValueError("a clip without frames")
            return Media(stream.width, stream.height, num_frames, float(rate))
    except (OSError, ValueError, IndexError) as error:  # PyAV's errors are among them
        raise Skipped("damaged", str(error)) from error


def draw_image(sample: PoseSample, settings: ExportSettings) -> bytes:
    """The skeletons of an image at its very size, as PNG.

    Raises:
        Skipped: its poses are damaged.
    """
    try:
        rgb_HWC = sample.skeleton(settings.style, score_threshold=settings.score_threshold)
    except LposekitError as error:
        raise Skipped("damaged", str(error)) from error
    return cv2.imencode(".png", np.ascontiguousarray(rgb_HWC[..., ::-1]))[1].tobytes()


class ClipPoses:
    """The poses of clips, from the folder that `lposekit pose` wrote beside theirs."""

    def __init__(self, folder: Path) -> None:
        self.dataset = open_dataset(folder)
        if self.dataset.card.kind != "poses":
            raise UsageError(
                f"--poses {folder}: a dataset of kind {self.dataset.card.kind!r}. Estimate the poses of the clips "
                "with `lposekit pose --input CLIPS --output POSES`, and name POSES."
            )
        self._shards = {shard.shard: shard for shard in self.dataset.shards}

    def tracks(self, shard: int, key: str) -> PoseTracks:
        """The poses of one clip.

        Raises:
            Skipped: there are none, nobody is in them, or they are damaged.
        """
        index = self._shards.get(shard)
        row = None if index is None else index.row_of(key)
        if index is None or row is None:
            raise Skipped("no_pose", "its poses were not estimated")
        try:
            tracks = decode_tracks(read_members(index, row)[MEMBER], key)
        except (KeyError, LposekitError) as error:
            raise Skipped("damaged", str(error)) from error
        if not tracks.persons:
            raise Skipped("no_person", "nobody is in it")
        return tracks


def draw_clip(tracks: PoseTracks, media: Media, settings: ExportSettings) -> bytes:
    """The skeletons of a clip: as many frames, at the same rate and size, as mp4.

    Raises:
        Skipped: the poses are of another clip.
        UsageError: the style cannot draw them.
    """
    here = (media.width, media.height, media.num_frames, media.fps)
    there = (tracks.width, tracks.height, tracks.num_frames, float(tracks.fps))
    if here[:3] != there[:3] or abs(here[3] - there[3]) > 0.01:  # type: ignore[operator]
        raise Skipped("mismatch", f"the clip is {_told(here)}, its poses are of {_told(there)}")
    num_keypoints = KEYPOINT_FORMATS[tracks.keypoint_format].num_keypoints
    if num_keypoints not in STYLES[settings.style].num_keypoints:
        raise UsageError(
            f"--style {settings.style}: draws {' or '.join(map(str, STYLES[settings.style].num_keypoints))} keypoints, "
            f"and these poses have {num_keypoints}. Take another style."
        )
    threshold = settings.score_threshold
    if threshold is None:
        stated = tracks.info.get("keypoint_score_threshold")
        threshold = float(stated) if isinstance(stated, int | float) else DEFAULT_THRESHOLD
    with tempfile.TemporaryDirectory(prefix="lposekit-") as folder:
        path = Path(folder) / "control.mp4"
        write_skeleton_video(path, tracks, settings.style, ALL_PARTS, threshold, settings.crf)
        return path.read_bytes()


def _told(values: tuple[float | None, ...]) -> str:
    width, height, num_frames, fps = values
    return f"{width} x {height} pixels with {num_frames} frames at {fps:g} a second"
