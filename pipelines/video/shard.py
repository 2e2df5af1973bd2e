"""Build one video shard: fetch -> decode, cut, filter and encode in a killable child -> commit. Free of Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lposekit.errors import Outcome, Rejected
from lposekit.faults import fault_point
from lposekit.records import sample_key
from lposekit.shards.layout import DatasetLayout, sum_counts
from lposekit.shards.writer import ShardWriter
from pipelines.job.lock import work_folder, writer_lock
from pipelines.job.shard_report import ShardReport, commit_marker
from pipelines.sandbox.sandbox import Sandbox
from pipelines.video.clips.child import build_in_child
from pipelines.video.clips.records import VideoResult, VideoRow
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.rows import VideoRowResult, clip_members, video_row, video_rows_table
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.source import VideoSource
from pipelines.video.stored import StoredVideos


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """The videos of one shard, in the order of their keys."""

    shard: int
    rows: tuple[VideoRow, ...]
    redo: frozenset[Outcome] | None = None
    """Of a shard that is committed already: the outcomes to build again; every other video stays as it is."""


@dataclass(frozen=True, slots=True)
class VideoJob:
    """What all shards of a run share; plain values that travel to the workers."""

    root: Path
    run_id: str
    settings: BuildVideoSettings
    allowed_local: frozenset[str] = frozenset()


def clips_settings(settings: BuildVideoSettings) -> BuildClipsSettings:
    """What the clip builder needs of the build's settings."""
    return BuildClipsSettings(
        video=settings.video,
        shots=settings.shots,
        clips=settings.clips,
        filters=settings.filters,
        encode=settings.encode,
    )


def build_video_shard(plan: VideoPlan, job: VideoJob, source: VideoSource, sandbox: Sandbox) -> ShardReport:
    """Build and commit one shard; clips go to the tar as their video is done, so memory is that of one video's clips.

    Raises:
        LposekitError: the disk is full, or the folder belongs to a newer run.
    """
    layout = DatasetLayout(job.root)
    with writer_lock(layout, job.run_id):
        start = time.time()
        writer = ShardWriter(layout, plan.shard, job.run_id)
        try:
            kept = StoredVideos(layout, plan.shard) if plan.redo is not None else None
            results = []
            for i, row in enumerate(plan.rows):
                if kept is not None and plan.redo is not None and kept.outcome(i) not in plan.redo:
                    results.append(kept.carry_over(i, writer))
                else:
                    results.append(_build_video(plan.shard, i, row, job, source, sandbox, writer))
            fault_point("shard:before_commit")
            stats = _stats(results, start, time.time())
            writer.commit(video_rows_table(results), stats)
        except BaseException:
            writer.discard()
            raise
    return ShardReport(
        plan.shard,
        len(results),
        writer.num_samples,
        stats["outcomes"],
        timings_s={"total": time.time() - start},
        extra={"windows": stats["windows"], "dropped": stats["dropped"]},
    )


def _build_video(
    shard: int, position: int, row: VideoRow, job: VideoJob, source: VideoSource, sandbox: Sandbox, writer: ShardWriter
) -> VideoRowResult:
    """One video, from its source to its clips in the tar."""
    key, sha256 = sample_key(shard, position), None
    with work_folder(writer.layout, job.run_id, key) as work_dir:
        out_dir = work_dir / "clips"
        out_dir.mkdir()
        try:
            path = source.file(row, work_dir)
            sha256 = source.sha256(row, path)
            source.check_hash(row, path)
        except Rejected as rejected:
            return video_row(key, row, VideoResult(rejected.outcome, rejected.detail), sha256)
        result = _decode(path, row, job, sandbox, out_dir)
        for clip, members in clip_members(key, row, result, out_dir):
            writer.add(clip, members)
        return video_row(key, row, result, sha256)


def _decode(path: Path, row: VideoRow, job: VideoJob, sandbox: Sandbox, out_dir: Path) -> VideoResult:
    limits = job.settings.limits
    return build_in_child(
        sandbox,
        path,
        row,
        clips_settings(job.settings),
        out_dir,
        timeout_s=limits.timeout_s,
        heartbeat_timeout_s=limits.heartbeat_timeout_s,
    )


def _stats(results: Sequence[VideoRowResult], start: float, end: float) -> dict[str, Any]:
    """The commit marker: the rows' account, and that of the clip windows."""
    windows, clips = sum(r.num_windows for r in results), sum(r.num_clips for r in results)
    dropped = sum_counts(result.dropped for result in results)
    assert windows == clips + sum(dropped.values()), (windows, clips, dropped)
    account = {"windows": windows, "clips": clips, "dropped": dropped}
    return commit_marker([result.columns for result in results], start, end) | account
