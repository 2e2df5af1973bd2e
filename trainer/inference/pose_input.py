"""From what `--pose` names to skeleton images of the output's size.

A poses file, a sample of a dataset and a person video become `PoseTracks` and are drawn here, at the size and in the
style that the weights know. A skeleton video is checked and, where possible, converted.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.choose import select_persons
from lposekit.pose.tracks import MEMBER, PersonTrack, PoseTracks, decode_tracks, persons_at, read_tracks
from lposekit.shards.dataset import PoseDataset, open_dataset, read_members
from lposekit.shards.pose_json import read_pose
from lposekit.skeleton import draw_skeleton
from lposekit.skeleton_check import EXAMINED_FRAMES, check_skeletons, describe_fixes, looks_drawn
from lposekit.skeleton_styles import STYLES
from trainer.inference.fit import Fit
from trainer.inference.pose_video import PoseVideo, read_pose_video
from trainer.inference.settings import PoseInputSettings

log = logging.getLogger(__name__)

Frames = npt.NDArray[np.uint8]
Estimate = Callable[[Path], PoseTracks]
"""Poses of a video of persons."""

DEFAULT_SCORE_THRESHOLD = 0.3
TRACKS_SUFFIX, STILL_SUFFIX = ".poses.json", ".pose.json"
MAX_POSE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class PoseRequest:
    """What to read, and how the skeletons must look.

    count: frames to make; None: all, at most `most`. line_width: in pixels of the output; None: the style's.
    """

    source: str
    count: int | None
    most: int
    stride: int
    height: int
    width: int
    style: str
    line_width: float | None
    how: PoseInputSettings

    @property
    def fit(self) -> Fit:
        return Fit(self.height, self.width, self.how.resize)


def load_pose(request: PoseRequest, estimate: Estimate) -> Frames:
    """Skeleton images RGB uint8 [F, height, width, 3].

    Raises:
        UsageError: nothing there, no pose in it, too few frames, a skeleton that the weights do not understand.
        LposekitError: it is damaged.
    """
    tracks = stored_tracks(request.source)
    if tracks is not None:
        return draw_tracks(tracks, request)
    path = Path(request.source)
    if os.path.isdir(path):
        raise UsageError(f"--pose {path}: a folder. Name one sample of a dataset as {path}:KEY, or a file.")
    if path.suffix == ".json" and path.exists():
        raise UsageError(
            f"--pose {path}: neither {TRACKS_SUFFIX} nor {STILL_SUFFIX}. Pose files are named so by `lposekit`."
        )
    return load_video(path, request, estimate)


# --- stored keypoints ------------------------------------------------------------------------------------------------


def stored_tracks(source: str) -> PoseTracks | None:
    """The poses that a file or a sample of a dataset holds, a still pose as one frame; None for a video."""
    folder, colon, key = source.rpartition(":")
    if colon and os.path.isdir(folder):
        return sample_tracks(Path(folder), key)
    if source.endswith(TRACKS_SUFFIX):
        return read_tracks(Path(source))
    if source.endswith(STILL_SUFFIX):
        return still_tracks(read_bytes(Path(source)), source)
    return None


def sample_tracks(folder: Path, key: str) -> PoseTracks:
    """The pose of one sample of a dataset folder."""
    dataset = open_dataset(folder)
    for shard in dataset.shards:
        row = shard.row_of(key)
        if row is None:
            continue
        members = read_members(shard, row)
        if "pose.json" in members:
            return still_tracks(members["pose.json"], f"{folder}:{key}")
        if MEMBER in members:
            return decode_tracks(members[MEMBER], f"--pose {folder}:{key}")
        raise UsageError(
            f"--pose {folder}:{key}: the sample holds no pose. Estimate it with `lposekit pose --input {folder} "
            f"--output DIR`, and name DIR:{key}."
        )
    raise UsageError(
        f"--pose {folder}:{key}: there is no sample {key}; {len(dataset)} samples, such as {_some(dataset)}"
    )


def _some(dataset: PoseDataset) -> str:
    return dataset[0].key if len(dataset) else "none"


def read_bytes(path: Path) -> bytes:
    """The bytes of a pose file. Raises UsageError: it is not there, too large, or no file (a pipe, a device)."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"--pose {path}: no regular file. Name a pose file.")
        with path.open("rb") as stream:
            data = stream.read(MAX_POSE_BYTES + 1)
        if len(data) > MAX_POSE_BYTES:
            raise UsageError(f"--pose {path}: larger than {MAX_POSE_BYTES} bytes, which is no pose of one image.")
        return data
    except OSError as error:
        raise UsageError(f"--pose {path}: {error.strerror}. Name a pose file that exists.") from error


def still_tracks(pose_json: bytes, source: str) -> PoseTracks:
    """The persons of one image (`KEY.pose.json`) as poses of one frame."""
    try:
        pose = read_pose(pose_json)
        if not pose.width or not pose.height:
            raise ValueError("an image without a size")
    except ValueError as error:
        raise LposekitError(
            f"--pose {source}: not a pose file ({error}). Build the dataset again, or verify it."
        ) from error
    tracks = []
    for i, person in enumerate(pose.persons):
        left, top, right, bottom = person.bbox_xyxy.tolist()
        box_F5 = np.array([[left, top, right - left, bottom - top, person.bbox_score]], np.float32)
        tracks.append(PersonTrack(i, person.keypoints_K3[None], box_F5))
    info = {"keypoint_score_threshold": pose.keypoint_score_threshold}
    return PoseTracks(Fraction(1), pose.width, pose.height, 1, pose.keypoint_format.name, tuple(tracks), info)


