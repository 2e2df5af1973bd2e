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

from lposekit import __version__
from lposekit.errors import LposekitError, Outcome, Rejected, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.choose import check_choice
from lposekit.pose.parts import has_joints
from lposekit.pose.protocol import Estimator
from lposekit.pose.tracks import SUFFIX, PoseTracks, TooManyPosesError, read_tracks, write_tracks
from lposekit.pose.zoo import detector_entry, pose_entry
from lposekit.setting_values import check_values
from lposekit.settings import changeable_settings, settings_digest
from lposekit.shards.layout import sha256_file
from lposekit.skeleton_styles import STYLES
from lposekit.stage_times import StageTimes
from lposekit.words import counted
from pipelines.pose.actor import load_estimator
from pipelines.pose.models import cpu_backend, device_of, known_model, pose_spec, require_models
from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.clips.writer import require_encoder
from pipelines.video.inputs import VIDEO_SUFFIXES, folder_videos
from pipelines.video.poses.clip_source import is_dataset
from pipelines.video.poses.estimate import Estimate
from pipelines.video.poses.frames import FrameSource
from pipelines.video.poses.poser import PosedVideo, VideoPoser, read_reference
from pipelines.video.poses.report import PosesReport, VideoOutcome
from pipelines.video.poses.settings import PosesSettings
from pipelines.video.poses.skeleton_video import write_skeleton_video

log = logging.getLogger(__name__)


def estimate_poses(
    settings: PosesSettings, *, dry_run: bool = False, estimator: Estimator | None = None
) -> PosesReport:
    """Write the poses of every video of the input.

    `estimator`: default, the models that the settings name.

    Raises:
        UsageError: settings that cannot work, an input without videos.
        LposekitError: weights that cannot be had, a full disk.
    """
    check_values(settings, required={"input": "a video, or a folder of videos", "output": "the folder for the poses"})
    check_choice(settings.person)
    jobs = _jobs(settings)
    known = known_model(settings)
    run = _Run(settings, VideoPoser(settings, known, read_reference(settings, known.keypoint_format)))
    run.check_styles()
    if dry_run:
        return PosesReport(run.output, notes=run.dry_run_notes(jobs), dry_run=True)
    if estimator is None:
        require_models(settings, may_download=True)
    source = FrameSource(settings.limits)
    try:
        outcomes: list[VideoOutcome] = []
        for number, job in enumerate(jobs, 1):
            log.info("video %d of %d: %s", number, len(jobs), job.name)
            outcomes.append(run.video(job, source, estimator))
    finally:
        source.close()
    return PosesReport(run.output, outcomes, timings_s=run.times.as_dict())


def load_models(settings: PosesSettings) -> Estimator:
    """The models that the settings name, for videos one after the other.

    Raises:
        UsageError, LposekitError: weights that cannot be had.
    """
    import torch

    require_models(settings, may_download=True)
    device = device_of(settings.pose, has_gpu=torch.cuda.is_available())
    lowest = known_model(settings).box_score_threshold * settings.tracking.continue_score
    return load_estimator(pose_spec(settings, device, lowest, settings.pose.threads, cpu_backend(settings)))


@dataclass(frozen=True, slots=True)
class PoseJob:
    """One video. `name`: its path below the input folder; `stem`: that of its output files, below the output."""

    path: Path
    name: str
    stem: str


def _jobs(settings: PosesSettings) -> list[PoseJob]:
    """The videos of the input. Raises UsageError where there is none, or two would write one file."""
    assert settings.output is not None
    if settings.output.is_file() or settings.output.name.endswith(SUFFIX):
        raise UsageError(f"--output {settings.output}: this names a file. Name the folder for the poses.")
    jobs = [job for name in settings.input for job in _jobs_of(Path(name), settings)]
    _refuse_twins(jobs)
    return jobs


