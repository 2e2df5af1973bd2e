"""The poses of one shard of clips: clip out of the tar -> poses -> row and sample of the same key. Free of Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from lposekit.errors import LposekitError, Outcome, Rejected
from lposekit.pose.tracks import MEMBER, TooManyPosesError, encode_tracks
from lposekit.recipe import Claim, ShardReport
from lposekit.records import Columns
from lposekit.shards.dataset import read_members
from lposekit.shards.files import disk_error
from lposekit.shards.index import ShardIndex, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import LIST_COLUMNS, RowResult, ShardKind
from lposekit.stage_times import StageTimes
from lposekit.store_reads import sha256_of
from pipelines.fetch.removals import read_removals, refuse_removed, traits
from pipelines.job.lock import work_folder, worker_folder
from pipelines.job.rows import row_columns
from pipelines.job.shard import write_shard
from pipelines.job.stored import read_stored_shard
from pipelines.pose.pool import PoseClient, estimated
from pipelines.video.poses.estimate import Estimate
from pipelines.video.poses.frames import FrameSource
from pipelines.video.poses.poser import PosedVideo, VideoPoser
from pipelines.video.rows import OWN_COLUMNS as VIDEO_COLUMNS

OWN_COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "status": pa.string(),
    "error_message": pa.string(),
    "outcome": pa.string(),
    "sha256": pa.string(),
    "video_key": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "fps": pa.float64(),
    "num_frames": pa.int64(),
    "damaged_frames": pa.int64(),
    "failed_frames": pa.int64(),
    "num_persons": pa.int32(),
    "coverage": pa.float64(),
    "coverage_filled": pa.float64(),
    "jitter": pa.float64(),
    "jitter_smoothed": pa.float64(),
    "shift": pa.float64(),
}
POSE_SHARDS = ShardKind(OWN_COLUMNS)


@dataclass(frozen=True, slots=True)
class PosesPlan:
    """One shard of clips. `tar_sha256`: of its tar, hexadecimal; every other one is refused."""

    shard: int
    tar_sha256: str
    redo: frozenset[Outcome] | None = None
    """Of a shard that is committed already: the outcomes to find again; every other clip stays as it is."""


class PosesWorker:
    """Finds the poses of one shard of clips after the other.

    Args:
        claim: the folder of the poses.
        clips: the folder of the clips.
        client: the pose models, usually a pool of actors.
    """

    def __init__(self, claim: Claim, clips: DatasetLayout, poser: VideoPoser, client: PoseClient) -> None:
        self._claim = claim
        self._clips = clips
        self._poser = poser
        self._client = client
        self._frames = FrameSource(poser.settings.limits, worker_folder(DatasetLayout(claim.root), claim.run_id))
        self._removals = read_removals(DatasetLayout(claim.root))

    def build(self, plan: PosesPlan) -> ShardReport:
        """Find and commit the poses of one shard.

        Raises:
            LposekitError: the clips are damaged or changed, the disk is full, or the folder belongs to a newer run.
        """
        times = StageTimes()
        stats = {"source_sha256": plan.tar_sha256}
        return write_shard(self._claim, plan.shard, self._rows(plan, times), POSE_SHARDS, times, stats=stats)

    def _rows(self, plan: PosesPlan, times: StageTimes) -> Generator[RowResult, None, None]:
        """What each clip leaves behind, in the order of the tar."""
        layout = DatasetLayout(self._claim.root)
        index = _read_index(self._clips, plan)
        videos = _videos_by_clip(self._clips, plan.shard)
        stored = read_stored_shard(layout, plan.shard) if plan.redo is not None else None
        for position, key in enumerate(index.keys.tolist()):
            if stored is not None and plan.redo is not None and stored.outcome(position) not in plan.redo:
                yield stored.result(position)
                continue
            with times.stage("read"):
                members = read_members(index, position)
            with work_folder(layout, self._claim.run_id, key) as folder:
                yield self._clip(key, members, videos[key], folder, times)

    def _clip(
        self, key: str, members: Mapping[str, bytes], video: Columns, folder: Path, times: StageTimes
    ) -> RowResult:
        def models() -> Estimate:
            return lambda images, stages: estimated(self._client, images, stages)

        path = folder / f"{key}.mp4"
        try:
            names = traits(video["url"], [_clip_sha256(members)], [key, video["key"]])
            refuse_removed(self._removals, names)
            _write_clip(path, members)
            with times.waiting("frames", key):
                posed = self._poser.poses(path, key, self._frames, models, times)
            with times.stage("encode"):
                sample = encode_tracks(posed.tracks, key)
        except Rejected as rejected:
            return _row(key, members, video, rejected.outcome, rejected.detail)
        except TooManyPosesError as error:
            return _row(key, members, video, Outcome.TOO_BIG, str(error))
        return _row(key, members, video, posed.outcome, "nobody in any frame", posed, sample)


def _read_index(clips: DatasetLayout, plan: PosesPlan) -> ShardIndex:
    """The index of a shard whose tar is the one that was committed. Raises LposekitError: it is not."""
    index = read_shard_index(clips, plan.shard)
    try:
        found = sha256_of(index.store, index.tar_name)
    except OSError as error:
        raise LposekitError(f"{index.tar_path}: cannot be read: {error.strerror}. Restore it from a copy.") from error
    if found != plan.tar_sha256:
        raise LposekitError(
            f"{index.tar_path}: its bytes are not those of its commit. Run `lposekit verify {clips.root}`, and build "
            "or restore the shard before its poses are found."
        )
    return index


def _videos_by_clip(clips: DatasetLayout, shard: int) -> dict[str, Columns]:
    """The row of its video, for each clip of a shard."""
    rows = read_stored_shard(clips, shard).columns
    return {key: row for row in rows for key in row["clip_keys"] or ()}


def _write_clip(path: Path, members: Mapping[str, bytes]) -> None:
    """Raises Rejected: the sample holds no mp4; LposekitError: the disk is full."""
    if "mp4" not in members:
        raise Rejected(Outcome.NO_VIDEO_STREAM, "the sample has no mp4")
    try:
        path.write_bytes(members["mp4"])
    except OSError as error:
        raise disk_error(error, path, len(members["mp4"])) from error


def _row(
    key: str,
    members: Mapping[str, bytes],
    video: Columns,
    outcome: Outcome,
    detail: str,
    posed: PosedVideo | None = None,
    sample: bytes | None = None,
) -> RowResult:
    """The row of a clip: what the list said of its video, then ours. `sample`: of a clip that has poses to store."""
    columns = row_columns(
        OWN_COLUMNS,
        key=key,
        url=video["url"],
        caption=members.get("txt", b"").decode("utf-8", "replace"),
        extra={name: value for name, value in video.items() if name not in (*VIDEO_COLUMNS, *LIST_COLUMNS)},
        outcome=outcome,
        detail=detail,
        stored=sample is not None,
    )
    if outcome is not Outcome.REMOVED:
        columns |= {"sha256": _clip_sha256(members), "video_key": video["key"]}
    if posed is not None:
        columns |= _figures(posed)
    return RowResult(key, outcome, columns, () if sample is None else ((key, {MEMBER: sample}),))


def _clip_sha256(members: Mapping[str, bytes]) -> str:
    return hashlib.sha256(members.get("mp4", b"")).hexdigest()


def _figures(posed: PosedVideo) -> dict[str, object]:
    tracks, figures = posed.tracks, asdict(posed.figures)
    return {
        "width": tracks.width,
        "height": tracks.height,
        "fps": float(tracks.fps),
        "num_frames": tracks.num_frames,
        "damaged_frames": posed.damaged,
        "failed_frames": posed.failed,
        "num_persons": figures.pop("persons"),
        **figures,
    }
