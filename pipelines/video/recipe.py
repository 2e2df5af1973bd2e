"""`lposekit build-video-shards`: from videos to shards of short captioned clips."""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lposekit import __version__
from lposekit.errors import Outcome, UsageError
from lposekit.interrupts import Interrupts
from lposekit.settings import flatten_settings, settings_digest, stored_settings
from lposekit.shards.card import claim_folder, differing_fields
from lposekit.shards.layout import DatasetLayout, sum_counts
from lposekit.versions import card_versions, installed_versions
from pipelines.build import run_job
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.settings import FREE_FETCH_SETTINGS, FetchSettings, TransportSettings
from pipelines.fetch.urls import parse_web_url
from pipelines.job.build_report import BuildReport
from pipelines.job.cluster import connected
from pipelines.job.lock import owned_folder
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult, ShardRunner
from pipelines.job.shard_report import ShardReport
from pipelines.video.clips.settings import settings_problem
from pipelines.video.platforms import fetch_platform_video, is_platform_url
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.shard import VideoJob, VideoPlan, build_video_shard, clips_settings
from pipelines.video.source import VideoSource

logger = logging.getLogger(__name__)

FREE_SETTINGS = frozenset(
    {
        "input",
        "output",
        "captions",  # their content counts, as the input's: see `input_fingerprint`
        "video_root",
        "workers",
        "allow_private_addresses",
        "ray_address",
        "min_success",
        "shard_attempts",
        "limits.timeout_s",
        "limits.heartbeat_timeout_s",
        "limits.memory_bytes",
        *FREE_FETCH_SETTINGS,
    }
)
"""Settings that a run may change when it continues a folder: they do not decide what a video becomes."""


_ENCODERS = ("av", "decord2", "scenedetect-headless", "opencv-python-headless")
"""Packages whose versions decide the bytes of clips: other ones do not continue a folder."""


class VideoWorker:
    """A Ray actor that builds video shards: one opener, one killable child."""

    def __init__(self, job: VideoJob) -> None:
        from pipelines.fetch.polite import polite_opener
        from pipelines.sandbox.sandbox import Sandbox
        from pipelines.video.clips.child import TARGET

        self._job = job
        self._blocklist = Blocklist.from_files(job.settings.fetch.blocklist)
        self._opener = polite_opener(
            opener_settings(job.settings.fetch),
            blocklist=self._blocklist,
            allow_private_addresses=job.settings.allow_private_addresses,
            allowed_local=job.allowed_local,
        )
        self._sandbox = Sandbox(TARGET, memory_limit_bytes=job.settings.limits.memory_bytes)

    def build(self, plan: VideoPlan) -> ShardReport:
        """Build and commit one shard."""
        source = VideoSource(self._fetch, self._blocklist, self._job.settings.fetch.verify_hash)
        return build_video_shard(plan, self._job, source, self._sandbox)

    def _fetch(self, url: str, path: Path) -> None:
        fetch = self._job.settings.fetch
        if is_platform_url(url):
            self._blocklist.check_url(parse_web_url(url))
            fetch_platform_video(url, path, max_bytes=fetch.max_body_bytes, timeout_s=fetch.total_timeout_s)
            return
        with path.open("wb") as stream:
            self._opener.fetch(url, into=stream)


def opener_settings(settings: TransportSettings) -> FetchSettings:
    """The settings of the opener of one worker, which fetches one video at a time."""
    shared = {each.name: getattr(settings, each.name) for each in fields(TransportSettings)}
    return FetchSettings(**shared, threads=1)


Execute = Callable[[VideoJob, Iterator[VideoPlan], BuildProgress, Interrupts], RunResult]


def run(
    settings: BuildVideoSettings,
    *,
    quickstart: bool = False,
    dry_run: bool = False,
    execute: Execute | None = None,
) -> BuildReport:
    """Build, or continue, a dataset folder of clips.

    Args:
        settings: where ``input`` and ``output`` are named, except for the quickstart's input.
        quickstart: build the sample from videos that this call makes.
        dry_run: say what would be done.
        execute: builds the shards; default: `execute_on_ray`.

    Raises:
        UsageError: the settings, the input or the folder cannot be used.
        LposekitError: the disk is full, ...
    """
    if not quickstart:
        return _run(settings, execute or execute_on_ray, sample=False, dry_run=dry_run)
    if settings.output is None:
        raise UsageError("name the dataset folder with --output")
    from pipelines.quickstart.videos import write_sample_videos

    with contextlib.ExitStack() as stack:
        beside = settings.output.parent
        if dry_run:
            beside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lposekit-")))
        folder = write_sample_videos(beside / "sample-videos")
        settings = replace(settings, input=(str(folder),))
        return _run(settings, execute or execute_on_ray, sample=True, dry_run=dry_run)


