"""`lposekit retry`: fetch rows of a finished dataset again, and put what comes back into their shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lposekit.errors import NETWORK_OUTCOMES, Outcome, UsageError
from lposekit.keypoints import KeepRule
from lposekit.settings import stored_settings
from lposekit.shards.card import read_card
from lposekit.shards.layout import DatasetLayout, sum_counts
from pipelines.image.plan import ShardPlan
from pipelines.image.recipe import Execute, build, execute_on_ray, image_rules
from pipelines.image.settings import BuildImagesSettings
from pipelines.image.shard import ImageJob
from pipelines.image.stored import RetryPlan
from pipelines.job.build_report import BuildReport
from pipelines.job.lock import owned_folder
from pipelines.video import recipe as video_shards

RETRIED_BY_DEFAULT = frozenset({*NETWORK_OUTCOMES, Outcome.WORKER_CRASH, Outcome.POSE_FAILED})


def run(
    dataset: Path,
    only: Collection[str] = (),
    *,
    allow_private_addresses: bool = False,
    workers: int | None = None,
    ray_address: str | None = None,
    weights_dir: Path | None = None,
    limits: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    execute: Execute | None = None,
) -> BuildReport:
    """Fetch the rows with certain outcomes again, in place; every other row of their shards stays as it is.

    Of a video dataset the videos with these outcomes are built again; its manifests must still be where they were.

    Rows that the pose model saw before (``few_keypoints``, ``no_person``) are fetched by URL and sha256 and judged on
    their stored poses by the folder's keep rule, without running a model.

    Args:
        only: outcomes to retry; default: failures of the network and crashes.
        limits: of a video dataset, fields of `DecodeLimits` in place of those that it was built with.
        execute: builds the shards; default: on Ray.

    Raises:
        UsageError: an unknown outcome, or limits where there are no videos.
    """
    layout = DatasetLayout(dataset)
    card = read_card(layout)
    outcomes = _outcomes(only)
    if dry_run:
        return _dry_run(layout, outcomes)
    if card["kind"] == "video":
        return video_shards.rebuild(
            layout,
            card,
            outcomes,
            allow_private_addresses=allow_private_addresses,
            workers=workers,
            ray_address=ray_address,
            limits=limits,
            execute=None,
        )
    if limits:
        raise UsageError(f"{dataset} holds pictures: --limits are those of videos.")
    changes = {
        "output": dataset,
        "workers": workers,
        "ray_address": ray_address,
        "weights_dir": weights_dir,
        "allow_private_addresses": allow_private_addresses,
        "network_failure_limit": None,
    }
    settings = replace(stored_settings(BuildImagesSettings, card["settings"], "dataset card"), **changes)
    if not card.get("sample"):
        return _run(layout, card, settings, outcomes, frozenset(), execute or execute_on_ray)
    from pipelines.quickstart.photos import served_list

    with served_list() as (_, host_and_port):
        return _run(layout, card, settings, outcomes, frozenset({host_and_port}), execute or execute_on_ray)


def _outcomes(only: Collection[str]) -> frozenset[Outcome]:
    if not only:
        return RETRIED_BY_DEFAULT
    unknown = sorted(set(only) - {outcome.value for outcome in Outcome} - {"kept"})
    if unknown or "kept" in only:
        wrong = ", ".join(unknown or ["kept"])
        raise UsageError(f"--only {wrong}: no such outcome to retry. Known: {', '.join(Outcome)}.")
    return frozenset(Outcome(name) for name in only)


def _dry_run(layout: DatasetLayout, outcomes: frozenset[Outcome]) -> BuildReport:
    counts = sum_counts(layout.read_stats(shard)["outcomes"] for shard in layout.committed_shards())
    number = sum(counts.get(outcome.value, 0) for outcome in outcomes)
    return BuildReport(layout.root, counts, 0, notes=(f"would fetch {number} rows again",), dry_run=True)


def _run(
    layout: DatasetLayout,
    card: dict[str, Any],
    settings: BuildImagesSettings,
    outcomes: frozenset[Outcome],
    allowed_local: frozenset[str],
    execute: Execute,
) -> BuildReport:
    rules = image_rules(settings, KeepRule(**card["keep_rule"]), card["keypoint_format"])
    with owned_folder(layout) as run_id:
        job = ImageJob(layout.root.resolve(), run_id, settings, rules, allowed_local)
        return build(job, _plans(layout, outcomes), None, execute)


def _plans(layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[ShardPlan | RetryPlan]:
    for shard in layout.committed_shards():
        found = layout.read_stats(shard)["outcomes"]
        if any(outcome.value in found for outcome in outcomes):
            yield RetryPlan(shard, outcomes)
