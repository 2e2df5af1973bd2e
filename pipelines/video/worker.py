"""Builds video shards: one opener, one killable child, used for many shards."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from lposekit.recipe import Claim, ShardReport
from lposekit.sandbox.sandbox import Sandbox
from lposekit.shards.layout import DatasetLayout
from lposekit.stage_times import StageTimes
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.polite import polite_opener
from pipelines.fetch.removals import read_removals
from pipelines.fetch.settings import FetchSettings, TransportSettings
from pipelines.fetch.urls import parse_web_url
from pipelines.job.shard import write_shard
from pipelines.video.clips.child import TARGET
from pipelines.video.platforms import fetch_platform_video, is_platform_url
from pipelines.video.rows import VIDEO_SHARDS
from pipelines.video.settings import BuildVideoSettings, clips_settings
from pipelines.video.shard import VideoPlan, VideoStages, video_rows
from pipelines.video.source import VideoSource


class VideoWorker:
    """Builds one shard after the other."""

    def __init__(self, claim: Claim, settings: BuildVideoSettings) -> None:
        self._claim = claim
        self._fetch_settings = settings.fetch
        self._blocklist = Blocklist.from_files(settings.fetch.blocklist)
        self._opener = polite_opener(
            opener_settings(settings.fetch),
            blocklist=self._blocklist,
            allow_private_addresses=settings.allow_private_addresses,
        )
        self._stages = VideoStages(
            VideoSource(self._fetch, self._blocklist, settings.fetch.verify_hash),
            Sandbox(TARGET, memory_limit_bytes=settings.limits.memory_bytes),
            clips_settings(settings),
            settings.limits,
            read_removals(DatasetLayout(claim.root)),
        )

    def build(self, plan: VideoPlan) -> ShardReport:
        """Build and commit one shard; clips go to the tar as their video is done.

        Raises:
            LposekitError: the disk is full, or the folder belongs to a newer run.
        """
        times = StageTimes()
        return write_shard(
            self._claim, plan.shard, video_rows(plan, self._claim, self._stages, times), VIDEO_SHARDS, times
        )

    def _fetch(self, url: str, path: Path) -> None:
        fetch = self._fetch_settings
        if is_platform_url(url):
            page = parse_web_url(url)
            self._blocklist.check_url(page)
            deadline = Deadline.start(fetch.total_timeout_s, fetch.idle_timeout_s)
            with self._opener.transport.watched(page.host, deadline):
                fetch_platform_video(url, path, max_bytes=fetch.max_body_bytes, timeout_s=fetch.total_timeout_s)
            return
        with path.open("wb") as stream:
            self._opener.fetch(url, into=stream)


def opener_settings(settings: TransportSettings) -> FetchSettings:
    """The settings of the opener of one worker, which fetches one video at a time."""
    shared = {each.name: getattr(settings, each.name) for each in fields(TransportSettings)}
    return FetchSettings(**shared, threads=1)
