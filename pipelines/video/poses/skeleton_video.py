"""Skeleton videos of poses: black, as pose-guided models are trained with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lposekit.pose.parts import Part, only_parts
from lposekit.pose.resample import scale_tracks
from lposekit.pose.tracks import PoseTracks, persons_at
from lposekit.shards.files import disk_error, replacing
from lposekit.skeleton import draw_skeleton, drop_outside
from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.clips.writer import Mp4Writer, yuv420

_MIN_SIDE_PX = 16  # of H.264


def write_skeleton_video(
    path: Path, tracks: PoseTracks, style: str, parts: Collection[Part], score_threshold: float, crf: float
) -> None:
    """Write the skeletons of all persons over all frames, at the video's size and rate, whole or not at all.

    Odd sides become even, as H.264 wants them. Joints outside of the image are not drawn: a model places them where
    it sees nothing. A frame without persons is black.

    Raises:
        LposekitError: the disk is full or the folder cannot be written.
    """
    width, height = (max(_MIN_SIDE_PX, side + side % 2) for side in (tracks.width, tracks.height))
    scaled = scale_tracks(tracks, width, height)
    try:
        with replacing(path, f".{path.stem}.partial{path.suffix}") as partial:
            writer = Mp4Writer(partial, (width, height), tracks.fps, EncodeSettings(crf=crf))
            for frame in range(tracks.num_frames):
                drawn_PK3 = drop_outside(only_parts(persons_at(scaled, frame), parts), height, width)
                rgb_HWC = draw_skeleton(drawn_PK3, height, width, style=style, score_threshold=score_threshold)
                writer.write(yuv420(rgb_HWC))
            writer.finish()
    except OSError as error:
        raise disk_error(error, path) from error
