"""`lposekit pose`: the poses of a video, or of every video below a folder, one after the other.

Read `estimate_poses` first. A video that fails ends with an outcome, and the next one goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit import __version__
from lposekit.errors import LposekitError, Outcome, Rejected, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.choose import check_choice, most_prominent, select_persons
from lposekit.pose.protocol import Estimator
from lposekit.pose.refine import RefineSettings, refine
from lposekit.pose.tracker import Tracker
from lposekit.pose.tracks import SUFFIX, PoseTracks, TooManyPosesError, read_tracks, write_tracks
from lposekit.pose.weights import require_weights
from lposekit.pose.zoo import DetectorEntry, PoseEntry, detector_entry, pose_entry, precision_on
from lposekit.setting_values import check_values
from lposekit.settings import changeable_settings, settings_digest
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.skeleton_styles import STYLES
from lposekit.stage_times import StageTimes
from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.clips.writer import require_encoder
from pipelines.video.inputs import VIDEO_SUFFIXES, folder_videos
from pipelines.video.poses.estimate import FoundPoses, find_poses, tracker_settings
from pipelines.video.poses.frames import FrameSource, VideoFacts
from pipelines.video.poses.report import PosesReport, VideoOutcome
from pipelines.video.poses.settings import PosesSettings
from pipelines.video.poses.skeleton_video import write_skeleton_video

log = logging.getLogger(__name__)


def estimate_poses(
    settings: PosesSettings, *, dry_run: bool = False, estimator: Estimator | None = None
) -> PosesReport:
    """Write the poses of every video of the input.

    ``estimator``: default, the models that the settings name.

    Raises:
        UsageError: settings that cannot work, an input without videos, a dataset folder.
        LposekitError: weights that cannot be had, a full disk.
    """
    check_values(settings, required={"input": "a video, or a folder of videos", "output": "the folder for the poses"})
    check_choice(settings.person)
    jobs = _jobs(settings)
    run = _Run(settings, detector_entry(settings.detector), pose_entry(settings.pose_model))
    run.check_styles()
    run.read_reference()
    if dry_run:
        return PosesReport(run.output, notes=run.dry_run_notes(jobs), dry_run=True)
    if estimator is None:
        require_weights([run.detector.weights, run.pose_model.weights], settings.weights_dir, may_download=True)
    source = FrameSource(settings.limits)
    try:
        outcomes: list[VideoOutcome] = []
        for number, job in enumerate(jobs, 1):
            log.info("video %d of %d: %s", number, len(jobs), job.name)
            outcomes.append(run.video(job, source, estimator))
    finally:
        source.close()
    return PosesReport(run.output, outcomes, timings_s=run.times.as_dict())


@dataclass(frozen=True, slots=True)
class PoseJob:
    """One video. ``name``: its path below the input folder; ``stem``: that of its output files, below the output."""

    path: Path
    name: str
    stem: str


def _jobs(settings: PosesSettings) -> list[PoseJob]:
    """The videos of the input. Raises UsageError where there is none, or two would write one file."""
    assert settings.input is not None
    assert settings.output is not None
    source = settings.input
    if DatasetLayout(source).card.is_file():
        raise UsageError(
            f"{source} is a dataset folder, and the poses of its clips cannot be built yet. Give a video, or a folder "
            "of videos: --input."
        )
    if source.is_dir():
        below, output = source.resolve(), settings.output.resolve()
        videos = [path for path in folder_videos(below) if output == below or output not in path.parents]
        # skeleton videos of an earlier run into the input folder are no input
        written = tuple(f".{style}.mp4" for style in STYLES)
        videos = [path for path in videos if not path.name.endswith(written)]
        jobs = [_job(path, path.relative_to(below)) for path in videos]
    elif source.is_file():
        jobs = [_job(source, Path(source.name))]
    else:
        raise UsageError(f"--input {source}: there is no such file or folder.")
    if not jobs:
        raise UsageError(f"--input {source}: no video below it. Known: {', '.join(sorted(VIDEO_SUFFIXES))}.")
    _refuse_twins(jobs)
    return jobs


def _job(path: Path, relative: Path) -> PoseJob:
    name = relative.as_posix().encode(errors="backslashreplace").decode()  # a name on disk need not be UTF-8
    return PoseJob(path, name, relative.with_suffix("").as_posix())


def _refuse_twins(jobs: Sequence[PoseJob]) -> None:
    seen: dict[str, PoseJob] = {}
    for job in jobs:
        first = seen.setdefault(job.stem, job)
        if first is not job:
            raise UsageError(
                f"{first.name} and {job.name} would both write {job.stem}{SUFFIX}. Rename one, or give them one by one."
            )


@dataclass(slots=True)
class _Run:
    """One run over some videos."""

    settings: PosesSettings
    detector: DetectorEntry
    pose_model: PoseEntry
    times: StageTimes = field(default_factory=StageTimes)
    reference: PoseTracks | None = None
    reference_sha256: str | None = None
    loaded: Estimator | None = None

    @property
    def output(self) -> Path:
        assert self.settings.output is not None
        return self.settings.output

    @property
    def keypoint_score_threshold(self) -> float:
        named = self.settings.pose.keypoint_score_threshold
        return self.pose_model.keypoint_score_threshold if named is None else named

    @property
    def start_score(self) -> float:
        named = self.settings.pose.box_score_threshold
        return self.detector.box_score_threshold if named is None else named

    def check_styles(self) -> None:
        """Raises UsageError for a style that the pose model has too few keypoints for, or where x264 is missing."""
        if self.settings.skeleton_video:
            require_encoder(EncodeSettings(crf=self.settings.crf))
        count = KEYPOINT_FORMATS[self.pose_model.keypoint_format].num_keypoints
        for style in self.settings.style if self.settings.skeleton_video else ():
            if count not in STYLES[style].num_keypoints:
                raise UsageError(
                    f"--style {style} draws {STYLES[style].num_keypoints[0]} keypoints, and {self.pose_model.name} "
                    f"gives {count}. Use --pose-model rtmpose-m-wholebody, or another style: {', '.join(STYLES)}."
                )

    def read_reference(self) -> None:
        """Raises UsageError for a reference of another keypoint format, or without persons."""
        path = self.settings.reference
        if path is None:
            return
        self.reference = select_persons(read_tracks(path), "largest")
        self.reference_sha256 = _sha256(path)
        if not self.reference.persons or self.reference.keypoint_format != self.pose_model.keypoint_format:
            raise UsageError(
                f"--reference {path}: poses of a person in the format {self.pose_model.keypoint_format} are needed; "
                f"it holds {len(self.reference.persons)} in {self.reference.keypoint_format}."
            )

    def dry_run_notes(self, jobs: Sequence[PoseJob]) -> list[str]:
        names = ", ".join(job.name for job in jobs[:3]) + (", ..." if jobs[3:] else "")
        skeletons = f" and skeleton videos ({', '.join(self.settings.style)})" if self.settings.skeleton_video else ""
        return [
            f"would read {len(jobs)} videos: {names}",
            f"would use {self.detector.name} and {self.pose_model.name}",
            f"would write NAME{SUFFIX}{skeletons} to {self.output}",
        ]

    def video(self, job: PoseJob, source: FrameSource, estimator: Estimator | None) -> VideoOutcome:
        """One video, from its file to the files written. What is wrong with it is its outcome."""
        start_s = time.perf_counter()
        try:
            made_from = self._made_from(job)
            if (there := self._there_already(job, made_from)) is not None:
                return there
            facts = source.open(job.path)
            tracker = Tracker(
                tracker_settings(self.settings.tracking, facts, self.start_score),
                self.pose_model.keypoint_format,
                self.keypoint_score_threshold,
            )
            models = self._estimator(estimator)
            batch_size = self.settings.pose.batch_size
            found = find_poses(job.name, source, facts, models, tracker, batch_size, self.times)
            self._check(found, facts)
        except Rejected as rejected:
            log.warning("%s: %s", job.name, rejected)
            return VideoOutcome(job.name, rejected.outcome, rejected.detail)
        outcome = self._write(job, facts, found, made_from)
        return replace(outcome, seconds=time.perf_counter() - start_s)

    def _check(self, found: FoundPoses, facts: VideoFacts) -> None:
        """Raises Rejected for a video that is damaged too much to have poses."""
        if not found.num_frames:
            raise Rejected(Outcome.CORRUPT, "no frame can be decoded")
        limit, whole = self.settings.limits.max_damaged, found.num_frames + facts.cut_off
        if found.damaged > limit * whole:
            share = f"{found.damaged} of {whole} frames are damaged or cut off"
            raise Rejected(Outcome.CORRUPT, f"{share}; limits.max_damaged allows {limit:g} of them")
        if found.failed == found.num_frames:
            raise Rejected(Outcome.POSE_FAILED, f"the models failed on all {found.failed} frames")

    def _write(self, job: PoseJob, facts: VideoFacts, found: FoundPoses, made_from: dict[str, Any]) -> VideoOutcome:
        info = {
            "video": job.name,
            "lposekit": __version__,
            "detector": self.detector.name,
            "pose_model": self.pose_model.name,
            "keypoint_score_threshold": self.keypoint_score_threshold,
            "box_score_threshold": self.start_score,
            "damaged_frames": found.damaged,
            "failed_frames": found.failed,
            "made_from": made_from,
        }
        model_format = self.pose_model.keypoint_format
        raw = PoseTracks(facts.fps, facts.width, facts.height, found.num_frames, model_format, found.persons, info)
        raw = most_prominent(raw, self.settings.tracking.max_persons)
        outcome = Outcome.KEPT if raw.persons else Outcome.NO_PERSON
        try:
            tracks, figures = refine(
                raw, self._refine_settings(), self.keypoint_score_threshold, self._reference_pose()
            )
        except UsageError as error:  # an id that this video does not have
            return VideoOutcome(job.name, Outcome.NO_PERSON, str(error), num_frames=found.num_frames)
        path = self._path(job, SUFFIX)
        with self.times.stage("write"):
            try:
                write_tracks(path, tracks)
            except TooManyPosesError as error:
                return VideoOutcome(job.name, Outcome.TOO_BIG, str(error), num_frames=found.num_frames)
            skeletons = self._write_skeletons(job, tracks)
        return VideoOutcome(
            job.name,
            outcome,
            poses=path,
            skeletons=skeletons,
            num_frames=found.num_frames,
            damaged_frames=found.damaged,
            failed_frames=found.failed,
            figures=figures,
        )

    def _write_skeletons(self, job: PoseJob, tracks: PoseTracks) -> tuple[Path, ...]:
        if not self.settings.skeleton_video:
            return ()
        paths = []
        for style in self.settings.style:
            path, settings = self._path(job, f".{style}.mp4"), self.settings
            write_skeleton_video(path, tracks, style, settings.draw, self.keypoint_score_threshold, settings.crf)
            paths.append(path)
        return tuple(paths)

    def _there_already(self, job: PoseJob, made_from: dict[str, Any]) -> VideoOutcome | None:
        """What an earlier run wrote from the same bytes with the same settings. Skeleton videos are drawn anew."""
        path = self._path(job, SUFFIX)
        if not path.is_file():
            return None
        try:
            tracks = read_tracks(path)
        except LposekitError as error:
            log.warning("%s Written anew.", error)
            return None
        if tracks.info.get("made_from") != made_from:
            return None
        outcome = Outcome.KEPT if tracks.persons else Outcome.NO_PERSON
        skeletons = self._write_skeletons(job, tracks)
        return VideoOutcome(job.name, outcome, "", path, skeletons, tracks.num_frames, unchanged=True)

    def _made_from(self, job: PoseJob) -> dict[str, Any]:
        """What decides the poses: the video's bytes, the settings, the models' weights."""
        try:
            video_sha256 = _sha256(job.path)
        except OSError as error:
            raise Rejected(Outcome.CORRUPT, f"it cannot be read: {error.strerror}") from error
        digest = settings_digest(self.settings, excluded=changeable_settings(PosesSettings))
        weights = [list(entry.weights.sha256) for entry in (self.detector, self.pose_model)]
        return {
            "video_sha256": video_sha256,
            "settings": digest,
            "weights": weights,
            "reference_sha256": self.reference_sha256,
            "lposekit": __version__,
        }

    def _path(self, job: PoseJob, ending: str) -> Path:
        return self.output / f"{job.stem}{ending}"

    def _refine_settings(self) -> RefineSettings:
        chosen = self.settings
        return RefineSettings(
            person=chosen.person, smooth=chosen.smooth, max_gap_s=chosen.max_gap_s, window_s=chosen.smooth_window_s
        )

    def _reference_pose(self) -> npt.NDArray[np.float32] | None:
        """The pose [K, 3] of the reference that shows most: the frame with the largest sum of scores."""
        if self.reference is None:
            return None
        poses_FK3 = self.reference.persons[0].keypoints_FK3
        return poses_FK3[int(poses_FK3[..., 2].sum(1).argmax())]

    def _estimator(self, given: Estimator | None) -> Estimator:
        if self.loaded is None:
            self.loaded = given or self._load_estimator()
        return self.loaded

    def _load_estimator(self) -> Estimator:
        import torch

        from lposekit.pose.estimator import PoseEstimator

        pose = self.settings.pose
        device = ("cuda" if torch.cuda.is_available() else "cpu") if pose.device == "auto" else pose.device
        return PoseEstimator.load(
            self.detector.name,
            self.pose_model.name,
            weights_dir=self.settings.weights_dir,
            device=device,
            precision=precision_on(device, pose.precision),
            threads=pose.threads,
            box_score_threshold=self.start_score * self.settings.tracking.continue_score,
            min_box_area_fraction=pose.min_box_area_fraction,
            min_box_side_px=pose.min_box_side_px,
            batch_size=pose.batch_size,
            crop_batch_size=pose.crop_batch_size,
            duplicate_oks=pose.duplicate_oks,
        )


def _sha256(path: Path) -> str:
    if not path.is_file():  # a pipe would wait for ever
        raise Rejected(Outcome.CORRUPT, "no regular file")
    return sha256_file(path)
