"""The rows of one video shard: fetch -> hash -> decode, cut, filter and encode in a killable child. Free of Ray."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import Outcome, Rejected
from lposekit.recipe import Claim
from lposekit.records import sample_key
from lposekit.sandbox.sandbox import Sandbox
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult
from lposekit.stage_times import StageTimes
from pipelines.fetch.removals import Removals, refuse_removed, traits
from pipelines.fetch.urls import parse_web_url
from pipelines.job.lock import work_folder
from pipelines.job.stored import read_stored_shard
from pipelines.video.clips.child import build_in_child
from pipelines.video.clips.records import VideoResult, VideoRow
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.rows import clip_members, video_row, without_clips
from pipelines.video.settings import DecodeLimits
from pipelines.video.source import VideoSource


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """The videos of one shard, in the order of their keys."""

    shard: int
    rows: tuple[VideoRow, ...]
    redo: frozenset[Outcome] | None = None
    """Of a shard that is committed already: the outcomes to build again; every other video stays as it is."""


@dataclass(frozen=True, slots=True)
class VideoStages:
    """What a worker has loaded for its shards, and the settings of their rows."""

    source: VideoSource
    sandbox: Sandbox
    clips: BuildClipsSettings
    limits: DecodeLimits
    removals: Removals


def video_rows(
    plan: VideoPlan, claim: Claim, stages: VideoStages, times: StageTimes
) -> Generator[RowResult, None, None]:
    """What each video of a shard leaves behind, in row order; a video's clips lie in a folder until it is written.

    Raises:
        LposekitError: the disk is full.
    """
    layout = DatasetLayout(claim.root)
    stored = read_stored_shard(layout, plan.shard) if plan.redo is not None else None
    for position, row in enumerate(plan.rows):
        if stored is not None and plan.redo is not None and stored.outcome(position) not in plan.redo:
            yield stored.result(position)
            continue
        key = sample_key(plan.shard, position)
        with work_folder(layout, claim.run_id, key) as work_dir:
            yield without_clips(_build_video(key, row, work_dir, stages, times), stages.removals.keys)


def _build_video(key: str, row: VideoRow, work_dir: Path, stages: VideoStages, times: StageTimes) -> RowResult:
    """One video, from its source to its clips in `work_dir`."""
    out_dir, sha256, name = work_dir / "clips", None, f"{key} {_told(row)}"
    out_dir.mkdir()
    try:
        refuse_removed(stages.removals, traits(row.source, keys=[key]))
        with times.stage("fetch", name):
            path = stages.source.file(row, work_dir)
        with times.stage("hash", name):
            sha256 = stages.source.sha256(row, path)
            refuse_removed(stages.removals, traits(sha256=[sha256]))
            stages.source.check_hash(row, path)
    except Rejected as rejected:
        return video_row(key, row, VideoResult(rejected.outcome, rejected.detail), sha256)
    start = time.perf_counter()
    with times.waiting("decode", name):
        result = build_in_child(
            stages.sandbox,
            path,
            row,
            stages.clips,
            out_dir,
            timeout_s=stages.limits.timeout_s,
            heartbeat_timeout_s=stages.limits.heartbeat_timeout_s,
            on_beat=times.beat,
            work_root=work_dir.parent,
        )
    times.add_all(result.timings_s)
    # the child's start, and what a child that died had done
    times.add("decode", max(0.0, time.perf_counter() - start - sum(result.timings_s.values())))
    return video_row(key, row, result, sha256, clip_members(key, row, result, out_dir))


def _told(row: VideoRow) -> str:
    """The row in the words of a log: the host of an address, without what its query holds, or the file's name."""
    if row.path is None and row.url is not None:
        try:
            return parse_web_url(row.url).host
        except Rejected:
            return "an address that is none"
    return " ".join(Path(row.listed_path or row.name).name.split())