def draw_tracks(tracks: PoseTracks, request: PoseRequest) -> Frames:
    """Skeletons of the chosen persons and frames; a still pose is held."""
    chosen = select_persons(tracks, request.how.person)
    if not chosen.persons:
        raise UsageError(f"--pose {request.source}: there is no person in it. Take another one.")
    points = KEYPOINT_FORMATS[tracks.keypoint_format]
    if points.num_keypoints not in STYLES[request.style].num_keypoints:
        raise UsageError(
            f"--pose {request.source}: its {points.num_keypoints} keypoints cannot be drawn in the style "
            f"{request.style} of these weights. Estimate it again, with a pose model of "
            f"{STYLES[request.style].num_keypoints[0]} keypoints."
        )
    indices = [0] * (request.count or 1) if tracks.num_frames == 1 else frame_indices(tracks.num_frames, request)
    drawn = [draw_frame(chosen, frame, request) for frame in indices]
    report_empty([not image.any() for image in drawn], request)
    return np.stack(drawn)


def draw_frame(tracks: PoseTracks, frame: int, request: PoseRequest) -> npt.NDArray[np.uint8]:
    """One skeleton image; black where nobody is."""
    threshold = request.how.score_threshold
    return draw_skeleton(
        request.fit.keypoints(persons_at(tracks, frame), tracks.height, tracks.width),
        request.height,
        request.width,
        style=request.style,
        score_threshold=pose_threshold(tracks) if threshold is None else threshold,
        line_width=request.line_width,
    )


def pose_threshold(tracks: PoseTracks) -> float:
    """The raw score from which a keypoint counts as detected: what the poses say, else a usual one."""
    stated = tracks.info.get("keypoint_score_threshold")
    return float(stated) if isinstance(stated, int | float) else DEFAULT_SCORE_THRESHOLD


# --- videos ----------------------------------------------------------------------------------------------------------


def load_video(path: Path, request: PoseRequest, estimate: Estimate) -> Frames:
    """Frames of a skeleton video; a video of persons goes to `estimate` first."""
    fit = request.fit
    video = read_pose_video(path, request.count or request.most, request.stride, fit.image, EXAMINED_FRAMES)
    kind = request.how.kind
    if kind == "auto":
        kind = "skeleton" if looks_drawn(video.looked_FHWC) else "person"
        log.info("--pose %s: taken for a video of %ss (--skeleton.kind says otherwise)", path, kind)
    if kind == "person":
        return draw_tracks(estimate(path), request)
    refuse_short(video, request)
    frames = np.stack(video.frames)
    try:
        check = check_skeletons(video.looked_FHWC, request.style)
    except UsageError as error:
        if request.how.check == "refuse":
            raise UsageError(
                f"--pose {path}: {error} (`--skeleton.kind person`: it is a video of persons. `--skeleton.check warn`: "
                "go on all the same.)"
            ) from error
        log.warning("--pose %s: %s", path, error)
        return frames
    if check.fixes:
        log.warning("--pose %s: converted: %s", path, describe_fixes(check.fixes))
    frames = check.convert(frames)
    report_empty([image.max() < 128 for image in frames], request)
    return frames


def refuse_short(video: PoseVideo, request: PoseRequest) -> None:
    """Raises if a video ended before the frames that were asked for; a still image is held."""
    found = len(video.frames)
    if video.damage is not None:
        raise LposekitError(
            f"--pose {request.source}: damaged behind frame {video.num_frames} ({video.damage}). Repair it, or take "
            f"fewer frames: --frames {found}."
        )
    if request.count is not None and found < request.count:
        assert video.num_frames is not None
        if video.num_frames == 1:
            video.frames.extend([video.frames[0]] * (request.count - 1))
        else:
            frame_indices(video.num_frames, request)


def frame_indices(num_frames: int, request: PoseRequest) -> list[int]:
    """Frames 0, stride, 2 stride, ... of a pose.

    Raises:
        UsageError: it is too short for the frames that were asked for; says what would fit.
    """
    indices = list(range(0, num_frames, request.stride))
    if request.count is None:
        return indices[: request.most]
    if len(indices) < request.count:
        needed = (request.count - 1) * request.stride + 1
        fits = (num_frames - 1) // (request.count - 1) if request.count > 1 else 1
        fixes = [f"--stride {fits}"] if fits else []
        raise UsageError(
            f"--pose {request.source}: {num_frames} frames, but {request.count} frames at stride {request.stride} need "
            f"{needed}. Take {' or '.join([*fixes, f'--frames {len(indices)}'])}."
        )
    return indices[: request.count]


def report_empty(empty: Sequence[bool | np.bool_], request: PoseRequest) -> None:
    """Says how many frames have no skeleton. Raises UsageError if none has one."""
    if all(empty):
        raise UsageError(
            f"--pose {request.source}: no used frame shows a skeleton in the middle, which is cropped to the clip's "
            "shape. Take another pose or person, other frames, or --width and --height of the pose's own shape."
        )
    if any(empty):
        log.warning("--pose %s: %d of %d frames have no skeleton", request.source, sum(map(bool, empty)), len(empty))
