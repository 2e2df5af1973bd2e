"""From one video file to the poses that are used of it: decode -> detect -> track -> choose, fill, smooth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.errors import Outcome, Rejected, UsageError
from lposekit.pose.choose import most_prominent, select_persons
from lposekit.pose.refine import PoseFigures, RefineSettings, refine
from lposekit.pose.tracker import Tracker
from lposekit.pose.tracks import PoseTracks, read_tracks
from lposekit.sandbox.killed import again_if_killed
from lposekit.shards.layout import sha256_file
from lposekit.stage_times import StageTimes
from pipelines.pose.models import KnownModel
from pipelines.video.poses.estimate import Estimate, FoundPoses, find_poses, tracker_settings
from pipelines.video.poses.frames import DecoderKilled, FrameSource, StreamFacts
from pipelines.video.poses.settings import PosesSettings


@dataclass(frozen=True, slots=True)
class Reference:
    """The pose [K, 3] whose proportions everybody gets, and the sha256 (hex) of the file that holds it."""

    pose_K3: npt.NDArray[np.float32]
    sha256: str


def read_reference(settings: PosesSettings, keypoint_format: str) -> Reference | None:
    """The pose of the reference's largest person that shows most: the frame with the largest sum of scores.

    Raises:
        UsageError: it is of another keypoint format, or without persons. LposekitError: it cannot be read.
    """
    path = settings.reference
    if path is None:
        return None
    tracks = select_persons(read_tracks(path), "largest")
    if not tracks.persons or tracks.keypoint_format != keypoint_format:
        raise UsageError(
            f"--reference {path}: poses of a person in the format {keypoint_format} are needed; "
            f"it holds {len(tracks.persons)} in {tracks.keypoint_format}."
        )
    poses_FK3 = tracks.persons[0].keypoints_FK3
    return Reference(poses_FK3[int(poses_FK3[..., 2].sum(1).argmax())], sha256_file(path))


@dataclass(frozen=True, slots=True)
class PosedVideo:
    """The poses of one video, and how they were come by. `damaged`, `failed`: see `FoundPoses`."""

    tracks: PoseTracks
    figures: PoseFigures
    damaged: int
    failed: int

    @property
    def outcome(self) -> Outcome:
        return Outcome.KEPT if self.tracks.persons else Outcome.NO_PERSON


@dataclass(frozen=True, slots=True)
class VideoPoser:
    """How the poses of a video are found; the same for a file and for a clip of a dataset."""

    settings: PosesSettings
    known: KnownModel
    reference: Reference | None = None

    def poses(
        self,
        path: Path,
        name: str,
        source: FrameSource,
        models: Callable[[], Estimate],
        times: StageTimes,
        facts: Mapping[str, Any] | None = None,
    ) -> PosedVideo:
        """The poses of all frames of a video file; begun again if its decoder is killed from outside.

        Args:
            name: what the poses and the log call it.
            models: asked for once the video is open, so that nothing is loaded for one that cannot be read.
            facts: more facts for `info` of the poses.

        Raises:
            Rejected: it cannot be decoded, is damaged too much, or has none of the persons that are asked for.
        """
        video, found = again_if_killed(lambda: self._found(path, name, source, models, times), DecoderKilled)
        self._check(found, video)
        return self._refined(name, video, found, facts or {})

    def _found(
        self, path: Path, name: str, source: FrameSource, models: Callable[[], Estimate], times: StageTimes
    ) -> tuple[StreamFacts, FoundPoses]:
        video = source.open(path)
        tracker = Tracker(
            tracker_settings(self.settings.tracking, video, self.known.box_score_threshold),
            self.known.keypoint_format,
            self.known.keypoint_score_threshold,
        )
        return video, find_poses(name, source, video, models(), tracker, self.settings.pose.batch_size, times)

    def _check(self, found: FoundPoses, video: StreamFacts) -> None:
        """Raises Rejected for a video that is damaged too much to have poses."""
        if not found.num_frames:
            raise Rejected(Outcome.CORRUPT, "no frame can be decoded")
        limit, whole = self.settings.limits.max_damaged, found.num_frames + video.cut_off
        if found.damaged > limit * whole:
            share = f"{found.damaged} of {whole} frames are damaged or cut off"
            raise Rejected(Outcome.CORRUPT, f"{share}; limits.max_damaged allows {limit:g} of them")
        if found.failed == found.num_frames:
            raise Rejected(Outcome.POSE_FAILED, f"the models failed on all {found.failed} frames")

    def _refined(self, name: str, video: StreamFacts, found: FoundPoses, facts: Mapping[str, Any]) -> PosedVideo:
        settings, known = self.settings, self.known
        info = {
            "video": name,
            "detector": settings.detector,
            "pose_model": settings.pose_model,
            "keypoint_score_threshold": known.keypoint_score_threshold,
            "box_score_threshold": known.box_score_threshold,
            "damaged_frames": found.damaged,
            "failed_frames": found.failed,
            **facts,
        }
        raw = PoseTracks(
            video.fps, video.width, video.height, found.num_frames, known.keypoint_format, found.persons, info
        )
        how = RefineSettings(
            person=settings.person,
            smooth=settings.smooth,
            max_gap_s=settings.max_gap_s,
            window_s=settings.smooth_window_s,
        )
        reference_K3 = None if self.reference is None else self.reference.pose_K3
        try:
            tracks, figures = refine(
                most_prominent(raw, settings.tracking.max_persons), how, known.keypoint_score_threshold, reference_K3
            )
        except UsageError as error:  # an id that this video does not have
            raise Rejected(Outcome.NO_PERSON, str(error)) from error
        return PosedVideo(tracks, figures, found.damaged, found.failed)
