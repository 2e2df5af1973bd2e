"""`make laion-pose`: from a list of URLs and captions to shards of image, text and pose."""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lposekit import __version__
from lposekit.errors import UsageError
from lposekit.interrupts import Interrupts
from lposekit.keypoints import KeepRule
from lposekit.pose import stub
from lposekit.pose.zoo import detector_entry, pose_entry
from lposekit.settings import flatten_settings, settings_digest
from lposekit.shards.card import claim_folder, read_card, update_card
from lposekit.shards.layout import DatasetLayout, sum_counts
from lposekit.shards.pose_json import pose_card
from lposekit.versions import card_versions
from pipelines.build import run_job
from pipelines.fetch.settings import FREE_FETCH_SETTINGS
from pipelines.image.plan import ShardPlan, count_rows, input_fingerprint, iter_shards, list_warnings
from pipelines.image.pose_pool import PoseActor, PoseSpec, RayPoses
from pipelines.image.rows import ImageRules
from pipelines.image.settings import BuildImagesSettings
from pipelines.image.shard import ImageJob
from pipelines.image.stored import RetryPlan
from pipelines.image.worker import ShardWorker
from pipelines.job.build_report import BuildReport
from pipelines.job.cluster import Layout, connected, plan_layout
from pipelines.job.lock import owned_folder
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult, ShardRunner

logger = logging.getLogger(__name__)

FREE_SETTINGS = frozenset(
    {
        "input",
        "output",
        "workers",
        "weights_dir",
        "allow_private_addresses",
        "ray_address",
        "min_success",
        "shard_attempts",
        "network_failure_limit",
        "network_failure_window",
        "fetch.per_host_connections",
        "fetch.threads",
        "image.decode_memory_bytes",
        "image.decode_timeout_s",
        "image.decode_processes",
        "pose.actors",
        "pose.actors_per_gpu",
        "pose.attempts",
        *FREE_FETCH_SETTINGS,
    }
)
"""Settings that a run may change when it continues a folder: they do not decide what a row becomes."""

_PACKAGES = ("img2dataset", "simplejpeg", "pillow", "opencv-python-headless", "ray", "pyarrow", "webdataset")