def _run(settings: BuildVideoSettings, execute: Execute, *, sample: bool, dry_run: bool) -> BuildReport:
    from pipelines.video.plan import iter_plans

    if settings.output is None or not settings.input:
        raise UsageError("name the videos with --input and the dataset folder with --output")
    problem = settings_problem(clips_settings(settings))
    if problem:
        raise UsageError(problem)
    Blocklist.from_files(settings.fetch.blocklist)  # workers read it again: here its faults are still the user's to see
    layout = DatasetLayout(settings.output)
    if dry_run:
        return _dry_run(layout, settings)
    card = _card(settings, sample)
    with owned_folder(layout) as run_id:
        claim_folder(layout, card)
        job = VideoJob(layout.root.resolve(), run_id, settings)
        return run_job(
            layout,
            iter_plans(settings, skip=set(layout.committed_shards())),
            functools.partial(execute, job),
            total_rows=None,
            min_success=settings.min_success,
        )


def _card(settings: BuildVideoSettings, sample: bool) -> dict[str, Any]:
    from pipelines.video.plan import input_fingerprint

    flat = flatten_settings(settings)
    return {
        "kind": "video",
        "sample": sample,
        "lposekit": __version__,
        "versions": card_versions(_ENCODERS),
        "settings": flat,
        "settings_digest": settings_digest(settings, excluded=FREE_SETTINGS),
        "fixed": {
            "settings": {name: value for name, value in flat.items() if name not in FREE_SETTINGS},
            "input": input_fingerprint(settings),
            "versions": installed_versions(_ENCODERS),
        },
        "warnings": [],
    }


def _dry_run(layout: DatasetLayout, settings: BuildVideoSettings) -> BuildReport:
    from pipelines.video.plan import iter_plans

    done = layout.committed_shards()
    shards = rows = 0
    for plan in iter_plans(settings, skip=set(done)):
        shards, rows = shards + 1, rows + len(plan.rows)
    notes = (f"would build {rows} videos in {shards} shards into {layout.root} ({len(done)} are committed already)",)
    outcomes = sum_counts(layout.read_stats(shard)["outcomes"] for shard in done)
    return BuildReport(layout.root, outcomes, 0, notes=notes, dry_run=True)


def rebuild(
    layout: DatasetLayout,
    card: Mapping[str, Any],
    outcomes: frozenset[Outcome],
    *,
    allow_private_addresses: bool,
    workers: int | None,
    ray_address: str | None,
    limits: Mapping[str, Any] | None = None,
    execute: Execute | None = None,
) -> BuildReport:
    """Build the videos of a finished folder that ended in certain outcomes again, in place (see `pipelines.retry`).

    Args:
        limits: fields of `DecodeLimits` that differ from those the folder was built with.

    Raises:
        UsageError: the manifests, or the versions of the encoders, changed since the folder was built.
    """
    from pipelines.video.plan import input_fingerprint, iter_plans

    stored = stored_settings(BuildVideoSettings, card["settings"], "dataset card")
    settings = replace(
        stored,
        output=layout.root,
        limits=replace(stored.limits, **(limits or {})),
        allow_private_addresses=allow_private_addresses,
        workers=workers,
        ray_address=ray_address,
    )
    if input_fingerprint(settings) != card["fixed"]["input"]:
        raise UsageError(
            f"the input of {layout.root} ({', '.join(settings.input)}) changed since the folder was built."
        )
    other = differing_fields(card["fixed"]["versions"], installed_versions(_ENCODERS))
    if other:
        raise UsageError(f"{layout.root} was built with other versions: {', '.join(other)}. Install those to retry.")
    with owned_folder(layout) as run_id:
        stats = {shard: layout.read_stats(shard)["outcomes"] for shard in layout.committed_shards()}
        affected = {shard for shard, found in stats.items() if any(outcome.value in found for outcome in outcomes)}
        plans = (replace(plan, redo=outcomes) for plan in iter_plans(settings) if plan.shard in affected)
        job = VideoJob(layout.root.resolve(), run_id, settings)
        return run_job(
            layout, plans, functools.partial(execute or execute_on_ray, job), total_rows=None, min_success=None
        )


def execute_on_ray(
    job: VideoJob, plans: Iterator[VideoPlan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    """Build shards on the Ray that the settings name, or on a local one."""
    import ray

    with connected(job.settings.ray_address):
        worker_class = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(VideoWorker)
        progress.ready()
        return ShardRunner(
            lambda: worker_class.remote(job),
            num_workers=job.settings.workers or max(1, int(ray.cluster_resources().get("CPU", 1))),
            attempts=job.settings.shard_attempts,
            on_report=progress.add,
            stop=interrupts.stop,
            drop=interrupts.drop,
        ).run(plans)