def _jobs_of(source: Path, settings: PosesSettings) -> list[PoseJob]:
    assert settings.output is not None
    if is_dataset(source):
        raise UsageError(f"--input {source} is a dataset folder, which must be the only input. Name it alone.")
    if source.name.endswith(".json") and not source.is_dir():
        raise UsageError(f"--input {source}: not a video. Poses that are there already go to `lposekit sample --pose`.")
    if source.is_file():
        return [_job(source, Path(source.name))]
    if not source.is_dir():
        raise UsageError(f"--input {source}: there is no such file or folder.")
    below, output = source.resolve(), settings.output.resolve()
    videos = [path for path in folder_videos(below) if output == below or output not in path.parents]
    # skeleton videos of an earlier run into the input folder are no input
    written = tuple(f".{style}.mp4" for style in STYLES)
    videos = [path for path in videos if not path.name.endswith(written)]
    if not videos:
        raise UsageError(f"--input {source}: no video below it. Known: {', '.join(sorted(VIDEO_SUFFIXES))}.")
    return [_job(path, path.relative_to(below)) for path in videos]


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
    poser: VideoPoser
    times: StageTimes = field(default_factory=StageTimes)
    loaded: Estimator | None = None

    @property
    def output(self) -> Path:
        assert self.settings.output is not None
        return self.settings.output

    def check_styles(self) -> None:
        """Raises UsageError for a style that the pose model has too few keypoints for, or where x264 is missing."""
        if self.settings.skeleton_video:
            require_encoder(EncodeSettings(crf=self.settings.crf))
        count = KEYPOINT_FORMATS[self.poser.known.keypoint_format].num_keypoints
        if self.settings.skeleton_video and not has_joints(count, self.settings.draw):
            raise UsageError(
                f"--draw {' '.join(self.settings.draw)}: {self.settings.pose_model} gives no such joints, so nothing "
                "would be drawn. Use --pose-model rtmpose-m-wholebody, or --draw body."
            )
        for style in self.settings.style if self.settings.skeleton_video else ():
            if count not in STYLES[style].num_keypoints:
                raise UsageError(
                    f"--style {style} draws {STYLES[style].num_keypoints[0]} keypoints, and {self.settings.pose_model} "
                    f"gives {count}. Use --pose-model rtmpose-m-wholebody, or another style: {', '.join(STYLES)}."
                )

    def dry_run_notes(self, jobs: Sequence[PoseJob]) -> list[str]:
        names = ", ".join(job.name for job in jobs[:3]) + (", ..." if jobs[3:] else "")
        skeletons = f" and skeleton videos ({', '.join(self.settings.style)})" if self.settings.skeleton_video else ""
        return [
            f"would read {counted(len(jobs), 'video')}: {names}",
            f"would use {self.settings.detector} and {self.settings.pose_model}",
            f"would write NAME{SUFFIX}{skeletons} to {self.output}",
        ]

    def video(self, job: PoseJob, source: FrameSource, estimator: Estimator | None) -> VideoOutcome:
        """One video, from its file to the files written. What is wrong with it is its outcome."""
        start_s = time.perf_counter()
        try:
            made_from = self._made_from(job)
            if (there := self._there_already(job, made_from)) is not None:
                return there
            facts = {"lposekit": __version__, "made_from": made_from}
            posed = self.poser.poses(job.path, job.name, source, lambda: self._models(estimator), self.times, facts)
        except Rejected as rejected:
            log.warning("%s: %s", job.name, rejected)
            return VideoOutcome(job.name, rejected.outcome, rejected.detail)
        return replace(self._write(job, posed), seconds=time.perf_counter() - start_s)

    def _write(self, job: PoseJob, posed: PosedVideo) -> VideoOutcome:
        path, num_frames = self._path(job, SUFFIX), posed.tracks.num_frames
        with self.times.stage("write"):
            try:
                write_tracks(path, posed.tracks)
            except TooManyPosesError as error:
                return VideoOutcome(job.name, Outcome.TOO_BIG, str(error), num_frames=num_frames)
            skeletons = self._write_skeletons(job, posed.tracks)
        return VideoOutcome(
            job.name,
            posed.outcome,
            poses=path,
            skeletons=skeletons,
            num_frames=num_frames,
            damaged_frames=posed.damaged,
            failed_frames=posed.failed,
            figures=posed.figures,
        )

    def _write_skeletons(self, job: PoseJob, tracks: PoseTracks) -> tuple[Path, ...]:
        if not self.settings.skeleton_video:
            return ()
        paths = []
        for style in self.settings.style:
            path, settings = self._path(job, f".{style}.mp4"), self.settings
            threshold = self.poser.known.keypoint_score_threshold
            write_skeleton_video(path, tracks, style, settings.draw, threshold, settings.crf)
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
        entries = detector_entry(self.settings.detector), pose_entry(self.settings.pose_model)
        reference = self.poser.reference
        return {
            "video_sha256": video_sha256,
            "settings": digest,
            "weights": [list(entry.weights.sha256) for entry in entries],
            "reference_sha256": None if reference is None else reference.sha256,
            "lposekit": __version__,
        }

    def _path(self, job: PoseJob, ending: str) -> Path:
        return self.output / f"{job.stem}{ending}"

    def _models(self, given: Estimator | None) -> Estimate:
        if self.loaded is None:
            self.loaded = given or load_models(self.settings)
        return self.loaded.estimate


def _sha256(path: Path) -> str:
    if not path.is_file():  # a pipe would wait for ever
        raise Rejected(Outcome.CORRUPT, "no regular file")
    return sha256_file(path)