Execute = Callable[[ImageJob, Iterator[ShardPlan | RetryPlan], BuildProgress, Interrupts], RunResult]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the zoo entries of pose model and detector say that a build needs before they are loaded."""

    keypoint_format: str
    keypoint_score_threshold: float
    box_score_threshold: float


def run(
    settings: BuildImagesSettings,
    *,
    quickstart: bool = False,
    dry_run: bool = False,
    execute: Execute | None = None,
) -> BuildReport:
    """Build, or continue, a LAION-Pose dataset folder.

    Args:
        settings: where ``input`` and ``output`` are named, except for the quickstart.
        quickstart: build the sample from photos that ship in a package, served by a server that this call starts.
        dry_run: say what would be done.
        execute: builds the shards; default: `execute_on_ray`.

    Raises:
        UsageError: the settings, the input or the folder cannot be used.
        LposekitError: the disk is full, weights are missing, ...
    """
    execute = execute or execute_on_ray
    if not quickstart:
        return _run(settings, frozenset(), execute, sample=False, dry_run=dry_run)
    from pipelines.quickstart.photos import served_list

    with served_list() as (list_path, host_and_port):
        settings = replace(settings, input=(str(list_path),))
        return _run(settings, frozenset({host_and_port}), execute, sample=True, dry_run=dry_run)


def known_model(settings: BuildImagesSettings) -> KnownModel:
    """What is known of the pose model before it is loaded.

    Raises:
        UsageError: no such detector or pose model.
    """
    if settings.pose_model == stub.NAME:
        return KnownModel(stub.KEYPOINT_FORMAT, stub.KEYPOINT_SCORE_THRESHOLD, stub.BOX_SCORE_THRESHOLD)
    detector, entry = detector_entry(settings.detector), pose_entry(settings.pose_model)
    return KnownModel(entry.keypoint_format, entry.keypoint_score_threshold, detector.box_score_threshold)


def keep_rule(settings: BuildImagesSettings, entry: KnownModel) -> KeepRule:
    """The rule for keeping a picture: what is not set comes from the models."""
    pose = settings.pose
    keypoint, box = pose.keypoint_score_threshold, pose.box_score_threshold
    return KeepRule(
        keypoint_score_threshold=entry.keypoint_score_threshold if keypoint is None else keypoint,
        min_detected=settings.min_detected,
        person_rule=settings.person_rule,
        box_score_threshold=entry.box_score_threshold if box is None else box,
        min_box_area_fraction=pose.min_box_area_fraction,
        min_box_side_px=pose.min_box_side_px,
    )


def image_rules(settings: BuildImagesSettings, keep: KeepRule, keypoint_format: str) -> ImageRules:
    """What is kept, what is stored, and what is written of both."""
    store_min = settings.store_min_detected
    store = keep if store_min is None else replace(keep, min_detected=store_min)
    return ImageRules(keep, store, pose_card(settings.pose_model, keypoint_format, keep), settings.image.jpeg_quality)


def _run(
    settings: BuildImagesSettings, allowed_local: frozenset[str], execute: Execute, *, sample: bool, dry_run: bool
) -> BuildReport:
    if settings.output is None or not settings.input:
        raise UsageError("name the list of URLs with --input and the dataset folder with --output")
    entry = known_model(settings)
    layout = DatasetLayout(settings.output)
    keep = keep_rule(settings, entry)
    warnings = list_warnings(settings) if not sample else []
    for warning in warnings:
        logger.warning(warning)
    card = _card(settings, entry, keep, warnings, sample)
    total_rows = count_rows(settings)
    if dry_run:
        return _dry_run(layout, settings, total_rows)
    with owned_folder(layout) as run_id:
        claim_folder(layout, card)
        rules = image_rules(settings, keep, entry.keypoint_format)
        job = ImageJob(layout.root.resolve(), run_id, settings, rules, allowed_local)
        return build(job, iter_shards(settings, skip=set(layout.committed_shards())), total_rows, execute)


def _card(
    settings: BuildImagesSettings, entry: KnownModel, keep: KeepRule, warnings: list[str], sample: bool
) -> dict[str, Any]:
    flat = flatten_settings(settings)
    return {
        "kind": "image",
        "sample": sample,
        "lposekit": __version__,
        "versions": card_versions(_PACKAGES),
        "settings": flat,
        "settings_digest": settings_digest(settings, excluded=FREE_SETTINGS),
        "fixed": {
            "settings": {name: value for name, value in flat.items() if name not in FREE_SETTINGS},
            # The sample's list names the port of its server, which another run may not get.
            "input": "sample" if sample else input_fingerprint(settings),
            "keep_rule": flatten_settings(keep),
        },
        "keep_rule": flatten_settings(keep),
        "keypoint_format": entry.keypoint_format,
        "warnings": warnings,
    }


def _dry_run(layout: DatasetLayout, settings: BuildImagesSettings, total_rows: int | None) -> BuildReport:
    done = layout.committed_shards()
    rows = f"{total_rows} rows" if total_rows is not None else "rows (their number is not known before reading)"
    notes = (
        f"would read {rows} from {', '.join(settings.input)}",
        f"would write shards of {settings.rows_per_shard} rows to {layout.root} ({len(done)} are committed already)",
        f"would use {settings.detector} and {settings.pose_model}",
    )
    outcomes = sum_counts(layout.read_stats(shard)["outcomes"] for shard in done)
    return BuildReport(layout.root, outcomes, 0, notes=notes, dry_run=True)


def build(
    job: ImageJob, plans: Iterator[ShardPlan | RetryPlan], total_rows: int | None, execute: Execute
) -> BuildReport:
    """Build the planned shards, then complete card and report. The folder is locked by the caller."""
    return run_job(
        DatasetLayout(job.root),
        plans,
        functools.partial(execute, job),
        total_rows=total_rows,
        min_success=job.settings.min_success,
    )


def execute_on_ray(
    job: ImageJob, plans: Iterator[ShardPlan | RetryPlan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    """Build shards on the Ray that the settings name, or on a local one."""
    with connected(job.settings.ray_address):
        return _execute(job, plans, progress, interrupts)


def _execute(
    job: ImageJob, plans: Iterator[ShardPlan | RetryPlan], progress: BuildProgress, interrupts: Interrupts
) -> RunResult:
    import ray

    processes = plan_layout(job.settings.workers, job.settings.pose)
    spec = pose_spec(job.settings, processes)
    actors = _pose_actors(processes, spec)
    worker_class = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(ShardWorker)
    numbers = itertools.count()

    def spawn() -> Any:
        return worker_class.remote(job, RayPoses(actors, spec, first=next(numbers)))

    workers = [spawn() for _ in range(processes.num_workers)]  # they start while the models load
    layout = DatasetLayout(job.root)
    models: dict[str, Any] = ray.get([actor.card.remote() for actor in actors])[0]
    _same_models(layout, models)
    update_card(layout, models=models)
    progress.ready()
    runner = ShardRunner(
        spawn,
        workers=workers,
        num_workers=processes.num_workers,
        attempts=job.settings.shard_attempts,
        on_report=progress.add,
        stop=interrupts.stop,
        drop=interrupts.drop,
    )
    try:
        return runner.run(plans)
    finally:
        for actor in actors:
            ray.kill(actor)


def pose_spec(settings: BuildImagesSettings, processes: Layout) -> PoseSpec:
    """The pose model of a run, on the device that the cluster's layout says."""
    precision = settings.pose.precision
    if precision == "auto":
        precision = "half" if processes.pose_device.startswith("cuda") else "float32"
    # Named here, not left to the environment: the actors may run on other machines and in bare children.
    named = settings.weights_dir or os.environ.get("LPOSEKIT_WEIGHTS")
    weights_dir = Path(named).resolve() if named else None
    return PoseSpec(
        settings.detector, settings.pose_model, weights_dir, processes.pose_device, precision, settings.pose
    )


def _pose_actors(processes: Layout, spec: PoseSpec) -> list[Any]:
    import ray

    actor_class = ray.remote(
        num_cpus=processes.pose_num_cpus, num_gpus=processes.pose_num_gpus, max_restarts=-1, max_task_retries=0
    )(PoseActor)
    return [actor_class.remote(spec) for _ in range(processes.num_pose_actors)]


def _same_models(layout: DatasetLayout, models: dict[str, Any]) -> None:
    """A folder goes on with the very weights that it was begun with."""
    before = read_card(layout).get("models")
    if before and before != models and layout.committed_shards():
        names = sorted(name for name in before.keys() | models.keys() if before.get(name) != models.get(name))
        raise UsageError(
            f"{layout.root} was built with other models ({', '.join(names)} differ). Name another --output, or put the "
            "same weights and package versions back."
        )
